#pragma once

#include <cstdint>

namespace torchext {

constexpr int kMaxDims = 64;  // of input tensors; PyTorch allows more, but torchext/_core/checks.py raises an error

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// One axis of a strided tensor; strides count elements.
struct Axis {
  int64_t size;
  int64_t stride;
};

// Appends an axis. If it continues the last axis as one contiguous run of memory, the two are merged.
inline void append_axis(Axis* axes, int& count, Axis next) {
  if (count > 0 && axes[count - 1].stride == next.size * next.stride)
    axes[count - 1] = {axes[count - 1].size * next.size, next.stride};
  else
    axes[count++] = next;
}

}  // namespace torchext
