#pragma once

#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

#include "windows/geometry.h"
#include "windows/padding.h"

namespace torchext {

// Each plane (n, c) is split along its depth, its rows and its columns; one item of a task is one such block.
struct Blocks {
  int64_t depth;          // blocks along the depth, each of size 1
  int64_t rows, columns;  // of one block; the last ones may be smaller
  int64_t row_count, column_count;
  int64_t row_blocks, column_blocks;
  bool channels_inside;  // consecutive items walk the channels of one block: they share its cache lines

  int64_t a_plane() const { return depth * row_blocks * column_blocks; }
};

// From the first row that a block of that many window rows reads to its last.
inline int64_t unfold_row_span(const WindowGeometry<int64_t>& g, int64_t rows) {
  return (rows - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1;
}

// Whether a row or a plane is so long for what windows have of it that each element is better looked for by itself:
// strides, dilations and paddings may be anything, and memory and time are to follow the result.
constexpr bool is_sparse(int64_t length, int64_t used, int64_t most) {
  return length > most && length / 16 > used;
}

// The output is (n, c, taps, windows), row-major; the blocks split the grid of windows.
struct UnfoldTask {
  WindowGeometry<int64_t> windows;
  int64_t batch, channels;
  const void* image;
  int64_t batch_stride, channel_stride, strides[kSpatial];  // in elements, as below
  void* out;
  int element_size;
  PaddingMode mode;  // the constant wherever nothing is padded
  char value[16];    // one element, read outside the image in constant mode
  bool sparse;
  Blocks blocks;
  int64_t scratch_bytes;
};

// Whether each element of a row goes straight to its positions. Where windows overlap, that transposes it once for each
// of them, and still takes 0.5 to 0.9 of the time of staging, as long as rows are not gathered and a row of the kernel
// fills the tiles of a transposition.
inline bool goes_straight(const UnfoldTask& task) {
  const auto& g = task.windows;
  if (g.kernel[2] <= g.stride[2]) return true;
  return g.dilation[2] == 1 && task.strides[2] == 1 && g.kernel[2] * task.element_size >= 16;
}

// How many elements of a padded row a block of that many windows reads: whole strides where it is staged.
inline int64_t unfold_row_length(const UnfoldTask& task, int64_t windows) {
  const auto& g = task.windows;
  const int64_t reach = (g.kernel[2] - 1) * g.dilation[2], stride = g.stride[2];
  return goes_straight(task) ? (windows - 1) * stride + reach + 1 : (windows + reach / stride) * stride;
}

// The output is (n, c, image), row-major. The blocks split the image: its rows, and each row in units of `stride`
// elements, counted from the first element of the padded image. What windows hold of the padding is added to the
// element that it shows in that mode, or dropped if the padding is constant.
struct FoldTask {
  WindowGeometry<int64_t> windows;
  int64_t batch, channels;
  const void* columns;
  int64_t batch_stride, channel_stride, tap_stride, window_stride;
  void* out;
  torch::headeronly::ScalarType dtype;
  int element_size;
  PaddingMode mode;
  int64_t first_unit;  // that holds an element of the image
  bool disjoint;       // no two windows overlap: elements are moved, not added
  bool sparse;         // one item is a plane
  Blocks blocks;
  int64_t scratch_bytes;
};

}  // namespace torchext
