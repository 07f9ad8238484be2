#include "onehot/ops.h"

#include "common/loops.h"
#include "common/parallel.h"
#include "onehot/bad_label.h"
#include "onehot/describe.h"

namespace torchext {

static void run(const OneHotTask& task) {
  const int64_t blocks = (task.inner + kOneHotBlock - 1) / kOneHotBlock;
  const int64_t items = task.inner == 1 ? task.outer : task.outer * blocks;
  const int64_t labels_an_item = task.inner == 1 ? 1 : std::min(task.inner, kOneHotBlock);
  const int64_t bytes = labels_an_item * (task.out ? task.classes * task.element_size : 8);
  const auto body = loops().one_hot;
  parallel(items, bytes, [&](int64_t begin, int64_t end) { body(task, begin, end); });
}

Tensor one_hot_cpu(const Tensor& labels, int64_t num_classes, int64_t dim, ScalarType dtype, double on_value,
                   double off_value, double label_smoothing, std::optional<int64_t> ignore_index, bool raise) {
  OneHotTask task;
  describe(task, labels, num_classes, dim, ignore_index);
  Tensor out = empty(labels, one_hot_sizes(labels, num_classes, dim), dtype);
  describe_output(task, out, on_value, off_value, label_smoothing);
  run(task);
  if (raise) throw_bad_label(labels, task);
  return out;
}

Tensor class_indices_cpu(const Tensor& labels, int64_t num_classes, std::optional<int64_t> ignore_index, bool raise) {
  OneHotTask task;
  describe(task, labels, num_classes, labels.dim(), ignore_index);
  Tensor out = empty(labels, {labels.sizes().begin(), labels.sizes().end()}, ScalarType::Long);
  task.out = out.mutable_data_ptr();
  const auto body = loops().class_indices;
  parallel(task.outer, sizeof(int64_t), [&](int64_t begin, int64_t end) { body(task, begin, end); });
  if (raise) throw_bad_label(labels, task);
  return out;
}

void one_hot_out_cpu(const Tensor& labels, int64_t num_classes, int64_t dim, double on_value, double off_value,
                     double label_smoothing, std::optional<int64_t> ignore_index, bool raise, Tensor out) {
  OneHotTask task;
  describe(task, labels, num_classes, dim, ignore_index);
  if (raise) {  // `out` must be untouched when a label is bad, so look before writing
    run(task);
    throw_bad_label(labels, task);
  }
  describe_output(task, out, on_value, off_value, label_smoothing);
  run(task);
}

}  // namespace torchext
