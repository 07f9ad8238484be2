// Positions outside an image, shared by host and device. torchext/windows/padding.py has the same rules for the
// references.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace torchext {

// In the order of MODES in torchext/windows/padding.py.
enum class PaddingMode : int32_t { kConstant, kReflect, kReplicate, kCircular, kSymmetric };

// The element of an axis of `size` elements that `position` is a copy of, or -1 for the constant. Paddings are at most
// one period long (_padding.check). For a position farther away, which kernels may read ahead, the result is some
// element.
template <class Index>
TORCHEXT_HD Index padding_source(PaddingMode mode, Index position, Index size) {
  if (position >= 0 && position < size) return position;
  if (mode == PaddingMode::kConstant) return -1;
  const bool before = position < 0;
  const Index last = size - 1;
  Index source = position;
  // The differences come first: twice a size may overflow.
  if (mode == PaddingMode::kReflect) source = before ? -position : last - (position - last);
  if (mode == PaddingMode::kSymmetric) source = before ? -1 - position : last - (position - size);
  if (mode == PaddingMode::kCircular) source = before ? position + size : position - size;
  return source < 0 ? 0 : source < last ? source : last;
}

// The positions of the padding that are copies of one element: `before` positions from `first_before` on, and `after`
// positions from `first_after` on.
template <class Index>
struct PaddingCopies {
  Index first_before, before, first_after, after;

  TORCHEXT_HD Index count() const { return before + after; }
  TORCHEXT_HD Index position(Index i) const { return i < before ? first_before + i : first_after + (i - before); }
};

// The inverse of padding_source for an axis with `padding` positions on either side.
template <class Index>
TORCHEXT_HD PaddingCopies<Index> padding_copies(PaddingMode mode, Index element, Index size, Index padding) {
  const Index none = 0, last = size - 1;
  if (mode == PaddingMode::kConstant) return {none, none, none, none};
  if (mode == PaddingMode::kReplicate)
    return {-padding, element == 0 ? padding : none, size, element == last ? padding : none};
  Index before = element - size, beyond = element;  // beyond: from the end of the image to the copy after it
  if (mode == PaddingMode::kReflect) before = -element, beyond = last - element - 1;
  if (mode == PaddingMode::kSymmetric) before = -1 - element, beyond = last - element;
  return {before, before < 0 && before >= -padding ? Index{1} : none, size + beyond,
          beyond >= 0 && beyond < padding ? Index{1} : none};
}

}  // namespace torchext
