// Computes the task of a call from its tensors, for the launchers of the CPU and of CUDA.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "common/tensor.h"
#include "onehot/labels/describe.h"
#include "onehot/multi_hot/task.h"

namespace torchext {

constexpr const char kMultiHot[] = "multi_hot", kMixup[] = "mixup_one_hot";

inline int64_t product(const Tensor& tensor, int64_t first, int64_t last) {
  int64_t count = 1;
  for (int64_t d = first; d < last; ++d) count *= tensor.size(d);
  return count;
}

// The first `rows` dimensions of the labels are the rows. The classes are inserted at dimension `dim`.
inline void describe_rows(HitsTask& task, const Argument& argument, const Tensor& labels, int64_t rows, int64_t classes,
                          int64_t dim, std::optional<int64_t> ignored) {
  check_within({argument.operation, "dim"}, dim, 0, rows);
  describe(task, argument, labels, classes, labels.dim(), ignored);
  if (task.outer == 0) task.outer_axes.count = 0;  // rows without labels: kernels divide by the size of an axis
  task.row_outer = product(labels, 0, dim);
  task.row_inner = product(labels, dim, rows);
  if (task.row_outer * task.row_inner == 0) task.row_outer *= std::exchange(task.row_inner, 1);
}

inline std::vector<int64_t> multi_hot_sizes(const Tensor& indices, int64_t classes, int64_t dim) {
  check_dims({kMultiHot, "indices"}, indices, 1, kMaxDims);
  check_within({kMultiHot, "dim"}, dim, 0, indices.dim() - 1);
  std::vector<int64_t> sizes = one_hot_sizes(kMultiHot, indices, classes, dim);
  sizes.pop_back();
  return sizes;
}

inline void describe_hits(HitsTask& task, const Tensor& indices, int64_t classes, int64_t dim,
                          std::optional<int64_t> ignored) {
  check_dims({kMultiHot, "indices"}, indices, 1, kMaxDims);
  const int64_t rows = indices.dim() - 1;
  describe_rows(task, {kMultiHot, "indices"}, indices, rows, classes, dim, ignored);
  task.hits = indices.size(rows);
}

inline void describe_output(WeightedHotTask& task, const Tensor& out, double hot, double cold) {
  task.out = out.mutable_data_ptr();
  task.type = out.scalar_type();
  task.span = hot - cold;
  task.cold = cold + 0.0;  // the sum of no weights must not be a negative zero
}

// Checks the weights of labels, and the dtype of the output, which has to be a float if there are weights.
inline void check_weights(const Argument& argument, const std::optional<Tensor>& weights, const Tensor& labels,
                          ScalarType dtype) {
  check_dtype({argument.operation, "dtype"}, dtype, weights.has_value() ? kFloatTypes : kEncodedTypes);
  if (!weights.has_value()) return;
  check_dtype(argument, *weights, kFloatTypes);
  check_same_device(argument, *weights, labels);
}

inline void check_multi_hot(const Tensor& indices, const std::optional<Tensor>& weights, ScalarType dtype) {
  check_weights({kMultiHot, "weights"}, weights, indices, dtype);
  if (weights.has_value()) check_shape({kMultiHot, "weights"}, *weights, indices.sizes());
}

inline void describe_weights(WeightedHotTask& task, const Tensor& weights) {
  task.weights = weights.const_data_ptr();
  task.weight_type = weights.scalar_type();
  if (weights.numel() > 0) append_axes(weights, 0, weights.dim(), task.weight_axes);
}

// Calls body with the task of a call of multi_hot.
template <class Body>
void with_multi_hot_task(const Tensor& indices, const std::optional<Tensor>& weights, int64_t classes, int64_t dim,
                         double hot, double cold, std::optional<int64_t> ignored, const Tensor& out, const Body& body) {
  const auto describe_as = [&](auto task) {
    describe_hits(task, indices, classes, dim, ignored);
    if constexpr (std::is_same_v<decltype(task), WeightedHotTask>) describe_weights(task, *weights);
    describe_output(task, out, hot, cold);
    body(task);
  };
  if (weights.has_value())
    describe_as(WeightedHotTask{});
  else
    describe_as(MultiHotTask{});
}

// `partners` and `lam` have the shape (samples,) or are absent. `lam` may also be a single value.
inline void describe_mixup(WeightedHotTask& task, const Tensor& labels, const std::optional<Tensor>& partners,
                           const std::optional<Tensor>& lam, double share, double total, int64_t classes, int64_t dim,
                           std::optional<int64_t> ignored) {
  check_dims({kMixup, "labels"}, labels, 1, kMaxDims);
  if (partners.has_value()) {
    check_dtype({kMixup, "partners"}, *partners, dtypes({ScalarType::Long}));
    check_shape({kMixup, "partners"}, *partners, labels.sizes().slice(0, 1));
    check_same_device({kMixup, "partners"}, *partners, labels);
  }
  if (lam.has_value()) {
    check_weights({kMixup, "lam"}, lam, labels, ScalarType::Float);
    check_shape({kMixup, "lam"}, *lam, labels.sizes().slice(0, lam->dim() == 0 ? 0 : 1));
  }
  describe_rows(task, {kMixup, "labels"}, labels, labels.dim(), classes, dim, ignored);
  task.hits = 2;
  task.mixes = true;
  task.samples = labels.size(0);
  task.positions = product(labels, 1, labels.dim());
  task.share = share;
  task.total = total;
  if (partners.has_value()) task.partners = static_cast<const int64_t*>(partners->const_data_ptr());
  task.weight_type = ScalarType::Double;
  if (lam.has_value()) describe_weights(task, *lam);
}

}  // namespace torchext
