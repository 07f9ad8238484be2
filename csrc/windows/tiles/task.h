#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "windows/padding.h"
#include "windows/tiles/geometry.h"

namespace torchext {

// The windows of a call. They are on a grid, or at the positions in a tensor of offsets.
struct TileLayout {
  TileAxis<int64_t> axes[kSpatial];
  int64_t windows;  // of each sample, or of all samples together if own_sample
  PaddingMode mode = PaddingMode::kConstant;

  bool on_grid = true;
  const int64_t* offsets = nullptr;  // (windows, offset_columns) if not on_grid; may be null if there are no windows
  int64_t offset_columns = 0;
  int column[kSpatial] = {-1, -1, -1};  // of the offsets for each axis, or -1
  bool own_sample = false;              // the first column of the offsets is the sample of each window

  int64_t in_row() const { return on_grid ? axes[2].grid : 1; }  // windows next to each other
  int64_t taps() const { return axes[0].size * axes[1].size * axes[2].size; }
};

// The position of a window. The sample is -1 if the window belongs to no sample.
struct TilePosition {
  int64_t sample, start[kSpatial];
};

inline TilePosition tile_position(const TileLayout& tiles, int64_t sample, int64_t samples, int64_t window) {
  TilePosition position{sample, {}};
  if (tiles.on_grid) {
    for (int a = kSpatial - 1; a >= 0; --a) {
      const TileAxis<int64_t>& axis = tiles.axes[a];
      const int64_t quotient = axis.grid == 1 ? window : window / axis.grid;
      position.start[a] = axis.start(window - quotient * axis.grid);
      window = quotient;
    }
    return position;
  }
  const int64_t* offsets = tiles.offsets + window * tiles.offset_columns;
  for (int a = 0; a < kSpatial; ++a)
    if (tiles.column[a] >= 0)
      position.start[a] = near_start(read_once(offsets[tiles.column[a]]), tiles.axes[a].size, tiles.axes[a].image);
  if (tiles.own_sample) {
    const int64_t sample = read_once(offsets[0]);
    position.sample = sample >= 0 && sample < samples ? sample : -1;
  }
  return position;
}

// The taps of a window whose positions are in [begin, end) of an axis.
struct TapRange {
  int64_t first, end;
};

inline TapRange taps_within(const TileAxis<int64_t>& axis, int64_t start, int64_t begin, int64_t end) {
  const auto until = [&](int64_t position) {  // the number of taps before a position
    const int64_t distance = position - start;
    if (distance <= 0) return int64_t{0};
    const int64_t taps = axis.dilation == 1 ? distance : (distance - 1) / axis.dilation + 1;
    return taps < axis.size ? taps : axis.size;
  };
  return {until(begin), until(end)};
}

// The output is (n, window, c, taps), row-major. An item is one channel of a strip, which is several windows next to
// each other. If the channels are the dense axis of the image, an item is one row of taps of a strip's windows in all
// channels.
struct ExtractTask {
  TileLayout tiles;
  int64_t samples, channels;  // of the image
  int64_t outer;              // 1 if each window has its own sample, else the number of samples
  const void* image;
  int64_t sample_stride, channel_stride, strides[kSpatial];  // in elements
  void* out;
  int element_size;
  char value[16];  // one element, read outside the image
  bool channels_last;
  int64_t strip;  // the largest number of windows in a strip
  // so many items share the rows of a window; not used if channels_last, 1 if a strip has several windows
  int64_t parts;
  bool streams = false;  // whether strips are written with stores that bypass the caches
};

inline int64_t strips_a_row(const ExtractTask& task) {
  return (task.tiles.in_row() + task.strip - 1) / task.strip;
}

inline int64_t items_a_strip(const ExtractTask& task) {
  const int64_t rows = task.tiles.axes[0].size * task.tiles.axes[1].size;
  return task.channels_last ? rows : task.channels * task.parts;
}

// The output is (n, c, image), row-major. It is split into blocks of rows and columns; one item is a block of one
// plane.
struct MergeTask {
  TileLayout tiles;
  int64_t samples, channels;
  const void* windows;
  int64_t sample_stride, channel_stride, window_strides[kSpatial], tap_strides[kSpatial];  // in elements
  const void* weight;  // of the taps, row-major, in the type of the sums; null if all weights are 1
  bool normalize;
  void* out;
  ScalarType dtype;
  int element_size;

  int64_t rows, columns, row_blocks, column_blocks;
  // If the windows are not on a grid, the windows that reach each block, in order. If each window has its own sample,
  // each sample has its own bins.
  const int64_t* bin_starts = nullptr;
  const int64_t* bins = nullptr;

  bool copies_single = false;  // an element that only one window covers is copied to the output unchanged
  bool disjoint = false;       // copies_single, and no two windows overlap
  bool divides = false;        // divide by the totals: weights are so small that the inverse of a total may be infinite
  bool may_be_zero = false;    // a weight or a share may be 0

  bool blends() const { return normalize || weight != nullptr; }
  bool own_sample() const { return tiles.own_sample; }
  int64_t blocks() const { return tiles.axes[0].image * row_blocks * column_blocks; }
  int64_t planes() const { return own_sample() ? channels : samples * channels; }
  int64_t groups() const { return own_sample() ? samples : 1; }  // of blocks, each with its own bins
};

}  // namespace torchext
