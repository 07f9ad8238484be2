#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "windows/geometry.h"

namespace torchext {

// Finds the channel with the largest score at each position of scores (c, image). An item is a row of the image.
struct BestTask {
  const void* scores;
  int64_t channels, channel_stride, image[kSpatial], strides[kSpatial];  // in elements; the last stride is 1
  int64_t* out;                                                          // row-major
  ScalarType dtype;
};

}  // namespace torchext
