#include "onehot/ops.h"

#include <stdexcept>
#include <string>

#include "common/loops.h"
#include "common/parallel.h"
#include "onehot/describe.h"

namespace torchext {

static std::string label_text(const Tensor& labels, int64_t offset) {
  const void* data = labels.const_data_ptr();
  switch (labels.scalar_type()) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      return std::to_string(static_cast<const uint8_t*>(data)[offset]);
    case ScalarType::Char:
      return std::to_string(static_cast<const int8_t*>(data)[offset]);
    case ScalarType::Short:
      return std::to_string(static_cast<const int16_t*>(data)[offset]);
    case ScalarType::UInt16:
      return std::to_string(static_cast<const uint16_t*>(data)[offset]);
    case ScalarType::Int:
      return std::to_string(static_cast<const int32_t*>(data)[offset]);
    case ScalarType::UInt32:
      return std::to_string(static_cast<const uint32_t*>(data)[offset]);
    case ScalarType::UInt64:
      return std::to_string(static_cast<const uint64_t*>(data)[offset]);
    default:
      return std::to_string(static_cast<const int64_t*>(data)[offset]);
  }
}

// std::out_of_range arrives in Python as IndexError.
[[noreturn]] static void throw_bad_label(const Tensor& labels, int64_t position, int64_t classes) {
  const int64_t dims = labels.dim();
  int64_t offset = 0;
  std::string where;
  for (int64_t d = dims - 1; d >= 0; --d) {
    const int64_t index = position % labels.size(d);
    position /= labels.size(d);
    offset += index * labels.stride(d);
    where = std::to_string(index) + (d == dims - 1 ? "" : ", ") + where;
  }
  if (dims == 1) where += ",";
  throw std::out_of_range("label " + label_text(labels, offset) + " at position (" + where + ") is outside [0, " +
                          std::to_string(classes) + ")");
}

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
  if (raise && task.bad != kNoBadLabel) throw_bad_label(labels, task.bad, num_classes);
  return out;
}

Tensor class_indices_cpu(const Tensor& labels, int64_t num_classes, std::optional<int64_t> ignore_index, bool raise) {
  OneHotTask task;
  describe(task, labels, num_classes, labels.dim(), ignore_index);
  Tensor out = empty(labels, {labels.sizes().begin(), labels.sizes().end()}, ScalarType::Long);
  task.out = out.mutable_data_ptr();
  const auto body = loops().class_indices;
  parallel(task.outer, sizeof(int64_t), [&](int64_t begin, int64_t end) { body(task, begin, end); });
  if (raise && task.bad != kNoBadLabel) throw_bad_label(labels, task.bad, num_classes);
  return out;
}

void one_hot_out_cpu(const Tensor& labels, int64_t num_classes, int64_t dim, double on_value, double off_value,
                     double label_smoothing, std::optional<int64_t> ignore_index, bool raise, Tensor out) {
  OneHotTask task;
  describe(task, labels, num_classes, dim, ignore_index);
  if (raise) {  // `out` must be untouched when a label is bad, so look before writing
    run(task);
    if (task.bad != kNoBadLabel) throw_bad_label(labels, task.bad, num_classes);
  }
  describe_output(task, out, on_value, off_value, label_smoothing);
  run(task);
}

}  // namespace torchext
