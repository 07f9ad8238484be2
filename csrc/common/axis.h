#pragma once

#include <cstdint>

namespace torchext {

constexpr int kMaxDims = 64;  // PyTorch's own limit

// One axis of a strided tensor; strides count elements.
struct Axis {
  int64_t size;
  int64_t stride;
};

}  // namespace torchext
