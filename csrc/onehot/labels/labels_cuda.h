#pragma once

#include "common/cuda.h"
#include "onehot/labels/kernels.cuh"

namespace torchext {

// What kernels say of a bad label, and where: `argument` names what the labels are to the user.
LabelShape shape_of(const Tensor& labels, const OnDevice& device, LabelArgument argument = kLabels);

}  // namespace torchext
