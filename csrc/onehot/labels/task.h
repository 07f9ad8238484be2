#pragma once

#include <atomic>
#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

#include "common/axis.h"

namespace torchext {

constexpr int64_t kNoBadLabel = INT64_MAX;

// The argument that holds a bad label, which the error names; see torchext/onehot/labels.py.
enum LabelArgument : int { kLabels, kPredicted, kTarget, kPermutation };

// Labels of shape (outer, inner) with strides, the number of classes, and the ignored label.
struct LabelTask {
  const void* labels;
  torch::headeronly::ScalarType label_type;
  int outer_axes, inner_axes;
  Axis outer_axis[kMaxDims], inner_axis[kMaxDims];
  int64_t outer, inner, classes;
  bool has_ignored;
  int64_t ignored;
  mutable std::atomic<int64_t> bad = kNoBadLabel;  // lowest position of a label that is neither ignored nor a class
};

}  // namespace torchext
