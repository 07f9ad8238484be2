// Code that the descriptions of all tasks with labels share.
#pragma once

#include <cstring>
#include <optional>
#include <vector>

#include "common/check.h"
#include "common/encode.h"
#include "common/tensor.h"
#include "onehot/labels/task.h"

namespace torchext {

// Describes labels whose first `split` dimensions are the outer ones.
inline void describe(LabelTask& task, const Argument& argument, const Tensor& labels, int64_t classes, int64_t split,
                     std::optional<int64_t> ignored) {
  check_dtype(argument, labels, kLabelTypes);
  check_within({argument.operation, "num_classes"}, classes, 0, INT64_MAX);
  check_within({argument.operation, "samples"}, split, 0, labels.dim());
  task.labels = labels.const_data_ptr();
  task.label_type = labels.scalar_type();
  append_axes(labels, 0, split, task.outer_axes);
  append_axes(labels, split, labels.dim(), task.inner_axes);
  task.outer = task.outer_axes.elements();
  task.inner = task.inner_axes.elements();
  task.classes = classes;
  const bool is_unsigned = task.label_type == ScalarType::Byte || task.label_type == ScalarType::UInt16 ||
                           task.label_type == ScalarType::UInt32 || task.label_type == ScalarType::UInt64;
  task.has_ignored = ignored.has_value() && !(is_unsigned && *ignored < 0);
  task.ignored = ignored.value_or(0);
}

// Describes labels, and values whose shape is that of the labels followed by dimensions of features.
inline void describe(ValuesTask& task, const char* operation, const Tensor& values, Dtypes types, const Tensor& labels,
                     int64_t classes, int64_t samples, std::optional<int64_t> ignored) {
  const Argument argument{operation, "values"};
  check_dtype(argument, values, types);
  check_sizes(argument, values, 0, labels.sizes());
  check_same_device(argument, values, labels);
  describe(task, {operation, "labels"}, labels, classes, samples, ignored);
  task.type = values.scalar_type();
  task.value_size = static_cast<int64_t>(values.element_size());
  task.values = values.const_data_ptr();
  append_axes(values, 0, samples, task.outer_value_axes);
  append_axes(values, samples, labels.dim(), task.inner_value_axes);
  append_axes(values, labels.dim(), values.dim(), task.feature_axes);
  task.features = product_of(argument, values.sizes().slice(static_cast<size_t>(labels.dim())));
}

// The sizes of the first `samples` dimensions of the labels, and then `times` times the number of classes.
inline std::vector<int64_t> class_sizes(const Tensor& labels, int64_t samples, int64_t classes, size_t times = 1) {
  std::vector<int64_t> sizes(labels.sizes().begin(), labels.sizes().begin() + samples);
  sizes.insert(sizes.end(), times, classes);
  return sizes;
}

// The same with the sizes of the features.
inline std::vector<int64_t> class_sizes(const Tensor& labels, int64_t samples, int64_t classes, const Tensor& values) {
  std::vector<int64_t> sizes = class_sizes(labels, samples, classes);
  sizes.insert(sizes.end(), values.sizes().begin() + labels.dim(), values.sizes().end());
  return sizes;
}

inline std::vector<int64_t> one_hot_sizes(const char* operation, const Tensor& labels, int64_t classes, int64_t dim) {
  check_within({operation, "dim"}, dim, 0, labels.dim());
  std::vector<int64_t> sizes(labels.sizes().begin(), labels.sizes().end());
  sizes.insert(sizes.begin() + dim, classes);
  return sizes;
}

// Describes an output with one value at the classes of labels and another value elsewhere.
template <class Task>
void describe_output(Task& task, const Tensor& out, double hot, double cold) {
  task.out = out.mutable_data_ptr();
  task.element_size = static_cast<int>(out.element_size());
  encode(hot, out.scalar_type(), task.hot);
  encode(cold, out.scalar_type(), task.cold);
  const char zero[16] = {};
  task.cold_is_zero = std::memcmp(task.cold, zero, static_cast<size_t>(task.element_size)) == 0;
}

}  // namespace torchext
