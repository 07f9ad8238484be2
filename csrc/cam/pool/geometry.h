#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace torchext {

// The input of linear interpolation along one axis for one output index: (1 - weight)·[low] + weight·[high].
template <class T>
struct LinearTap {
  int64_t low, high;
  T weight;
};

// The same as F.interpolate with align_corners=False and size=. As there, the coordinate is computed in the compute
// type. It is rounded once, as it is where a compiler contracts the product and the difference: which elements are read
// must not depend on the instruction set, because one of them may be infinite.
template <class T>
TORCHEXT_HD LinearTap<T> linear_tap(int64_t index, int64_t input, int64_t output) {
  if (input == output) return {index, index, T(0)};
  const T scale = static_cast<T>(input) / static_cast<T>(output);
  T source = std::fma(scale, static_cast<T>(index) + T(0.5), T(-0.5));
  if (source < T(0)) source = T(0);
  int64_t low = static_cast<int64_t>(source);
  if (low > input - 1) low = input - 1;
  const T weight = source - static_cast<T>(low);
  return {low, low < input - 1 ? low + 1 : low, weight > T(1) ? T(1) : weight};
}

// Two products, not low + weight·(high - low), which is NaN between two equal infinities.
template <class T>
TORCHEXT_HD T lerp(T low, T high, T weight) {
  return (T(1) - weight) * low + weight * high;
}

}  // namespace torchext
