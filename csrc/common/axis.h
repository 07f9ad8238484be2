#pragma once

#include <cstdint>

namespace torchext {

constexpr int kMaxDims = 64;  // of tensors read and written: torchext/_core/checks.py refuses more, PyTorch does not

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// One axis of a strided tensor; strides count elements.
struct Axis {
  int64_t size;
  int64_t stride;
};

// Behind the axes that are there, or merged with the last where both are one run of memory.
inline void append_axis(Axis* axes, int& count, Axis next) {
  if (count > 0 && axes[count - 1].stride == next.size * next.stride)
    axes[count - 1] = {axes[count - 1].size * next.size, next.stride};
  else
    axes[count++] = next;
}

}  // namespace torchext
