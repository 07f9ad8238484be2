#pragma once

#include <torch/headeronly/core/ScalarType.h>

namespace torchext {

// The bytes of one element of `dtype` that holds `value`; what is left of the 16 bytes stays as it was.
void encode(double value, torch::headeronly::ScalarType dtype, char* bytes);

}  // namespace torchext
