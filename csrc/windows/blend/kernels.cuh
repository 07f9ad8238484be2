// Bodies of the kernel that adds windows to an image in place.
#pragma once

#include "windows/blend/task.h"
#include "windows/tiles/kernels.cuh"

namespace torchext {

// The neighbouring positions that a thread handles, and the positions of a block.
constexpr int kBlendPositions = 4;
constexpr int kBlendTile = kThreads * kBlendPositions;

// A block adds to a tile: rows of one window at one depth, in up to kPlanes channels. Where windows overlap, the tile
// of the first window that covers a position adds all windows there, in their order, so that each position has one
// thread.
template <class Type, class Index>
struct Blend {
  DeviceLayout<Index> tiles;
  const typename Type::Element* windows;
  Index window_stride, channel_stride, tap_strides[kSpatial];
  const typename Type::Weight* weight;
  typename Type::Sum* sums;
  Index sample_stride, plane_stride, strides[kSpatial];
  typename Type::Weight* totals;
  Index total_sample_stride, total_strides[kSpatial];
  Index count, channels, planes_an_item, tile_columns, blocks;
  Divisor<Index> by_columns, by_column_tiles, by_row_tiles, by_depths, by_groups;
};

// A window that reaches the tile of a block.
template <class Index>
struct ReachingWindow {
  Index window, start[kSpatial];
};

// The positions of a tile that a thread handles, and their sums.
template <class Type, class Index>
struct BlendedPositions {
  enum class State { kOutside, kUndecided, kAdding };

  const Blend<Type, Index>& task;
  Index sample, channel, planes;
  State states[kBlendPositions];
  Index at[kBlendPositions][kSpatial];
  typename Type::Sum sums[kBlendPositions][kPlanes];
  typename Type::Weight totals[kBlendPositions];

  TORCHEXT_HD Index place(int i) const {
    return sample * task.sample_stride + channel * task.plane_stride + at[i][0] * task.strides[0] +
           at[i][1] * task.strides[1] + at[i][2];
  }
  TORCHEXT_HD Index total_place(int i) const {
    return sample * task.total_sample_stride + at[i][0] * task.total_strides[0] + at[i][1] * task.total_strides[1] +
           at[i][2];
  }
  TORCHEXT_HD bool adds_totals() const { return task.totals != nullptr && channel == 0; }

  // Adds the elements of a window. `own` is the window of the tile.
  TORCHEXT_HD void add(const ReachingWindow<Index>& other, Index own) {
#pragma unroll
    for (int i = 0; i < kBlendPositions; ++i) {
      Index tap[kSpatial];
      bool covers = states[i] != State::kOutside;
#pragma unroll
      for (int a = 0; a < kSpatial; ++a) {
        tap[a] = at[i][a] - other.start[a];
        covers = covers && tap[a] >= 0 && tap[a] < task.tiles.axes[a].size;
      }
      if (!covers) continue;
      if (states[i] == State::kUndecided) {
        states[i] = other.window == own ? State::kAdding : State::kOutside;
        if (states[i] == State::kOutside) continue;
#pragma unroll
        for (int p = 0; p < kPlanes; ++p)
          if (p < planes) sums[i][p] = task.sums[place(i) + p * task.plane_stride];
        if (adds_totals()) totals[i] = task.totals[total_place(i)];
      }
      const Index taps = (tap[0] * task.tiles.axes[1].size + tap[1]) * task.tiles.axes[2].size + tap[2];
      const auto weight = task.weight == nullptr ? typename Type::Weight{1} : task.weight[taps];
      if (weight == 0) continue;  // infinity times 0 would be a NaN
      const auto* from = task.windows + other.window * task.window_stride + channel * task.channel_stride +
                         tap[0] * task.tap_strides[0] + tap[1] * task.tap_strides[1] + tap[2] * task.tap_strides[2];
#pragma unroll
      for (int p = 0; p < kPlanes; ++p)
        if (p < planes) Type::add(sums[i][p], from[p * task.channel_stride], weight);
      totals[i] += weight;
    }
  }

