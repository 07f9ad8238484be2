#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "onehot/labels/task.h"

namespace torchext {

enum class Activation : int { kNone, kSoftmax, kSigmoid };

// The axes of a strided tensor (outer, classes, inner).
struct ClassPlanes {
  Axes outer_axes, inner_axes;
  int64_t class_stride = 0;
};

// One item of the task is a block of positions of one outer index.
struct OverlapTask : LabelTask {
  ScalarType type;
  const void* scores;
  ClassPlanes score_planes;
  Activation activation;
  bool squared;
  int64_t block = 1;  // positions in a block
  // Forward: the result of each block, (outer, blocks, classes). Sums are in the compute type.
  void *intersection = nullptr, *total = nullptr;
  int64_t* support = nullptr;
  // Backward: the gradients of the two sums, (outer, classes) in the compute type, and those of the scores.
  const void *grad_intersection = nullptr, *grad_total = nullptr;
  void* grad_scores = nullptr;
  ClassPlanes grad_planes;
};

inline int64_t blocks_of(const OverlapTask& task) {
  return (task.inner + task.block - 1) / task.block;
}

}  // namespace torchext
