#pragma once

#include "common/cuda.h"
#include "onehot/labels/kernels.cuh"

namespace torchext {

// Where and with what shape kernels record a bad label; nothing unless `raise`. `argument` is the argument of the
// public function that holds the labels.
LabelShape shape_of(const Tensor& labels, const OnDevice& device, bool raise, LabelArgument argument = kLabels);

}  // namespace torchext
