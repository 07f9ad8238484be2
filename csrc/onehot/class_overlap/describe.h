// Computes the task of a call from its tensors, for the launchers of the CPU and of CUDA.
#pragma once

#include <optional>

#include "common/tensor.h"
#include "onehot/labels/describe.h"
#include "onehot/class_overlap/task.h"

namespace torchext {

// Describes a tensor with the classes at `dim`, whose first dimensions are the samples. All other dimensions are inner
// ones, in the same order as in the labels.
inline void describe(ClassPlanes& planes, const Tensor& tensor, int64_t dim, int64_t samples) {
  append_axes(tensor, 0, samples, planes.outer_axes);
  append_axes(tensor, samples, dim, planes.inner_axes);
  append_axes(tensor, dim + 1, tensor.dim(), planes.inner_axes);
  planes.class_stride = tensor.stride(dim);
}

constexpr const char kOverlap[] = "class_overlap";

inline void check_overlap(const Tensor& scores, const Tensor& labels, int64_t dim, int64_t samples,
                          int64_t activation) {
  check_dtype({kOverlap, "scores"}, scores, kFloatTypes);
  check_dims({kOverlap, "scores"}, scores, 1, kMaxDims);
  check_within({kOverlap, "dim"}, dim, 0, scores.dim() - 1);
  check_within({kOverlap, "samples"}, samples, 0, dim);
  check_within({kOverlap, "activation"}, activation, 0, 2);
  check_within({kOverlap, "num_classes"}, scores.size(dim), 0, UINT32_MAX - 1);  // all ones means no class
  check_dims({kOverlap, "labels"}, labels, scores.dim() - 1, scores.dim() - 1);
  check_sizes({kOverlap, "labels"}, labels, 0, scores.sizes().slice(0, static_cast<size_t>(dim)));
  check_sizes({kOverlap, "labels"}, labels, dim, scores.sizes().slice(static_cast<size_t>(dim) + 1));
  check_same_device({kOverlap, "labels"}, labels, scores);
}

inline void describe(OverlapTask& task, const Tensor& scores, const Tensor& labels, int64_t dim, int64_t samples,
                     int64_t activation, bool squared, std::optional<int64_t> ignored) {
  check_overlap(scores, labels, dim, samples, activation);
  describe(task, {kOverlap, "labels"}, labels, scores.size(dim), samples, ignored);
  describe(task.score_planes, scores, dim, samples);
  task.type = scores.scalar_type();
  task.scores = scores.const_data_ptr();
  task.activation = static_cast<Activation>(activation);
  task.squared = squared;
}

// Returns a gradient, (outer, classes), as a row-major tensor.
inline Tensor checked_gradient(const char* name, const Tensor& gradient, const OverlapTask& task, const Tensor& scores,
                               int64_t samples) {
  check_dtype({kOverlap, name}, gradient, dtypes({compute_type(task.type)}));
  check_shape({kOverlap, name}, gradient, class_sizes(scores, samples, task.classes));
  check_same_device({kOverlap, name}, gradient, scores);
  return torch::stable::contiguous(gradient);
}

}  // namespace torchext
