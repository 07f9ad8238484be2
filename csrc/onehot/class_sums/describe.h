// Computes the task of a call from its tensors, for the launchers of the CPU and of CUDA.
#pragma once

#include <optional>
#include <vector>

#include "common/tensor.h"
#include "onehot/labels/describe.h"
#include "onehot/class_sums/task.h"

namespace torchext {

inline ScalarType real_type(ScalarType type) {
  if (type == ScalarType::ComplexFloat) return ScalarType::Float;
  return type == ScalarType::ComplexDouble ? ScalarType::Double : type;
}

// Without a dtype, sums have the dtype of the values, or int64 for integers and bool. With a dtype, they are added up
// in it: float32 or float64 for floats, complex128 for complex numbers, float64 for integers of 64 bits.
inline ScalarType sums_type(const Tensor& values, std::optional<ScalarType> dtype) {
  const ScalarType type = values.scalar_type(), real = real_type(type);
  const bool is_float = real == ScalarType::Float || real == ScalarType::Double || is_half(real);
  const ScalarType natural = is_float ? type : ScalarType::Long;
  if (!dtype || *dtype == natural) return natural;
  const bool is_wide = type == ScalarType::Long || type == ScalarType::UInt64 || (is_float && real == type);
  STD_TORCH_CHECK((*dtype == ScalarType::Double && is_wide) || (*dtype == ScalarType::Float && is_half(type)) ||
                      (*dtype == ScalarType::ComplexDouble && real != type),
                  "class_sums: no sums of ", torch::headeronly::toString(type), " in ",
                  torch::headeronly::toString(*dtype));
  return *dtype;
}

inline void describe(SumsTask& task, const Tensor& values, const Tensor& labels, int64_t classes, int64_t samples,
                     std::optional<ScalarType> dtype, std::optional<int64_t> ignored) {
  describe(task, "class_sums", values, kAddedTypes, labels, classes, samples, ignored);
  task.type = real_type(values.scalar_type());
  task.out_type = real_type(sums_type(values, dtype));
  task.sum_size = task.out_type == ScalarType::Double || task.out_type == ScalarType::Long ? 8 : 4;
  if (task.type == values.scalar_type()) return;
  task.value_size /= 2;  // a complex number is two features
  task.features *= 2;
  for (Axes* axes : {&task.outer_value_axes, &task.inner_value_axes, &task.feature_axes})
    for (int a = 0; a < axes->count; ++a) axes->axis[a].stride *= 2;
  task.feature_axes.append({2, 1});
}

// Returns the sizes of the counts of pairs.
inline std::vector<int64_t> describe_pairs(CountsTask& task, LabelTask& predicted_task, const Tensor& predicted,
                                           const Tensor& target, int64_t classes, int64_t samples,
                                           std::optional<int64_t> ignored) {
  const Argument argument{"confusion_counts", "predicted"};
  check_shape(argument, predicted, target.sizes());
  check_same_device(argument, predicted, target);
  describe(task, {"confusion_counts", "target"}, target, classes, samples, ignored);
  describe(predicted_task, argument, predicted, classes, samples, std::nullopt);
  task.predicted = &predicted_task;
  task.bins = classes * classes;
  return class_sizes(target, samples, classes, 2);
}

inline std::vector<int64_t> rows_sizes(const Tensor& sums, const Tensor& labels, int64_t samples) {
  std::vector<int64_t> sizes(labels.sizes().begin(), labels.sizes().end());
  sizes.insert(sizes.end(), sums.sizes().begin() + samples + 1, sums.sizes().end());
  return sizes;
}

inline void check_rows(const Tensor& sums, const Tensor& labels, int64_t samples) {
  check_within({"class_rows", "samples"}, samples, 0, labels.dim());
  check_dims({"class_rows", "sums"}, sums, samples + 1, kMaxDims);
  check_sizes({"class_rows", "sums"}, sums, 0, labels.sizes().slice(0, static_cast<size_t>(samples)));
  check_same_device({"class_rows", "sums"}, sums, labels);
}

inline void describe_rows(RowsTask& task, const Tensor& sums, const Tensor& out, int64_t label_dims) {
  task.sums = static_cast<const char*>(sums.const_data_ptr());
  task.out = static_cast<char*>(out.mutable_data_ptr());
  task.row_bytes = static_cast<int64_t>(out.element_size());
  for (int64_t d = label_dims; d < out.dim(); ++d) task.row_bytes *= out.size(d);
}

}  // namespace torchext
