#pragma once

#include <cstdint>

#include "common/axis.h"
#include "common/divide.h"

namespace torchext {

// Computes the offset of an element of a strided tensor from its position in row-major order.
template <class Index, int kMost>
struct Strided {
  Strided() = default;
  explicit Strided(const Axes& axes) : count(axes.count > 1 ? axes.count : 1) {
    stride[0] = 0;
    for (int a = 0; a < axes.count; ++a) {
      size[a] = Divisor<Index>(axes[a].size);
      stride[a] = static_cast<Index>(axes[a].stride);
    }
  }

  TORCHEXT_HD Index offset(Index position) const {
    Index sum = 0;
#pragma unroll 1  // inlined in many places; the loop rarely runs more than once
    for (int a = count - 1; a > 0; --a) {
      const Index above = size[a].split(position);
      sum += position * stride[a];
      position = above;
    }
    return sum + position * stride[0];
  }

  int count;
  Divisor<Index> size[kMost];
  Index stride[kMost];
};

}  // namespace torchext
