#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "common/parallel.h"
#include "common/scratch.h"
#include "onehot/labels/bad_label.h"
#include "onehot/class_overlap/describe.h"

#define TORCHEXT_LOOPS "onehot/class_overlap/loops.h"
#include "common/each_isa.h"

namespace torchext {

static const auto overlap_loop = TORCHEXT_BEST(overlap);
static const auto overlap_backward_loop = TORCHEXT_BEST(overlap_backward);

// Sums are computed over blocks of positions, which depend on the shape alone and are added up in order. So the result
// has the same bits for any number of threads.
constexpr int64_t kPositions = 2048;
constexpr int64_t kFewestPositions = 64;
// Entries of a block whose classes are all used at the same time, so that they stay in the second-level cache.
constexpr int64_t kEntries = 16384;

static void choose_block(OverlapTask& task) {
  const ClassPlanes& planes = task.score_planes;
  const bool classes_last = planes.inner_axes.count > 0 && planes.inner_axes[planes.inner_axes.count - 1].stride > 1;
  task.block = kPositions;
  if (task.activation == Activation::kSoftmax || classes_last)
    task.block = std::clamp(kEntries / std::max<int64_t>(1, task.classes) / kFewestPositions * kFewestPositions,
                            kFewestPositions, kPositions);
  constexpr int64_t kAligned = 16;  // labels of 4 bytes come before numbers of 8 bytes in the scratch
  task.block = std::clamp<int64_t>((task.inner + kAligned - 1) / kAligned * kAligned, kAligned, task.block);
}

template <class Body>
static void run(const OverlapTask& task, const Body& body) {
  const int64_t rows = 3 + (task.activation == Activation::kSoftmax ? task.classes : 0);
  const int64_t scratch_bytes = rows * task.block * compute_size(task.type);
  const int64_t positions = std::min(task.inner, task.block);
  parallel(task.outer * blocks_of(task), positions * task.classes * compute_size(task.type),
           [&](int64_t begin, int64_t end) {
             const auto memory = scratch<char>("class_overlap", scratch_bytes);
             body(task, begin, end, memory.get());
           });
}

// Adds up the sums of a sample's blocks.
template <class S>
static void add_up(const OverlapTask& task, const S* block_sums, S* sums) {
  const int64_t classes = task.classes, blocks = blocks_of(task);
  std::vector<double> wide(static_cast<size_t>(classes));
  for (int64_t outer = 0; outer < task.outer; ++outer, sums += classes) {
    std::fill(wide.begin(), wide.end(), 0.0);
    for (int64_t block = 0; block < blocks; ++block, block_sums += classes)
      for (int64_t c = 0; c < classes; ++c) wide[static_cast<size_t>(c)] += static_cast<double>(block_sums[c]);
    for (int64_t c = 0; c < classes; ++c) sums[c] = static_cast<S>(wide[static_cast<size_t>(c)]);
  }
}

template <class S>
static void sum_blocks(OverlapTask& task, S* intersection, S* total, int64_t* support) {
  task.intersection = intersection;
  task.total = total;
  task.support = support;
  if (blocks_of(task) == 1) return run(task, overlap_loop);
  const int64_t entries = task.outer * blocks_of(task) * task.classes;
  const auto sums = scratch<S>("class_overlap", 2 * entries);
  const auto counts = scratch<int64_t>("class_overlap", entries);
  task.intersection = sums.get();
  task.total = sums.get() + entries;
  task.support = counts.get();
  run(task, overlap_loop);
  add_up(task, sums.get(), intersection);
  add_up(task, sums.get() + entries, total);
  add_up(task, counts.get(), support);
}

static std::tuple<Tensor, Tensor, Tensor> class_overlap_cpu(const Tensor& scores, const Tensor& labels, int64_t dim,
                                                            int64_t samples, int64_t activation, bool squared,
                                                            std::optional<int64_t> ignore_index, bool raise) {
  OverlapTask task;
  describe(task, scores, labels, dim, samples, activation, squared, ignore_index);
  choose_block(task);
  const ScalarType compute = compute_type(task.type);
  const std::vector<int64_t> sizes = class_sizes(scores, samples, task.classes);
  Tensor intersection = empty(scores, sizes, compute), total = empty(scores, sizes, compute);
  Tensor support = empty(scores, sizes, ScalarType::Long);
  with_type<float, double>(compute, [&](auto type) {
    using S = decltype(type);
    sum_blocks(task, static_cast<S*>(intersection.mutable_data_ptr()), static_cast<S*>(total.mutable_data_ptr()),
               static_cast<int64_t*>(support.mutable_data_ptr()));
  });
  if (raise) throw_bad_label(labels, task);
  return {intersection, total, support};
}

static Tensor class_overlap_backward_cpu(const Tensor& grad_intersection, const Tensor& grad_total,
                                         const Tensor& scores, const Tensor& labels, int64_t dim, int64_t samples,
                                         int64_t activation, bool squared, std::optional<int64_t> ignore_index) {
  OverlapTask task;
  describe(task, scores, labels, dim, samples, activation, squared, ignore_index);
  const Tensor intersection = checked_gradient("grad_intersection", grad_intersection, task, scores, samples);
  const Tensor total = checked_gradient("grad_total", grad_total, task, scores, samples);
  choose_block(task);
  Tensor out = empty(scores, {scores.sizes().begin(), scores.sizes().end()}, task.type);
  describe(task.grad_planes, out, dim, samples);
  task.grad_intersection = intersection.const_data_ptr();
  task.grad_total = total.const_data_ptr();
  task.grad_scores = out.mutable_data_ptr();
  run(task, overlap_backward_loop);
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, library) {
  library.impl("class_overlap", TORCH_BOX(&torchext::class_overlap_cpu));
  library.impl("class_overlap_backward", TORCH_BOX(&torchext::class_overlap_backward_cpu));
}
