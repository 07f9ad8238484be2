// Bodies of the kernel that adds windows to an image in place.
#pragma once

#include "windows/blend/task.h"
#include "windows/tiles/kernels.cuh"

namespace torchext {

// A block adds to a tile of one window. Where windows overlap, the tile of the first window that covers a position adds
// all windows there, in their order, so that each position has one thread.
template <class Type, class Index>
struct Blend {
  DeviceLayout<Index> layout;
  AddedElements<Type, Index> windows;
  Index window_stride;
  typename Type::Sum* sums;
  Index sample_stride, plane_stride, strides[kSpatial];
  typename Type::Weight* totals;
  Index total_sample_stride, total_strides[kSpatial];
  TileNumbers<Index> tiles;
  Grid3<Index> threads;  // of a tile
};

template <class Type, class Index>
__global__ void __launch_bounds__(kThreads) blend_kernel(const __grid_constant__ Blend<Type, Index> task) {
  constexpr int kRows = kRowsAThread<Type, Index>;
  using Sums = RowSums<Type, Index, kRows>;
  const DeviceLayout<Index>& layout = task.layout;
  for (Index tile = static_cast<Index>(blockIdx.x); tile < task.tiles.count; tile += static_cast<Index>(gridDim.x)) {
    Index own, group, first[kSpatial], at[kSpatial], start[kSpatial];
    task.tiles.locate(tile, own, group, first);
    const Index sample = layout.locate(0, own, start);  // threads may differ if offsets change meanwhile
    task.threads.coordinates(static_cast<Index>(threadIdx.x), at);
    at[1] *= kRows;
#pragma unroll
    for (int a = 0; a < kSpatial; ++a) {
      first[a] += start[a];
      at[a] += first[a];
    }
    Sums sums(layout, task.windows, group, 0);
    const Index plane = sample * task.sample_stride + sums.channel * task.plane_stride;
    const bool adds_totals = task.totals != nullptr && group == 0;
    Index owners[kRows];  // the first window that covers a position inside the image; -1 if there is none so far
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      bool inside = sample >= 0;
#pragma unroll
      for (int a = 0; a < kSpatial; ++a) {
        const Index position = at[a] + (a == 1 ? i : 0);
        inside = inside && position >= 0 && position < layout.axes[a].image;
      }
      owners[i] = inside ? -1 : layout.count;
    }
    const auto sum_at = [&](int i, int p) -> typename Type::Sum& {
      return task.sums[plane + p * task.plane_stride + at[0] * task.strides[0] + (at[1] + i) * task.strides[1] + at[2]];
    };
    const auto total_at = [&](int i) -> typename Type::Weight& {
      return task.totals[sample * task.total_sample_stride + at[0] * task.total_strides[0] +
                         (at[1] + i) * task.total_strides[1] + at[2]];
    };
    each_reaching_window(
        layout, sample, first, task.tiles.sizes, layout.count, [](Index i) { return i; },
        [&](const ReachingWindow<Index>& window) {
          typename Sums::Taps taps = sums.taps(window.start, at);
          if (taps.depth < 0 || taps.column < 0) return;
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
            if (taps.rows[i] >= 0 && owners[i] < 0) {
              owners[i] = window.window;
              if (owners[i] == own) {
#pragma unroll
                for (int p = 0; p < kPlanes; ++p)
                  if (p < sums.planes) sums.sums[i][p] = sum_at(i, p);
                if (adds_totals) sums.totals[i] = total_at(i);
              }
            }
            if (owners[i] != own) taps.rows[i] = -1;
          }
          sums.add(window.window * task.window_stride, taps);
        });
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (owners[i] != own) continue;
#pragma unroll
      for (int p = 0; p < kPlanes; ++p)
        if (p < sums.planes) sum_at(i, p) = sums.sums[i][p];
      if (adds_totals) total_at(i) = sums.totals[i];
    }
  }
}

inline bool fits_32(const BlendTask& task) {
  int64_t windows = (task.tiles.windows - 1) * task.window_stride + (task.channels - 1) * task.channel_stride;
  int64_t sums = (task.samples - 1) * task.sample_stride + (task.channels - 1) * task.plane_stride;
  int64_t totals = (task.samples - 1) * task.total_sample_stride;
  int64_t tiles = task.tiles.windows * task.channels * task.tiles.taps();  // a tile has at least one of them
  for (int a = 0; a < kSpatial; ++a) {
    windows += (task.tiles.axes[a].size - 1) * task.tap_strides[a];
    sums += (task.tiles.axes[a].image - 1) * task.strides[a];
    totals += (task.tiles.axes[a].image - 1) * task.total_strides[a];
  }
  return std::max({windows, sums, totals, tiles, most_of(task.tiles)}) <= kMost32;
}

template <class Type, class Index, class Launch>
void run_blend(const BlendTask& task, const Launch& launch) {
  constexpr Extent kWindow = &TileAxis<int64_t>::size;
  const int64_t windows = task.tiles.windows;
  const int64_t planes = planes_an_item(task.channels, windows * task.tiles.taps(), launch);
  const TileSizes tile(task.tiles, kWindow, kRowsAThread<Type, Index>);
  Blend<Type, Index> blend{
      .layout = DeviceLayout<Index>(task.tiles, task.samples),
      .windows = AddedElements<Type, Index>(task, planes),
      .window_stride = static_cast<Index>(task.window_stride),
      .sums = static_cast<typename Type::Sum*>(task.sums),
      .sample_stride = static_cast<Index>(task.sample_stride),
      .plane_stride = static_cast<Index>(task.plane_stride),
      .strides = {},
      .totals = static_cast<typename Type::Weight*>(task.totals),
      .total_sample_stride = static_cast<Index>(task.total_sample_stride),
      .total_strides = {},
      .tiles = TileNumbers<Index>(task.tiles, kWindow, tile.size, ceil_div(task.channels, planes), windows),
      .threads = Grid3<Index>(tile.threads[1], tile.threads[2])};
  for (int a = 0; a < kSpatial; ++a) {
    blend.strides[a] = static_cast<Index>(task.strides[a]);
    blend.total_strides[a] = static_cast<Index>(task.total_strides[a]);
  }
  const int64_t blocks = std::min<int64_t>(blend.tiles.count, launch.processors * kBlocksAProcessor);
  launch(blend_kernel<Type, Index>, blocks, kThreads, kListBytes<Index>, blend);
}

}  // namespace torchext
