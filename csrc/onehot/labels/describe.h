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
  const int middle = static_cast<int>(split), dims = static_cast<int>(labels.dim());
  task.outer_axes = merged_axes(labels, 0, middle, task.outer_axis);
  task.inner_axes = merged_axes(labels, middle, dims, task.inner_axis);
  task.outer = task.inner = 1;
  for (int a = 0; a < task.outer_axes; ++a) task.outer *= task.outer_axis[a].size;
  for (int a = 0; a < task.inner_axes; ++a) task.inner *= task.inner_axis[a].size;
  task.classes = classes;
  const bool is_unsigned = task.label_type == ScalarType::Byte || task.label_type == ScalarType::UInt16 ||
                           task.label_type == ScalarType::UInt32 || task.label_type == ScalarType::UInt64;
  task.has_ignored = ignored.has_value() && !(is_unsigned && *ignored < 0);
  task.ignored = ignored.value_or(0);
}

inline std::vector<int64_t> one_hot_sizes(const char* operation, const Tensor& labels, int64_t classes, int64_t dim) {
  check_within({operation, "dim"}, dim, 0, labels.dim());
  std::vector<int64_t> sizes(labels.sizes().begin(), labels.sizes().end());
  sizes.insert(sizes.begin() + dim, classes);
  return sizes;
}

// Describes an output with one value at the classes of labels and another value elsewhere.
template <class Task>
void describe_values(Task& task, const Tensor& out, double hot, double cold) {
  task.out = out.mutable_data_ptr();
  task.element_size = static_cast<int>(out.element_size());
  encode(hot, out.scalar_type(), task.hot);
  encode(cold, out.scalar_type(), task.cold);
  const char zero[16] = {};
  task.cold_is_zero = std::memcmp(task.cold, zero, static_cast<size_t>(task.element_size)) == 0;
}

}  // namespace torchext
