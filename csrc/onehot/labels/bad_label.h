#pragma once

#include "common/tensor.h"
#include "onehot/labels/task.h"

namespace torchext {

// Throws std::out_of_range, which becomes IndexError in Python, if the loops have read a bad label.
void throw_bad_label(const Tensor& labels, const LabelTask& task, LabelArgument argument = kLabels);

}  // namespace torchext
