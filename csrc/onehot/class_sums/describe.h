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

inline void check_values(const Tensor& values, const Tensor& labels) {
  const Argument argument{"class_sums", "values"};
  check_dtype(argument, values, kAddedTypes);
  check_sizes(argument, values, 0, labels.sizes());
  check_same_device(argument, values, labels);
}

// The sizes of the first `samples` dimensions of the labels, and then `times` times the number of classes.
inline std::vector<int64_t> counts_sizes(const Tensor& labels, int64_t samples, int64_t classes, size_t times) {
  std::vector<int64_t> sizes(labels.sizes().begin(), labels.sizes().begin() + samples);
  sizes.insert(sizes.end(), times, classes);
  return sizes;
}

// Describes values of the labels' shape, followed by dimensions of features.
inline void describe(SumsTask& task, const Tensor& values, const Tensor& labels, int64_t classes, int64_t samples,
                     std::optional<ScalarType> dtype, std::optional<int64_t> ignored) {
  check_values(values, labels);
  describe(task, {"class_sums", "labels"}, labels, classes, samples, ignored);
  const int middle = static_cast<int>(samples), rank = static_cast<int>(labels.dim());
  task.type = real_type(values.scalar_type());
  task.values = values.const_data_ptr();
  task.outer_value_axes = merged_axes(values, 0, middle, task.outer_value_axis);
  task.inner_value_axes = merged_axes(values, middle, rank, task.inner_value_axis);
  task.feature_axes = merged_axes(values, rank, static_cast<int>(values.dim()), task.feature_axis);
  task.out_type = real_type(sums_type(values, dtype));
  task.sum_size = task.out_type == ScalarType::Double || task.out_type == ScalarType::Long ? 8 : 4;
  task.value_size = static_cast<int64_t>(values.element_size());
  if (task.type != values.scalar_type()) {  // complex
    task.value_size /= 2;
    for (int a = 0; a < task.outer_value_axes; ++a) task.outer_value_axis[a].stride *= 2;
    for (int a = 0; a < task.inner_value_axes; ++a) task.inner_value_axis[a].stride *= 2;
    for (int a = 0; a < task.feature_axes; ++a) task.feature_axis[a].stride *= 2;
    append_axis(task.feature_axis, task.feature_axes, {2, 1});
  }
  task.features = 1;
  for (int a = 0; a < task.feature_axes; ++a) task.features *= task.feature_axis[a].size;
}

inline std::vector<int64_t> sums_sizes(const Tensor& values, const Tensor& labels, int64_t classes, int64_t samples) {
  std::vector<int64_t> sizes(labels.sizes().begin(), labels.sizes().begin() + samples);
  sizes.push_back(classes);
  sizes.insert(sizes.end(), values.sizes().begin() + labels.dim(), values.sizes().end());
  return sizes;
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
