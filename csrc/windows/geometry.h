// Index math of the window kernels, shared by host and device.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace torchext {

constexpr int kSpatial = 3;  // depth, height, width; dimensions that are absent have size 1 everywhere

inline int64_t product(const int64_t (&sizes)[kSpatial]) {
  return sizes[0] * sizes[1] * sizes[2];
}

// Along each axis, tap k of window w reads the image position w·stride - padding + k·dilation.
template <class Index>
struct WindowGeometry {
  Index image[kSpatial];
  Index kernel[kSpatial];
  Index dilation[kSpatial];
  Index padding[kSpatial];
  Index stride[kSpatial];
  Index grid[kSpatial];  // number of windows along each axis
};

// The position that tap k of window w reads along an axis. A position outside [0, image[axis]) is padding.
template <class Index>
TORCHEXT_HD Index image_position(const WindowGeometry<Index>& geometry, int axis, Index window, Index tap) {
  return window * geometry.stride[axis] - geometry.padding[axis] + tap * geometry.dilation[axis];
}

// The window whose tap k reads `position` along an axis, or -1 if there is none.
template <class Index>
TORCHEXT_HD Index window_of(const WindowGeometry<Index>& geometry, int axis, Index position, Index tap) {
  const Index start = position + geometry.padding[axis] - tap * geometry.dilation[axis];
  if (start < 0) return -1;
  const Index window = start / geometry.stride[axis];
  return window * geometry.stride[axis] == start && window < geometry.grid[axis] ? window : -1;
}

// The number of windows that fit along an axis.
template <class Index>
TORCHEXT_HD Index grid_size(Index image, Index kernel, Index dilation, Index padding, Index stride) {
  return (image + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

}  // namespace torchext
