#include <optional>

#include "common/huge_pages.h"
#include "common/parallel.h"
#include "common/streams.h"
#include "onehot/labels/bad_label.h"
#include "onehot/one_hot/describe.h"

#define TORCHEXT_LOOPS "onehot/one_hot/loops.h"
#include "common/each_isa.h"

namespace torchext {

static const auto one_hot_loop = TORCHEXT_BEST(one_hot);
static const auto class_indices_loop = TORCHEXT_BEST(class_indices);

static void run(const OneHotTask& task) {
  const int64_t items = task.inner == 1 ? task.outer : task.outer * blocks_of(task);
  const int64_t labels_an_item = task.inner == 1 ? 1 : std::min(task.inner, task.block);
  const int64_t bytes = labels_an_item * (task.out ? task.classes * task.element_size : 8);
  const auto body = one_hot_loop;
  parallel(items, bytes, [&](int64_t begin, int64_t end) { body(task, begin, end); });
}

// The first write to a huge page zeroes it. It is then in the cache, and further writes to it are faster. So a block
// has half a huge page per plane, unless there would be too few blocks for the threads.
static void widen_blocks(OneHotTask& task, int64_t bytes) {
  if (task.streams || bytes < static_cast<int64_t>(kSmallestWorthHinting)) return;
  const int64_t threads = torch::stable::get_num_threads();
  task.block = static_cast<int64_t>(kHugePage) / 2 / task.element_size;
  while (task.block > kOneHotBlock && task.outer * blocks_of(task) < 2 * threads) task.block /= 2;
}

static Tensor one_hot_cpu(const Tensor& labels, int64_t num_classes, int64_t dim, std::optional<ScalarType> dtype,
                          double hot, double cold, std::optional<int64_t> ignore_index, bool raise) {
  OneHotTask task;
  check_dtype({kOneHot, "dtype"}, dtype.value_or(ScalarType::Float), kEncodedTypes);
  const auto sizes = one_hot_sizes(kOneHot, labels, num_classes, dim);
  describe(task, {kOneHot, "labels"}, labels, num_classes, dim, ignore_index);
  Tensor out = empty(labels, sizes, dtype.value_or(ScalarType::Float), &task.streams);
  describe_output(task, out, hot, cold);
  widen_blocks(task, out.numel() * task.element_size);
  run(task);
  if (raise) throw_bad_label(labels, task);
  return out;
}

static Tensor class_indices_cpu(const Tensor& labels, int64_t num_classes, std::optional<int64_t> ignore_index,
                                bool raise, int64_t argument) {
  OneHotTask task;
  check_within({"class_indices", "argument"}, argument, kLabels, kPermutation);
  describe(task, {"class_indices", "labels"}, labels, num_classes, labels.dim(), ignore_index);
  Tensor out = empty(labels, {labels.sizes().begin(), labels.sizes().end()}, ScalarType::Long);
  task.out = out.mutable_data_ptr();
  const auto body = class_indices_loop;
  parallel(task.outer, sizeof(int64_t), [&](int64_t begin, int64_t end) { body(task, begin, end); });
  if (raise) throw_bad_label(labels, task, static_cast<LabelArgument>(argument));
  return out;
}

static void one_hot_out_cpu(const Tensor& labels, int64_t num_classes, int64_t dim, double hot, double cold,
                            std::optional<int64_t> ignore_index, bool raise, Tensor out) {
  OneHotTask task;
  check_out(kOneHot, out, one_hot_sizes(kOneHot, labels, num_classes, dim), labels);
  check_dtype({kOneHot, "out"}, out, kEncodedTypes);
  describe(task, {kOneHot, "labels"}, labels, num_classes, dim, ignore_index);
  if (raise) {  // `out` must be unchanged if a label is bad, so the labels are checked first
    run(task);
    throw_bad_label(labels, task);
  }
  describe_output(task, out, hot, cold);
  task.streams = worth_streaming(static_cast<size_t>(out.numel() * task.element_size), false);
  run(task);
}

}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, library) {
  library.impl("one_hot", TORCH_BOX(&torchext::one_hot_cpu));
  library.impl("class_indices", TORCH_BOX(&torchext::class_indices_cpu));
  library.impl("one_hot_out", TORCH_BOX(&torchext::one_hot_out_cpu));
}