  TORCHEXT_HD void write() const {
#pragma unroll
    for (int i = 0; i < kBlendPositions; ++i) {
      if (states[i] != State::kAdding) continue;
#pragma unroll
      for (int p = 0; p < kPlanes; ++p)
        if (p < planes) task.sums[place(i) + p * task.plane_stride] = sums[i][p];
      if (adds_totals()) task.totals[total_place(i)] = totals[i];
    }
  }
};

template <class Type, class Index>
__global__ void __launch_bounds__(kThreads) blend_kernel(const __grid_constant__ Blend<Type, Index> task) {
  Index* reaches = reinterpret_cast<Index*>(torchext_shared);
  auto* list = reinterpret_cast<ReachingWindow<Index>*>(reaches + kThreads);
  const Index thread = static_cast<Index>(threadIdx.x);
  const TileAxis<Index>* axes = task.tiles.axes;
  const Index rows = kBlendTile / task.tile_columns;
  for (Index block = static_cast<Index>(blockIdx.x); block < task.blocks; block += static_cast<Index>(gridDim.x)) {
    Index column = block;
    Index row = task.by_column_tiles.split(column);
    Index depth = task.by_row_tiles.split(row);
    Index group = task.by_depths.split(depth);
    const Index own = task.by_groups.split(group);
    Index start[kSpatial];
    const Index sample = task.tiles.locate(0, own, start);
    // the first position of the tile and its size
    const Index first[kSpatial] = {start[0] + depth, start[1] + row * rows, start[2] + column * task.tile_columns};
    const Index size[kSpatial] = {1, rows, task.tile_columns};

    using Positions = BlendedPositions<Type, Index>;
    Positions positions{task, sample, group * task.planes_an_item, 0, {}, {}, {}, {}};
    positions.planes = least(task.planes_an_item, task.channels - positions.channel);
#pragma unroll
    for (int i = 0; i < kBlendPositions; ++i) {
      Index x = thread + i * kThreads;
      const Index y = task.by_columns.split(x);
      const Index offset[kSpatial] = {0, y, x};
      bool inside = sample >= 0;
#pragma unroll
      for (int a = 0; a < kSpatial; ++a) {
        const Index at = first[a] + offset[a];
        positions.at[i][a] = at;
        inside = inside && at >= 0 && at < axes[a].image && at - start[a] < axes[a].size;
      }
      positions.states[i] = inside ? Positions::State::kUndecided : Positions::State::kOutside;
    }

    for (Index begin = 0; begin < task.count; begin += kThreads) {
      const Index count = least(static_cast<Index>(kThreads), task.count - begin);
      ReachingWindow<Index> mine{begin + thread, {}};
      bool reached = false;
      if (thread < count) {
        reached = task.tiles.locate(0, mine.window, mine.start) == sample;
#pragma unroll
        for (int a = 0; a < kSpatial; ++a)
          reached = reached && mine.start[a] < first[a] + size[a] && first[a] < mine.start[a] + axes[a].size;
      }
      __syncthreads();  // the list before this one has been read
      reaches[thread] = reached ? 1 : 0;
      __syncthreads();
      Index before = 0, listed = 0;
      for (Index other = 0; other < count; ++other) {
        before += other < thread ? reaches[other] : 0;
        listed += reaches[other];
      }
      if (reached) list[before] = mine;
      __syncthreads();
      for (Index i = 0; i < listed; ++i) positions.add(list[i], own);
    }
    positions.write();
  }
}

// How windows are divided into tiles.
struct BlendLayout {
  int64_t planes, groups, columns = kWarp, column_tiles, row_tiles, blocks;

  BlendLayout(const BlendTask& task, int64_t planes_) : planes(planes_), groups(ceil_div(task.channels, planes_)) {
    const TileAxis<int64_t>* axes = task.tiles.axes;
    while (columns < std::min<int64_t>(axes[2].size, kBlendTile)) columns *= 2;
    column_tiles = ceil_div(axes[2].size, columns);
    row_tiles = ceil_div(axes[1].size, kBlendTile / columns);
    blocks = task.tiles.windows * groups * axes[0].size * row_tiles * column_tiles;
  }
};

inline bool fits_32(const BlendTask& task) {
  int64_t windows = (task.tiles.windows - 1) * task.window_stride + (task.channels - 1) * task.channel_stride;
  int64_t sums = (task.samples - 1) * task.sample_stride + (task.channels - 1) * task.plane_stride;
  int64_t totals = (task.samples - 1) * task.total_sample_stride;
  for (int a = 0; a < kSpatial; ++a) {
    windows += (task.tiles.axes[a].size - 1) * task.tap_strides[a];
    sums += (task.tiles.axes[a].image - 1) * task.strides[a];
    totals += (task.tiles.axes[a].image - 1) * task.total_strides[a];
  }
  const int64_t blocks = BlendLayout(task, 1).blocks + int64_t{kThreads};
  return std::max({windows, sums, totals, blocks, most_of(task.tiles) + kBlendTile}) <= kMost32;
}

template <class Type, class Index, class Launch>
void run_blend(const BlendTask& task, const Launch& launch) {
  const int64_t taps = task.tiles.taps();
  const BlendLayout layout(task, planes_an_item(task.channels, task.tiles.windows * taps, launch));
  Blend<Type, Index> blend{.tiles = DeviceLayout<Index>(task.tiles, task.samples),
                           .windows = static_cast<const typename Type::Element*>(task.windows),
                           .window_stride = static_cast<Index>(task.window_stride),
                           .channel_stride = static_cast<Index>(task.channel_stride),
                           .tap_strides = {},
                           .weight = static_cast<const typename Type::Weight*>(task.weight),
                           .sums = static_cast<typename Type::Sum*>(task.sums),
                           .sample_stride = static_cast<Index>(task.sample_stride),
                           .plane_stride = static_cast<Index>(task.plane_stride),
                           .strides = {},
                           .totals = static_cast<typename Type::Weight*>(task.totals),
                           .total_sample_stride = static_cast<Index>(task.total_sample_stride),
                           .total_strides = {},
                           .count = static_cast<Index>(task.tiles.windows),
                           .channels = static_cast<Index>(task.channels),
                           .planes_an_item = static_cast<Index>(layout.planes),
                           .tile_columns = static_cast<Index>(layout.columns),
                           .blocks = static_cast<Index>(layout.blocks),
                           .by_columns = Divisor<Index>(layout.columns),
                           .by_column_tiles = Divisor<Index>(layout.column_tiles),
                           .by_row_tiles = Divisor<Index>(layout.row_tiles),
                           .by_depths = Divisor<Index>(task.tiles.axes[0].size),
                           .by_groups = Divisor<Index>(layout.groups)};
  for (int a = 0; a < kSpatial; ++a) {
    blend.tap_strides[a] = static_cast<Index>(task.tap_strides[a]);
    blend.strides[a] = static_cast<Index>(task.strides[a]);
    blend.total_strides[a] = static_cast<Index>(task.total_strides[a]);
  }
  const size_t shared = kThreads * (sizeof(Index) + sizeof(ReachingWindow<Index>));
  launch(blend_kernel<Type, Index>, std::min(layout.blocks, launch.processors * kBlocksAProcessor), kThreads, shared,
         blend);
}

}  // namespace torchext
