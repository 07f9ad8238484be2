// Turns the tensors of a call into a task, for the CPU and for CUDA.
#pragma once

#include <optional>

#include "common/tensor.h"
#include "onehot/class_max/task.h"
#include "onehot/labels/describe.h"

namespace torchext {

inline void describe(ExtremesTask& task, const Tensor& values, const Tensor& labels, int64_t classes, int64_t samples,
                     bool largest, std::optional<int64_t> ignored) {
  describe(task, "class_extremes", values, kLabelTypes | kFloatTypes, labels, classes, samples, ignored);
  task.largest = largest;
}

}  // namespace torchext
