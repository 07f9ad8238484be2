#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "windows/tiles/task.h"

namespace torchext {

// Adds windows (window, c, taps) at offsets to sums (sample, c, image), and their weights to totals (sample, image).
struct BlendTask {
  TileLayout tiles;
  int64_t samples, channels;
  const void* windows;
  int64_t window_stride, channel_stride, tap_strides[kSpatial];  // in elements
  const void* weight;  // of the taps, row-major, in the type of the totals; null if all weights are 1
  void* sums;
  int64_t sample_stride, plane_stride, strides[kSpatial];  // in elements; the last one is 1
  void* totals;                                            // may be null
  int64_t total_sample_stride, total_strides[kSpatial];    // in elements; the last one is 1
  ScalarType dtype;                                        // of the windows

  // For the CPU. Only positions in the box [begin, end) are covered by windows. An item is one row of it in one plane,
  // no longer than `columns`. The totals are the last plane.
  const TilePosition* positions = nullptr;
  int64_t begin[kSpatial], end[kSpatial], columns, column_blocks;

  int64_t planes() const { return channels + (totals != nullptr); }
  int64_t items() const { return planes() * (end[0] - begin[0]) * column_blocks * (end[1] - begin[1]); }
};

}  // namespace torchext
