// From a call's tensors to its task, for the CPU's launcher and for CUDA's.
#pragma once

#include "onehot/labels/describe.h"
#include "onehot/one_hot/task.h"

namespace torchext {

constexpr const char kOneHot[] = "one_hot";

inline void describe_output(OneHotTask& task, const Tensor& out, double hot, double cold) {
  describe_values(task, out, hot, cold);
}

}  // namespace torchext
