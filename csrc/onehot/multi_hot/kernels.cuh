// Rows with several labels each, in one launch. A block computes a tile of the output, as marks or sums in shared
// memory, and writes it in the output's order. Every tile reads all labels of its rows, so the labels of a row are read
// once for each tile of classes.
#pragma once

#include <cstdint>

#include "common/kernel.cuh"
#include "onehot/one_hot/kernels.cuh"
#include "onehot/labels/kernels.cuh"
#include "onehot/multi_hot/task.h"

namespace torchext {

constexpr int64_t kTileBytes = 16 * 1024;
constexpr int64_t kRowsATile = 128;
constexpr int64_t kTilesAProcessor = 8;  // tiles that run on a multiprocessor at the same time

// The tiles of the output (row_outer, classes, row_inner). The output consists of lines of neighbouring entries: the
// classes of a row if the classes are the last axis, otherwise the rows of a class.
template <class Index>
struct HotTiles {
  Index rows, classes;       // rows of one outer index
  Index pitch, outer_pitch;  // from line to line and from one outer index to the next in the output
  int row_tile, class_tile;  // rows and classes in a tile
  int row_step, class_step;  // from row to row and from class to class in shared memory
  bool classes_last;
  Divisor<Index> class_tiles, row_tiles;
  Index tiles;
};

template <class Index>
struct HotTile {
  Index outer, first_row, first_class;
  int rows, classes;
};

template <class Index>
__device__ __forceinline__ HotTile<Index> tile_at(const HotTiles<Index>& tiles, Index item) {
  Index above = tiles.class_tiles.quotient(item);
  HotTile<Index> tile;
  tile.first_class = (item - above * tiles.class_tiles.divisor) * tiles.class_tile;
  tile.outer = tiles.row_tiles.split(above);
  tile.first_row = above * tiles.row_tile;
  tile.rows = static_cast<int>(least<Index>(tiles.row_tile, tiles.rows - tile.first_row));
  tile.classes = static_cast<int>(least<Index>(tiles.class_tile, tiles.classes - tile.first_class));
  return tile;
}

// Writes the elements of the tile in the output's order, in runs of Run. entry(index in shared memory, row of the tile)
// is the value to store.
template <class U, class Run, class Index, class Entry>
__device__ __forceinline__ void write_tile(const HotTiles<Index>& tiles, const HotTile<Index>& tile, U* out,
                                           const Divisor<int>& runs, const Entry& entry) {
  constexpr int kCount = sizeof(Run) / sizeof(U);
  const int lines = tiles.classes_last ? tile.rows : tile.classes;
  const int length = tiles.classes_last ? tile.classes : tile.rows;
  const Index first_line = tiles.classes_last ? tile.first_row : tile.first_class;
  const Index first = tiles.classes_last ? tile.first_class : tile.first_row;
  const int line_step = tiles.classes_last ? tiles.row_step : tiles.class_step;
  U* at = out + tile.outer * tiles.outer_pitch + first_line * tiles.pitch + first;
  for (int i = static_cast<int>(threadIdx.x); i < lines * runs.divisor; i += kThreads) {
    int column = i;
    const int line = runs.split(column);
    column *= kCount;
    if (column >= length) continue;
    U run[kCount];
#pragma unroll
    for (int e = 0; e < kCount; ++e)
      run[e] = entry(line * line_step + column + e, tiles.classes_last ? line : column + e);
    Run whole;
    std::memcpy(&whole, run, sizeof(Run));
    *reinterpret_cast<Run*>(at + line * tiles.pitch + column) = whole;
  }
}

template <class U, class Index>
struct MultiHot {
  Labels<Index> labels;
  HotTiles<Index> tiles;
  U hot, cold;
  U* out;
  Index hits;
  Divisor<Index> row_of_hit;
  Divisor<int> runs;  // of a tile's line
};

template <class U, class Index, class Run>
__global__ void __launch_bounds__(kThreads) multi_hot_kernel(const __grid_constant__ MultiHot<U, Index> task) {
  unsigned char* marks = torchext_shared;
  for (Index item = static_cast<Index>(blockIdx.x); item < task.tiles.tiles; item += static_cast<Index>(gridDim.x)) {
    const HotTile<Index> tile = tile_at(task.tiles, item);
    for (int i = static_cast<int>(threadIdx.x); i < task.tiles.row_tile * task.tiles.class_tile; i += kThreads)
      marks[i] = 0;
    __syncthreads();
    const Index first = (tile.outer * task.tiles.rows + tile.first_row) * task.hits, count = tile.rows * task.hits;
    for (Index i = static_cast<Index>(threadIdx.x); i < count; i += kThreads) {
      const Index c = class_at(task.labels, first + i, tile.first_class == 0) - tile.first_class;
      // All threads that mark the same entry write the same value.
      if (c >= 0 && c < tile.classes)
        marks[static_cast<int>(task.row_of_hit.quotient(i)) * task.tiles.row_step +
              static_cast<int>(c) * task.tiles.class_step] = 1;
    }
    __syncthreads();
    write_tile<U, Run>(task.tiles, tile, task.out, task.runs,
                       [&](int index, int) { return marks[index] != 0 ? task.hot : task.cold; });
    __syncthreads();
  }
}

template <class C, class Index>
struct HitWeights {
  const void* data;  // null: all weights are `share`
  ScalarType type;
  LabelOffsets<Index> offsets;
  C share;
};

template <class C, class Index>
__device__ __forceinline__ C weight_at(const HitWeights<C, Index>& weights, Index position) {
  if (weights.data == nullptr) return weights.share;
  const Index offset = weights.offsets.offset(position);
  return with_float_type(weights.type, [&](auto type) {
    return static_cast<C>(static_cast<const decltype(type)*>(weights.data)[offset]);
  });
}

template <class U, class Index>
struct WeightedHot {
  using C = Compute<U>;
  Labels<Index> labels;
  HitWeights<C, Index> weights;
  HotTiles<Index> tiles;
  C span, cold;
  U* out;
  Index hits;
  Divisor<int> runs;
  // For mixed labels, as in WeightedHotTask.
  bool mixes, has_one_weight;
  Index samples;
  Divisor<Index> positions;
  const int64_t* partners;
  C other, total;  // `other` is the weight of all partners if it is the same
};

// The class and the weight of the hit at a position in (rows, hits).
template <class U, class Index>
__device__ __forceinline__ Index hit_at(const WeightedHot<U, Index>& task, Index position, bool watch,
                                        Compute<U>& weight) {
  if (!task.mixes) {
    weight = weight_at(task.weights, position);
    return class_at(task.labels, position, watch);
  }
  const Index row = position / 2;
  Index inner = row;
  const Index sample = task.positions.split(inner);
  weight = weight_at(task.weights, task.has_one_weight ? Index{0} : sample);
  if (position % 2 == 0) return class_at(task.labels, row, watch);
  weight = task.weights.data == nullptr ? task.other : task.total - weight;
  const int64_t partner = task.partners != nullptr ? task.partners[sample] : task.samples - 1 - sample;
  if (partner < 0 || partner >= task.samples) return Index{-1};
  return class_at(task.labels, static_cast<Index>(partner) * task.positions.divisor + inner, false);
}

// All threads read hits, kThreads of them at a time. Then one thread adds the hits of each row, in order.
template <class U, class Index, class Run>
__global__ void __launch_bounds__(kThreads) weighted_hot_kernel(const __grid_constant__ WeightedHot<U, Index> task) {
  using C = Compute<U>;
  const HotTiles<Index>& tiles = task.tiles;
  Index* classes = reinterpret_cast<Index*>(torchext_shared);
  C* weights = reinterpret_cast<C*>(classes + kThreads);
  C* base = weights + kThreads;
  C* sums = base + tiles.row_tile;
  const int thread = static_cast<int>(threadIdx.x);
  const Index hits = task.hits;
  for (Index item = static_cast<Index>(blockIdx.x); item < tiles.tiles; item += static_cast<Index>(gridDim.x)) {
    const HotTile<Index> tile = tile_at(tiles, item);
    for (int i = thread; i < tiles.row_tile * tiles.class_tile; i += kThreads) sums[i] = C(0);
    const Index first = (tile.outer * tiles.rows + tile.first_row) * hits, count = tile.rows * hits;
    C class_weights(0);  // the sum of the weights of this thread's row whose labels are classes
    for (Index begin = 0; begin < count; begin += kThreads) {
      __syncthreads();
      if (begin + thread < count)
        classes[thread] = hit_at(task, first + begin + thread, tile.first_class == 0, weights[thread]);
      __syncthreads();
      if (thread >= tile.rows) continue;
      const Index own = thread * hits, end = least<Index>(begin + kThreads, own + hits);
      for (Index i = own < begin ? begin : own; i < end; ++i) {
        const Index staged = i - begin;
        if (classes[staged] < 0) continue;
        class_weights += weights[staged];
        const Index c = classes[staged] - tile.first_class;
        if (c >= 0 && c < tile.classes)
          sums[thread * tiles.row_step + static_cast<int>(c) * tiles.class_step] += weights[staged];
      }
    }
    if (thread < tile.rows) base[thread] = task.mixes ? task.cold * class_weights : task.cold;
    __syncthreads();
    write_tile<U, Run>(tiles, tile, task.out, task.runs,
                       [&](int index, int row) { return static_cast<U>(task.span * sums[index] + base[row]); });
    __syncthreads();
  }
}

// Chooses tiles that are whole vectors of neighbours, and so small that all multiprocessors are busy.
template <class Index, class Launch>
HotTiles<Index> hot_tiles(const HitsTask& task, int64_t entry_size, int64_t vector, const Launch& launch) {
  const bool classes_last = task.row_inner == 1;
  const int64_t outers = classes_last ? 1 : task.row_outer, rows = classes_last ? task.row_outer : task.row_inner;
  const int64_t entries = kTileBytes / entry_size;
  const auto whole_vectors = [&](int64_t count) { return ceil_div(count, vector) * vector; };
  int64_t row_tile, class_tile;
  const auto count = [&] { return outers * ceil_div(rows, row_tile) * ceil_div(task.classes, class_tile); };
  const auto leaves_idle = [&] { return count() < launch.processors * kTilesAProcessor; };
  if (classes_last) {
    class_tile = std::min(whole_vectors(task.classes), entries);
    row_tile = std::clamp<int64_t>(entries / class_tile, 1, std::min(kRowsATile, rows));
    while (row_tile > 1 && leaves_idle()) row_tile = ceil_div(row_tile, 2);
    while (class_tile > kThreads * vector && leaves_idle()) class_tile = whole_vectors(ceil_div(class_tile, 2));
  } else {
    row_tile = std::min(whole_vectors(rows), kRowsATile);
    class_tile = std::clamp<int64_t>(entries / row_tile, 1, task.classes);
    while (class_tile > 1 && leaves_idle()) class_tile = ceil_div(class_tile, 2);
  }
  HotTiles<Index> tiles;
  tiles.rows = static_cast<Index>(rows);
  tiles.classes = static_cast<Index>(task.classes);
  tiles.pitch = static_cast<Index>(classes_last ? task.classes : rows);
  tiles.outer_pitch = static_cast<Index>(rows * task.classes);
  tiles.row_tile = static_cast<int>(row_tile);
  tiles.class_tile = static_cast<int>(class_tile);
  tiles.row_step = classes_last ? tiles.class_tile : 1;
  tiles.class_step = classes_last ? 1 : tiles.row_tile;
  tiles.classes_last = classes_last;
  tiles.class_tiles = Divisor<Index>(ceil_div(task.classes, class_tile));
  tiles.row_tiles = Divisor<Index>(ceil_div(rows, row_tile));
  tiles.tiles = static_cast<Index>(count());
  return tiles;
}

inline bool hits_fit_32(const HitsTask& task, int64_t last_weight) {
  const int64_t rows = task.row_outer * task.row_inner;
  return std::max({rows * std::max(task.classes, task.hits), task.classes, task.hits, task.outer_axes.last_offset(),
                   last_weight}) <= kMost32;
}

inline bool fits_32(const MultiHotTask& task) {
  return hits_fit_32(task, 0);
}

inline bool fits_32(const WeightedHotTask& task) {
  return hits_fit_32(task, task.weight_axes.last_offset());
}

// Calls body with the vector type if all lines of the output are aligned for it, otherwise with the element type.
template <class U, class Body>
void with_runs(const HitsTask& task, const Body& body) {
  const int64_t line = task.row_inner == 1 ? task.classes : task.row_inner;
  const bool aligned =
      reinterpret_cast<uintptr_t>(task.out) % 16 == 0 && line * static_cast<int64_t>(sizeof(U)) % 16 == 0;
  if (aligned)
    body(Vector<U>{});
  else
    body(U{});
}

template <class Index, class Launch>
void run_hot(const MultiHotTask& task, const LabelShape& recorded, const Launch& launch) {
  with_bits(task.element_size, [&](auto bits) {
    using U = decltype(bits);
    with_runs<U>(task, [&](auto run) {
      using Run = decltype(run);
      constexpr int64_t kCount = sizeof(Run) / sizeof(U);
      const HotTiles<Index> tiles = hot_tiles<Index>(task, 1, kCount, launch);
      const int64_t line = tiles.classes_last ? tiles.class_tile : tiles.row_tile;
      const MultiHot<U, Index> multi_hot{.labels = labels_of<Index>(task, recorded),
                                         .tiles = tiles,
                                         .hot = bits_of<U>(task.hot),
                                         .cold = bits_of<U>(task.cold),
                                         .out = static_cast<U*>(task.out),
                                         .hits = static_cast<Index>(task.hits),
                                         .row_of_hit = Divisor<Index>(std::max<int64_t>(1, task.hits)),
                                         .runs = Divisor<int>(line / kCount)};
      const int64_t blocks = std::min<int64_t>(tiles.tiles, launch.processors * kBlocksAProcessor);
      launch(multi_hot_kernel<U, Index, Run>, blocks, kThreads, static_cast<size_t>(tiles.row_tile * tiles.class_tile),
             multi_hot);
    });
  });
}

template <class C, class Index>
HitWeights<C, Index> weights_of(const WeightedHotTask& task) {
  HitWeights<C, Index> weights{};
  weights.data = task.weights;
  weights.type = task.weight_type;
  weights.offsets = LabelOffsets<Index>(task.weight_axes);
  weights.share = static_cast<C>(task.share);
  return weights;
}

template <class U, class Index, class Launch>
void run_weighted_hot(const WeightedHotTask& task, const LabelShape& recorded, const Launch& launch) {
  using C = Compute<U>;
  with_runs<U>(task, [&](auto run) {
    using Run = decltype(run);
    constexpr int64_t kCount = sizeof(Run) / sizeof(U);
    const HotTiles<Index> tiles = hot_tiles<Index>(task, sizeof(C), kCount, launch);
    const int64_t line = tiles.classes_last ? tiles.class_tile : tiles.row_tile;
    const WeightedHot<U, Index> weighted{.labels = labels_of<Index>(task, recorded),
                                         .weights = weights_of<C, Index>(task),
                                         .tiles = tiles,
                                         .span = static_cast<C>(task.span),
                                         .cold = static_cast<C>(task.cold),
                                         .out = static_cast<U*>(task.out),
                                         .hits = static_cast<Index>(task.hits),
                                         .runs = Divisor<int>(line / kCount),
                                         .mixes = task.mixes,
                                         .has_one_weight = task.weight_axes.count == 0,
                                         .samples = static_cast<Index>(task.samples),
                                         .positions = Divisor<Index>(task.positions),
                                         .partners = task.partners,
                                         .other = static_cast<C>(task.total - task.share),
                                         .total = static_cast<C>(task.total)};
    const size_t shared =
        static_cast<size_t>(tiles.row_tile * (tiles.class_tile + 1) + kThreads) * sizeof(C) + kThreads * sizeof(Index);
    const int64_t blocks = std::min<int64_t>(tiles.tiles, launch.processors * kBlocksAProcessor);
    launch(weighted_hot_kernel<U, Index, Run>, blocks, kThreads, shared, weighted);
  });
}

template <class Index, class Launch>
void run_hot(const WeightedHotTask& task, const LabelShape& recorded, const Launch& launch) {
  with_float_type(task.type, [&](auto type) { run_weighted_hot<decltype(type), Index>(task, recorded, launch); });
}

// `Task` is MultiHotTask or WeightedHotTask.
template <class Index, class Task, class Launch>
void run_hits(const Task& task, const LabelShape& recorded, const Launch& launch) {
  if (task.row_outer * task.row_inner == 0) return;
  if (task.classes > 0) return run_hot<Index>(task, recorded, launch);
  // Without classes there is nothing to write, but every label is bad.
  if (task.outer == 0) return;
  const ClassIndices<Index> indices{labels_of<Index>(task, recorded), static_cast<Index>(task.outer), nullptr};
  launch(class_indices_kernel<Index>, blocks_for(task.outer, launch), kThreads, 0, indices);
}

}  // namespace torchext
