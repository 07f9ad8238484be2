#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "windows/geometry.h"
#include "windows/padding.h"

namespace torchext {

// Each plane (n, c) is split along its depth, its rows and its columns; one item of a task is one such block.
struct Blocks {
  int64_t depth;          // blocks along the depth, each with a depth of 1
  int64_t rows, columns;  // of a block; the last blocks may be smaller
  int64_t row_count, column_count;
  int64_t row_blocks, column_blocks;
  bool channels_inside;  // consecutive items are the channels of one block, which share cache lines

  int64_t blocks_per_plane() const { return depth * row_blocks * column_blocks; }
};

// The number of rows of the image from the first to the last one that a block of so many window rows reads.
inline int64_t unfold_row_span(const WindowGeometry<int64_t>& g, int64_t rows) {
  return (rows - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1;
}

// Whether windows use so few elements of a row or plane that each element is read on its own. Strides, dilations and
// paddings may be arbitrarily large, but memory and time have to be proportional to the result.
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
  PaddingMode mode;  // kConstant if nothing is padded
  char value[16];    // one element, read outside the image in constant mode
  bool sparse;
  bool streams = false;  // whether staged rows are written with stores that bypass the caches
  Blocks blocks;
  int64_t scratch_bytes;
};

// Whether each row of the image is transposed directly into the output instead of being staged. Where windows overlap,
// this transposes an element once for each window that holds it. It still takes only 0.5 to 0.9 of the time of staging
// if the rows are contiguous and a row of the kernel fills the tiles of a transposition.
inline bool writes_directly(const UnfoldTask& task) {
  const auto& g = task.windows;
  if (g.kernel[2] <= g.stride[2]) return true;
  return g.dilation[2] == 1 && task.strides[2] == 1 && g.kernel[2] * task.element_size >= 16;
}

// The number of elements of a padded row that a block of so many windows reads. Where rows are staged, it is a multiple
// of the stride.
inline int64_t unfold_row_length(const UnfoldTask& task, int64_t windows) {
  const auto& g = task.windows;
  const int64_t reach = (g.kernel[2] - 1) * g.dilation[2], stride = g.stride[2];
  return writes_directly(task) ? (windows - 1) * stride + reach + 1 : (windows + reach / stride) * stride;
}

// The output is (n, c, image), row-major. The blocks split the image into groups of rows, and each row into units of
// `stride` elements, counted from the first element of the padded image. A value that a window holds of the padding is
// added to the element that the position is a copy of, or dropped if the padding is constant.
struct FoldTask {
  WindowGeometry<int64_t> windows;
  int64_t batch, channels;
  const void* columns;
  int64_t batch_stride, channel_stride, tap_stride, window_stride;
  void* out;
  ScalarType dtype;
  int element_size;
  PaddingMode mode;
  int64_t first_unit;  // the first unit that holds an element of the image
  bool disjoint;       // no two windows overlap, so elements are moved, not added
  bool sparse;         // an item is a plane
  Blocks blocks;
  int64_t scratch_bytes;
};

}  // namespace torchext
