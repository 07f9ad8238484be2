#pragma once

#include <optional>

#include "common/cuda.h"
#include "onehot/labels/kernels.cuh"

namespace torchext {

// What kernels record of a bad label, and where; nothing unless it shall `raise`. `argument` is what the labels are to
// the user.
std::optional<LabelShape> shape_of(const Tensor& labels, const OnDevice& device, bool raise,
                                   LabelArgument argument = kLabels);

}  // namespace torchext
