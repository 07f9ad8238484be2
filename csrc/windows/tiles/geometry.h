// Positions of the windows of a tensor, shared by host and device.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/host_device.h"
#include "windows/geometry.h"

namespace torchext {

// Window g of an axis starts at min(first + g·stride, last). Its tap k is at position start + k·dilation of the image.
template <class Index>
struct TileAxis {
  Index image, size, dilation;  // size: taps of a window
  Index grid, stride, first, last;

  TORCHEXT_HD Index reach() const { return (size - 1) * dilation + 1; }

  TORCHEXT_HD Index start(Index window) const {
    const Index at = first + window * stride;
    return at < last ? at : last;
  }

  // The number of windows that start at or before a position. They are the first windows of the axis.
  TORCHEXT_HD Index windows_until(Index position) const { return windows_until(position, Quotient{stride}); }

  // The same number, with a faster division by the stride.
  template <class Divide>
  TORCHEXT_HD Index windows_until(Index position, const Divide& by_stride) const {
    if (position >= last) return grid;
    if (position < first) return 0;
    const Index count = by_stride.quotient(position - first) + 1;
    return count < grid ? count : grid;
  }

  // The number of positions of the padding, before and after the image, that windows reach.
  TORCHEXT_HD Index before() const { return first < 0 ? -first : 0; }
  TORCHEXT_HD Index after() const {
    const Index end = start(grid - 1) + reach();
    return end > image ? end - image : 0;
  }

 private:
  struct Quotient {
    Index divisor;
    TORCHEXT_HD Index quotient(Index numerator) const { return numerator / divisor; }
  };
};

// Clamps a start from a tensor of offsets to the neighbourhood of the image. A window that starts farther away is
// outside the image in any case.
template <class Index>
TORCHEXT_HD Index near_start(int64_t start, Index size, Index image) {
  if (start < -static_cast<int64_t>(size)) return -size;
  return start > static_cast<int64_t>(image) ? image : static_cast<Index>(start);
}

// A rounded sum of weighted integers as T. A sum that 64 bits do not hold becomes the nearest number that they hold, a
// sum that T does not hold wraps around, and a NaN becomes 0.
template <class T>
TORCHEXT_HD T integer_of(double whole) {
  constexpr double kBound = 9223372036854775808.0;
  if (whole != whole) return 0;
  if (std::is_same_v<T, uint64_t> && whole >= kBound)
    return static_cast<T>(whole < 2 * kBound ? static_cast<uint64_t>(whole) : ~uint64_t{0});
  if (whole >= kBound) return static_cast<T>(INT64_MAX);
  return static_cast<T>(whole < -kBound ? INT64_MIN : static_cast<int64_t>(whole));
}

}  // namespace torchext
