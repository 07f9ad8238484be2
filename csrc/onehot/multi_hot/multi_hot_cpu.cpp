#include <algorithm>
#include <optional>
#include <type_traits>

#include "common/parallel.h"
#include "common/streams.h"
#include "onehot/labels/bad_label.h"
#include "onehot/multi_hot/describe.h"

#define TORCHEXT_LOOPS "onehot/multi_hot/loops.h"
#include "common/each_isa.h"

namespace torchext {

static const auto multi_hot_loop = TORCHEXT_BEST(multi_hot);
static const auto weighted_hot_loop = TORCHEXT_BEST(weighted_hot);

// A block of all classes has to stay in the second-level cache, but its runs have to be whole cache lines.
static void choose_block(HitsTask& task, int64_t scratch_size) {
  constexpr int64_t kBytes = 64 * 1024, kLabels = 16384, kFewest = 16, kMost = 4096;
  const int64_t output_rows = kBytes / std::max<int64_t>(1, task.classes * scratch_size);
  const int64_t label_rows = kLabels / std::max<int64_t>(1, task.hits);
  task.block = std::clamp(std::min(output_rows, label_rows) / kFewest * kFewest, kFewest, kMost);
  task.block = std::clamp<int64_t>(task.row_inner, 1, task.block);
}

template <class Task>
static void run(const Task& task, int64_t element_size, void (*body)(const Task&, int64_t, int64_t)) {
  const int64_t items = task.row_inner == 1 ? task.row_outer : task.row_outer * blocks_of(task);
  const int64_t rows = task.row_inner == 1 ? 1 : std::min(task.row_inner, task.block);
  const int64_t bytes = rows * (task.hits * 8 + (task.out ? task.classes * element_size : 0));
  parallel(items, bytes, [&](int64_t begin, int64_t end) { body(task, begin, end); });
}

static void run(MultiHotTask& task) {
  choose_block(task, 1);
  run(task, task.element_size, multi_hot_loop);
}

static void run(WeightedHotTask& task) {
  choose_block(task, compute_size(task.type));
  run(task, compute_size(task.type), weighted_hot_loop);
}

static void look_for_bad_labels(const Tensor& indices, int64_t num_classes, int64_t dim,
                                std::optional<int64_t> ignore_index) {
  MultiHotTask task;
  describe_hits(task, indices, num_classes, dim, ignore_index);
  run(task);
  throw_bad_label(indices, task);
}

static void write(const Tensor& indices, const std::optional<Tensor>& weights, int64_t num_classes, int64_t dim,
                  double hot, double cold, std::optional<int64_t> ignore_index, bool raise, const Tensor& out,
                  bool streams) {
  with_multi_hot_task(indices, weights, num_classes, dim, hot, cold, ignore_index, out, [&](auto& task) {
    task.streams = streams;
    run(task);
    if (raise) throw_bad_label(indices, task);
  });
}

static Tensor multi_hot_cpu(const Tensor& indices, std::optional<Tensor> weights, int64_t num_classes, int64_t dim,
                            ScalarType dtype, double hot, double cold, std::optional<int64_t> ignore_index,
                            bool raise) {
  check_multi_hot(indices, weights, dtype);
  bool streams;
  Tensor out = empty(indices, multi_hot_sizes(indices, num_classes, dim), dtype, &streams);
  write(indices, weights, num_classes, dim, hot, cold, ignore_index, raise, out, streams);
  return out;
}

static void multi_hot_out_cpu(const Tensor& indices, std::optional<Tensor> weights, int64_t num_classes, int64_t dim,
                              double hot, double cold, std::optional<int64_t> ignore_index, bool raise, Tensor out) {
  check_out(kMultiHot, out, multi_hot_sizes(indices, num_classes, dim), indices);
  check_multi_hot(indices, weights, out.scalar_type());
  // `out` must be unchanged if a label is bad, so the labels are checked first.
  if (raise) look_for_bad_labels(indices, num_classes, dim, ignore_index);
  const bool streams = worth_streaming(static_cast<size_t>(out.numel() * out.element_size()), false);
  write(indices, weights, num_classes, dim, hot, cold, ignore_index, false, out, streams);
}

static Tensor mixup_one_hot_cpu(const Tensor& labels, std::optional<Tensor> partners, std::optional<Tensor> lam,
                                double share, double total, int64_t num_classes, int64_t dim, ScalarType dtype,
                                double hot, double cold, std::optional<int64_t> ignore_index, bool raise) {
  check_dtype({kMixup, "dtype"}, dtype, kFloatTypes);
  if (partners.has_value()) partners = torch::stable::contiguous(*partners);
  WeightedHotTask task;
  describe_mixup(task, labels, partners, lam, share, total, num_classes, dim, ignore_index);
  Tensor out = empty(labels, one_hot_sizes(kMixup, labels, num_classes, dim), dtype, &task.streams);
  describe_output(task, out, hot, cold);
  run(task);
  if (raise) throw_bad_label(labels, task);
  return out;
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, library) {
  library.impl("multi_hot", TORCH_BOX(&torchext::multi_hot_cpu));
  library.impl("multi_hot_out", TORCH_BOX(&torchext::multi_hot_out_cpu));
  library.impl("mixup_one_hot", TORCH_BOX(&torchext::mixup_one_hot_cpu));
}
