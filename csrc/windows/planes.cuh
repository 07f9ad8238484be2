// Code that the kernels of unfold and of tiles share.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/divide.h"
#include "common/kernel.cuh"
#include "windows/geometry.h"

namespace torchext {

// A thread of a window kernel handles up to so many planes (n, c) in the same way: it computes the indices once for all
// of them and has that many loads in flight at the same time.
constexpr int kPlanes = 4;

// The number of planes that share an item: as many as leave enough items to fill the multiprocessors.
template <class Launch>
int64_t planes_an_item(int64_t planes, int64_t items_a_plane, const Launch& launch) {
  int64_t shared = items_a_plane >= kWarp ? std::min<int64_t>(kPlanes, planes) : 1;
  while (shared > 1 && ceil_div(planes, shared) * items_a_plane < launch.processors * kThreadsAProcessor)
    shared = ceil_div(shared, 2);
  return shared;
}

// Row-major coordinates of a position in an array of three axes.
template <class Index>
struct Grid3 {
  Grid3(int64_t height, int64_t width) : height(height), width(width) {}

  TORCHEXT_HD void coordinates(Index position, Index (&at)[kSpatial]) const {
    const Index row = width.split(position);
    at[2] = position;
    at[1] = row;
    at[0] = height.split(at[1]);
  }

  Divisor<Index> height, width;
};

// The type in which elements of a dtype are summed without weights. Sums of signed integers wrap in the same way as
// those of unsigned integers.
template <class T>
using SumOf =
    std::conditional_t<std::is_integral_v<T> && sizeof(T) < 8, uint32_t, std::conditional_t<sizeof(T) == 2, float, T>>;

}  // namespace torchext
