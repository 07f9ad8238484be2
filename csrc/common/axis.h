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

// The axes of some dimensions of a tensor, outermost first. There are none for a single element.
struct Axes {
  // Appends an axis. If it continues the last axis as one contiguous run of memory, the two are merged.
  void append(Axis next) {
    if (count > 0 && axis[count - 1].stride == next.size * next.stride)
      axis[count - 1] = {axis[count - 1].size * next.size, next.stride};
    else
      axis[count++] = next;
  }

  const Axis& operator[](int a) const { return axis[a]; }
  const Axis* begin() const { return axis; }
  const Axis* end() const { return axis + count; }
  bool is_one_run() const { return count == 0 || (count == 1 && axis[0].stride == 1); }

  int64_t elements() const {
    int64_t product = 1;
    for (const Axis& one : *this) product *= one.size;
    return product;
  }

  int64_t last_offset() const {
    int64_t offset = 0;
    for (const Axis& one : *this) offset += (one.size - 1) * one.stride;
    return offset;
  }

  int count = 0;
  Axis axis[kMaxDims];
};

}  // namespace torchext
