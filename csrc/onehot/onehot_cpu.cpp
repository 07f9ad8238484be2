#include "onehot/ops.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "common/encode.h"
#include "common/loops.h"
#include "common/parallel.h"
#include "onehot/task.h"
#include "onehot/values.h"

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

static void describe(OneHotTask& task, const Tensor& labels, int64_t classes, int64_t dim,
                     std::optional<int64_t> ignored) {
  task.labels = labels.const_data_ptr();
  task.label_type = labels.scalar_type();
  const int split = static_cast<int>(dim), dims = static_cast<int>(labels.dim());
  task.outer_axes = merged_axes(labels, 0, split, task.outer_axis);
  task.inner_axes = merged_axes(labels, split, dims, task.inner_axis);
  task.outer = task.inner = 1;
  for (int a = 0; a < task.outer_axes; ++a) task.outer *= task.outer_axis[a].size;
  for (int a = 0; a < task.inner_axes; ++a) task.inner *= task.inner_axis[a].size;
  task.classes = classes;
  const bool is_unsigned = task.label_type == ScalarType::Byte || task.label_type == ScalarType::UInt16 ||
                           task.label_type == ScalarType::UInt32 || task.label_type == ScalarType::UInt64;
  task.has_ignored = ignored.has_value() && !(is_unsigned && *ignored < 0);
  task.ignored = ignored.value_or(0);
}

static void run(const OneHotTask& task) {
  const int64_t blocks = (task.inner + kOneHotBlock - 1) / kOneHotBlock;
  const int64_t items = task.inner == 1 ? task.outer : task.outer * blocks;
  const int64_t labels_an_item = task.inner == 1 ? 1 : std::min(task.inner, kOneHotBlock);
  const int64_t bytes = labels_an_item * (task.out ? task.classes * task.element_size : 8);
  const auto body = loops().one_hot;
  parallel(items, bytes, [&](int64_t begin, int64_t end) { body(task, begin, end); });
}

static void write(OneHotTask& task, const Tensor& out, double on_value, double off_value, double label_smoothing) {
  task.out = out.mutable_data_ptr();
  task.element_size = static_cast<int>(out.element_size());
  const OneHotValues values = one_hot_values(task.classes, on_value, off_value, label_smoothing);
  encode(values.hot, out.scalar_type(), task.hot);
  encode(values.cold, out.scalar_type(), task.cold);
  const char zero[16] = {};
  task.cold_is_zero = std::memcmp(task.cold, zero, static_cast<size_t>(task.element_size)) == 0;
  run(task);
}

Tensor one_hot_cpu(const Tensor& labels, int64_t num_classes, int64_t dim, ScalarType dtype, double on_value,
                   double off_value, double label_smoothing, std::optional<int64_t> ignore_index, bool raise) {
  OneHotTask task;
  describe(task, labels, num_classes, dim, ignore_index);
  std::vector<int64_t> sizes(labels.sizes().begin(), labels.sizes().end());
  sizes.insert(sizes.begin() + dim, num_classes);
  Tensor out = empty(labels, sizes, dtype);
  write(task, out, on_value, off_value, label_smoothing);
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
  write(task, out, on_value, off_value, label_smoothing);
}

}  // namespace torchext
