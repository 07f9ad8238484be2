// From a call's tensors to its task, for the CPU's launcher and for CUDA's.
#pragma once

#include <cstring>
#include <optional>
#include <utility>

#include "common/encode.h"
#include "common/tensor.h"
#include "onehot/task.h"

namespace torchext {

// Labels whose first `split` dimensions are the outer ones.
inline void describe(LabelTask& task, const Tensor& labels, int64_t classes, int64_t split,
                     std::optional<int64_t> ignored) {
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

inline std::vector<int64_t> one_hot_sizes(const Tensor& labels, int64_t classes, int64_t dim) {
  std::vector<int64_t> sizes(labels.sizes().begin(), labels.sizes().end());
  sizes.insert(sizes.begin() + dim, classes);
  return sizes;
}

// Of an output whose entries are one value where a label hits and another elsewhere.
template <class Task>
void describe_values(Task& task, const Tensor& out, double hot, double cold) {
  task.out = out.mutable_data_ptr();
  task.element_size = static_cast<int>(out.element_size());
  encode(hot, out.scalar_type(), task.hot);
  encode(cold, out.scalar_type(), task.cold);
  const char zero[16] = {};
  task.cold_is_zero = std::memcmp(task.cold, zero, static_cast<size_t>(task.element_size)) == 0;
}

inline void describe_output(OneHotTask& task, const Tensor& out, double hot, double cold) {
  describe_values(task, out, hot, cold);
}

inline int64_t product(const Tensor& tensor, int64_t first, int64_t last) {
  int64_t count = 1;
  for (int64_t d = first; d < last; ++d) count *= tensor.size(d);
  return count;
}

// The first `rows` dimensions are those of the rows; the classes go in at `dim` of them.
inline void describe_rows(HitsTask& task, const Tensor& labels, int64_t rows, int64_t classes, int64_t dim,
                          std::optional<int64_t> ignored) {
  describe(task, labels, classes, labels.dim(), ignored);
  if (task.outer == 0) task.outer_axes = 0;  // rows without labels: kernels divide by the size of an axis
  task.row_outer = product(labels, 0, dim);
  task.row_inner = product(labels, dim, rows);
  if (task.row_outer * task.row_inner == 0) task.row_outer *= std::exchange(task.row_inner, 1);
}

inline std::vector<int64_t> multi_hot_sizes(const Tensor& indices, int64_t classes, int64_t dim) {
  std::vector<int64_t> sizes = one_hot_sizes(indices, classes, dim);
  sizes.pop_back();
  return sizes;
}

inline void describe_hits(HitsTask& task, const Tensor& indices, int64_t classes, int64_t dim,
                          std::optional<int64_t> ignored) {
  const int64_t rows = indices.dim() - 1;
  describe_rows(task, indices, rows, classes, dim, ignored);
  task.hits = indices.size(rows);
}

inline void describe_output(MultiHotTask& task, const Tensor& out, double hot, double cold) {
  describe_values(task, out, hot, cold);
}

inline void describe_output(WeightedHotTask& task, const Tensor& out, double hot, double cold) {
  task.out = out.mutable_data_ptr();
  task.type = out.scalar_type();
  task.span = hot - cold;
  task.cold = cold + 0.0;  // sums of nothing are no negative zero
}

inline void describe_weights(WeightedHotTask& task, const Tensor& weights) {
  task.weights = weights.const_data_ptr();
  task.weight_type = weights.scalar_type();
  const int dims = weights.numel() == 0 ? 0 : static_cast<int>(weights.dim());
  task.weight_axes = merged_axes(weights, 0, dims, task.weight_axis);
}

// `partners` and `lam` are (samples,) or absent; `lam` may be a single value.
inline void describe_mixup(WeightedHotTask& task, const Tensor& labels, const std::optional<Tensor>& partners,
                           const std::optional<Tensor>& lam, double share, double total, int64_t classes, int64_t dim,
                           std::optional<int64_t> ignored) {
  describe_rows(task, labels, labels.dim(), classes, dim, ignored);
  task.hits = 2;
  task.mixes = true;
  task.samples = labels.size(0);
  task.places = product(labels, 1, labels.dim());
  task.share = share;
  task.total = total;
  if (partners.has_value()) task.partners = static_cast<const int64_t*>(partners->const_data_ptr());
  task.weight_type = ScalarType::Double;
  if (lam.has_value()) describe_weights(task, *lam);
}

// A tensor with the classes at `dim` and samples in front; what else there is are the inner dimensions, and they are in
// the same order as those of the labels.
inline void describe(ClassPlanes& planes, const Tensor& tensor, int64_t dim, int64_t samples) {
  const int middle = static_cast<int>(samples), axis = static_cast<int>(dim), dims = static_cast<int>(tensor.dim());
  planes.outer_axes = merged_axes(tensor, 0, middle, planes.outer_axis);
  planes.inner_axes = merged_axes(tensor, middle, axis, planes.inner_axis);
  // Across the classes' dimension two runs may be one.
  Axis behind[kMaxDims];
  const int more = merged_axes(tensor, axis + 1, dims, behind);
  for (int a = 0; a < more; ++a) append_axis(planes.inner_axis, planes.inner_axes, behind[a]);
  planes.class_stride = tensor.stride(axis);
}

inline void describe(OverlapTask& task, const Tensor& scores, const Tensor& labels, int64_t dim, int64_t samples,
                     int64_t activation, bool squared, std::optional<int64_t> ignored) {
  describe(task, labels, scores.size(dim), samples, ignored);
  describe(task.score_planes, scores, dim, samples);
  task.type = scores.scalar_type();
  task.scores = scores.const_data_ptr();
  task.activation = static_cast<Activation>(activation);
  task.squared = squared;
}

inline ScalarType compute_type(const OverlapTask& task) {
  return task.type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline std::vector<int64_t> overlap_sizes(const Tensor& scores, int64_t dim, int64_t samples) {
  std::vector<int64_t> sizes(scores.sizes().begin(), scores.sizes().begin() + samples);
  sizes.push_back(scores.size(dim));
  return sizes;
}

inline ScalarType real_type(ScalarType type) {
  if (type == ScalarType::ComplexFloat) return ScalarType::Float;
  return type == ScalarType::ComplexDouble ? ScalarType::Double : type;
}

inline ScalarType sums_type(const Tensor& values, bool wide) {
  const ScalarType type = values.scalar_type();
  if (!wide || type == ScalarType::ComplexFloat || type == ScalarType::ComplexDouble) return type;
  return type == ScalarType::Double ? type : ScalarType::Float;
}

// Values of the labels' shape with dimensions of features behind.
inline void describe(SumsTask& task, const Tensor& values, const Tensor& labels, int64_t classes, int64_t samples,
                     bool wide, std::optional<int64_t> ignored) {
  describe(task, labels, classes, samples, ignored);
  const int middle = static_cast<int>(samples), rank = static_cast<int>(labels.dim());
  task.type = real_type(values.scalar_type());
  task.values = values.const_data_ptr();
  task.outer_value_axes = merged_axes(values, 0, middle, task.outer_value_axis);
  task.inner_value_axes = merged_axes(values, middle, rank, task.inner_value_axis);
  task.feature_axes = merged_axes(values, rank, static_cast<int>(values.dim()), task.feature_axis);
  task.wide = wide;
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

inline void describe_rows(RowsTask& task, const Tensor& sums, const Tensor& out, int64_t label_dims) {
  task.sums = static_cast<const char*>(sums.const_data_ptr());
  task.out = static_cast<char*>(out.mutable_data_ptr());
  task.row_bytes = static_cast<int64_t>(out.element_size());
  for (int64_t d = label_dims; d < out.dim(); ++d) task.row_bytes *= out.size(d);
}

}  // namespace torchext
