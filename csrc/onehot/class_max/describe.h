// Turns the tensors of a call into a task, for the CPU and for CUDA.
#pragma once

#include <optional>
#include <vector>

#include "common/tensor.h"
#include "onehot/class_max/task.h"
#include "onehot/labels/describe.h"

namespace torchext {

// The shape of the values is that of the labels, followed by dimensions of features.
inline void describe(ExtremesTask& task, const Tensor& values, const Tensor& labels, int64_t classes, int64_t samples,
                     bool largest, std::optional<int64_t> ignored) {
  const Argument argument{"class_extremes", "values"};
  check_dtype(argument, values, kLabelTypes | kFloatTypes);
  check_sizes(argument, values, 0, labels.sizes());
  check_same_device(argument, values, labels);
  describe(task, {"class_extremes", "labels"}, labels, classes, samples, ignored);
  const int middle = static_cast<int>(samples), rank = static_cast<int>(labels.dim());
  task.type = values.scalar_type();
  task.largest = largest;
  task.values = values.const_data_ptr();
  task.value_size = static_cast<int64_t>(values.element_size());
  task.outer_value_axes = merged_axes(values, 0, middle, task.outer_value_axis);
  task.inner_value_axes = merged_axes(values, middle, rank, task.inner_value_axis);
  task.feature_axes = merged_axes(values, rank, static_cast<int>(values.dim()), task.feature_axis);
  task.features = product_of(argument, values.sizes().slice(static_cast<size_t>(rank)));
}

inline std::vector<int64_t> extremes_sizes(const Tensor& values, const Tensor& labels, int64_t classes,
                                           int64_t samples) {
  std::vector<int64_t> sizes(labels.sizes().begin(), labels.sizes().begin() + samples);
  sizes.push_back(classes);
  sizes.insert(sizes.end(), values.sizes().begin() + labels.dim(), values.sizes().end());
  return sizes;
}

}  // namespace torchext
