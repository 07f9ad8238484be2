// Computes the task of a call from its tensors, for the launchers of the CPU and of CUDA.
#pragma once

#include "onehot/labels/describe.h"
#include "onehot/one_hot/task.h"

namespace torchext {

constexpr const char kOneHot[] = "one_hot";

}  // namespace torchext
