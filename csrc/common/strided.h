#pragma once

#include <cstdint>

#include "common/axis.h"
#include "common/divide.h"

namespace torchext {

// Computes the offset of an element of a strided tensor from its position in row-major order.
template <class Index, int kMost>
struct Strided {
  Strided() = default;
  Strided(const Axis* axes, int axis_count) : count(axis_count > 1 ? axis_count : 1) {
    stride[0] = 0;
    for (int a = 0; a < axis_count; ++a) {
      size[a] = Divisor<Index>(axes[a].size);
      stride[a] = static_cast<Index>(axes[a].stride);
    }
  }

  TORCHEXT_HD Index offset(Index position) const {
    Index sum = 0;
#pragma unroll 1  // inlined in many places; the loop rarely runs more than once
    for (int a = count - 1; a > 0; --a) {
      const Index rest = size[a].split(position);
      sum += position * stride[a];
      position = rest;
    }
    return sum + position * stride[0];
  }

  int count;
  Divisor<Index> size[kMost];
  Index stride[kMost];
};

// The offset of the last element. Together with the sizes it decides whether 32-bit indices suffice.
inline int64_t last_offset(const Axis* axes, int count) {
  int64_t offset = 0;
  for (int a = 0; a < count; ++a) offset += (axes[a].size - 1) * axes[a].stride;
  return offset;
}

}  // namespace torchext
