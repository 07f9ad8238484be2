#include <memory>

#include "common/loops.h"
#include "common/parallel.h"
#include "onehot/bad_label.h"
#include "onehot/describe.h"
#include "onehot/ops.h"

namespace torchext {

// Sums are taken over blocks of places that follow from the shape alone and are added up in order, hence the same bits
// for any number of threads.
constexpr int64_t kPlaces = 2048;
constexpr int64_t kFewestPlaces = 64;
constexpr int64_t kEntries = 16384;  // of a block with all classes at once: they stay in the second-level cache

static void choose_block(OverlapTask& task) {
  task.block = kPlaces;
  if (task.activation == Activation::kSoftmax)
    task.block = std::clamp(kEntries / std::max<int64_t>(1, task.classes) / kFewestPlaces * kFewestPlaces,
                            kFewestPlaces, kPlaces);
}

static int64_t compute_size(const OverlapTask& task) {
  return task.type == ScalarType::Double ? 8 : 4;
}

template <class Body>
static void run(const OverlapTask& task, const Body& body) {
  const int64_t rows = 3 + (task.activation == Activation::kSoftmax ? task.classes : 0);
  const size_t scratch_bytes = static_cast<size_t>(rows * task.block * compute_size(task));
  const int64_t places = std::min(task.inner, task.block);
  parallel(task.outer * blocks_of(task), places * task.classes * compute_size(task), [&](int64_t begin, int64_t end) {
    const std::unique_ptr<char[]> scratch(new char[scratch_bytes]);
    body(task, begin, end, scratch.get());
  });
}

template <class S>
static void add_up(const OverlapTask& task, S* intersection, S* total, int64_t* support) {
  const int64_t classes = task.classes, blocks = blocks_of(task);
  const S* sums = static_cast<const S*>(task.sums);
  const int64_t* counts = task.counts;
  std::vector<double> both(static_cast<size_t>(2 * classes));
  for (int64_t outer = 0; outer < task.outer; ++outer) {
    std::fill(both.begin(), both.end(), 0.0);
    std::fill(support, support + classes, int64_t{0});
    for (int64_t block = 0; block < blocks; ++block, sums += 2 * classes, counts += classes) {
      for (int64_t i = 0; i < 2 * classes; ++i) both[static_cast<size_t>(i)] += static_cast<double>(sums[i]);
      for (int64_t c = 0; c < classes; ++c) support[c] += counts[c];
    }
    for (int64_t c = 0; c < classes; ++c) {
      intersection[c] = static_cast<S>(both[static_cast<size_t>(c)]);
      total[c] = static_cast<S>(both[static_cast<size_t>(classes + c)]);
    }
    intersection += classes;
    total += classes;
    support += classes;
  }
}

std::tuple<Tensor, Tensor, Tensor> class_overlap_cpu(const Tensor& scores, const Tensor& labels, int64_t dim,
                                                     int64_t samples, int64_t activation, bool squared,
                                                     std::optional<int64_t> ignore_index, bool raise) {
  OverlapTask task;
  describe(task, scores, labels, dim, samples, activation, squared, ignore_index);
  choose_block(task);
  const ScalarType compute = compute_type(task);
  const std::vector<int64_t> sizes = overlap_sizes(scores, dim, samples);
  Tensor intersection = empty(scores, sizes, compute), total = empty(scores, sizes, compute);
  Tensor support = empty(scores, sizes, ScalarType::Long);
  const size_t entries = static_cast<size_t>(task.outer * blocks_of(task) * task.classes);
  const std::unique_ptr<char[]> sums(new char[2 * entries * static_cast<size_t>(compute_size(task))]);
  const std::unique_ptr<int64_t[]> counts(new int64_t[entries]);
  task.sums = sums.get();
  task.counts = counts.get();
  run(task, loops().overlap);
  if (raise) throw_bad_label(labels, task);
  int64_t* support_data = static_cast<int64_t*>(support.mutable_data_ptr());
  if (compute == ScalarType::Double)
    add_up(task, static_cast<double*>(intersection.mutable_data_ptr()), static_cast<double*>(total.mutable_data_ptr()),
           support_data);
  else
    add_up(task, static_cast<float*>(intersection.mutable_data_ptr()), static_cast<float*>(total.mutable_data_ptr()),
           support_data);
  return {intersection, total, support};
}

Tensor class_overlap_backward_cpu(const Tensor& grad_intersection, const Tensor& grad_total, const Tensor& scores,
                                  const Tensor& labels, int64_t dim, int64_t samples, int64_t activation, bool squared,
                                  std::optional<int64_t> ignore_index) {
  OverlapTask task;
  describe(task, scores, labels, dim, samples, activation, squared, ignore_index);
  choose_block(task);
  Tensor out = empty(scores, {scores.sizes().begin(), scores.sizes().end()}, task.type);
  describe(task.grad_planes, out, dim, samples);
  const Tensor of_intersection = torch::stable::contiguous(grad_intersection);
  const Tensor of_total = torch::stable::contiguous(grad_total);
  task.grad_intersection = of_intersection.const_data_ptr();
  task.grad_total = of_total.const_data_ptr();
  task.grad_scores = out.mutable_data_ptr();
  run(task, loops().overlap_backward);
  return out;
}

}  // namespace torchext
