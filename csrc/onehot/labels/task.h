#pragma once

#include <atomic>
#include <cstdint>

#include "common/axis.h"
#include "common/dtypes.h"

namespace torchext {

constexpr int64_t kNoBadLabel = INT64_MAX;

// The argument that holds a bad label, which the error names; see torchext/onehot/labels.py.
enum LabelArgument : int { kLabels, kPredicted, kTarget, kPermutation };

// Labels of shape (outer, inner) with strides, the number of classes, and the ignored label.
struct LabelTask {
  const void* labels;
  ScalarType label_type;
  Axes outer_axes, inner_axes;
  int64_t outer, inner, classes;
  bool has_ignored;
  int64_t ignored;
  mutable std::atomic<int64_t> bad = kNoBadLabel;  // lowest position of a label that is neither ignored nor a class
};

// Labels with values of shape (outer, inner, features).
struct ValuesTask : LabelTask {
  ScalarType type;
  int64_t value_size;  // bytes
  const void* values;
  Axes outer_value_axes, inner_value_axes, feature_axes;
  int64_t features = 1;
};

}  // namespace torchext
