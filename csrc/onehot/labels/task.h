#pragma once

#include <atomic>
#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

#include "common/axis.h"

namespace torchext {

constexpr int64_t kNoBadLabel = INT64_MAX;

// What a bad label stands in, for the error that names it; see torchext/onehot/labels.py.
enum LabelArgument : int { kLabels, kPredicted, kTarget, kPermutation };

// Labels (outer, inner), strided, and which of them are classes.
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
