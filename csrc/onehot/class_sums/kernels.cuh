// Counts add integers with atomics, which is the same in any order. Sums take the order of the labels by their classes,
// stable, from a counting sort: blocks count their classes, the counts become the places of each block and class, the
// blocks write down their positions; then a warp a piece of a class adds up rows in that order, and the pieces of long
// classes are added up in turn. The order, and with it every bit, follows from the labels alone.
#pragma once

#include <cstdint>

#include "common/kernel.cuh"
#include "common/truth.h"
#include "onehot/labels/kernels.cuh"
#include "onehot/class_sums/task.h"

namespace torchext {

constexpr int64_t kMostSharedBins = 8192;  // of 4 bytes
constexpr int64_t kCountedAThread = 16;    // labels, at least, for which a block has its own counts
constexpr int kRowsAPiece = 64;
constexpr int kColumnsAThread = 4;

// What a thread reads before it uses the first of them, so that their loads are under way together: a store between two
// loads, or a branch around one, would have each wait for the one before.
constexpr int kCountsAtOnce = 16, kRowsAtOnce = 4, kUnitsAtOnce = 4;

// The bin that a position counts in is its label's class.
template <class Index>
struct LabelBins {
  Labels<Index> labels;

  __device__ __forceinline__ int64_t operator()(Index position) const { return class_at(labels, position, true); }
};

// The bin of a pair is target · classes + predicted. What was predicted for an ignored target may be anything.
template <class Index>
struct PairBins {
  Labels<Index> predicted, target;

  __device__ __forceinline__ int64_t operator()(Index position) const {
    if (target.has_ignored && label_at(target, position) == target.ignored) return -1;
    const Index column = class_at(predicted, position, true), row = class_at(target, position, true);
    return row < 0 || column < 0 ? -1 : static_cast<int64_t>(row) * target.classes + column;
  }
};

template <class Bins, class Index>
struct Counts {
  Bins bin_of;
  Index inner;
  Divisor<Index> parts;  // of an outer index: blocks
  int64_t bins;
  bool shares;  // counts in shared memory first
  unsigned long long* counts;
};

template <class Bins, class Index>
__global__ void __launch_bounds__(kThreads) counts_kernel(const __grid_constant__ Counts<Bins, Index> task) {
  auto* shared = reinterpret_cast<unsigned*>(torchext_shared);
  Index part = static_cast<Index>(blockIdx.x);
  const Index outer = task.parts.split(part);
  unsigned long long* counts = task.counts + static_cast<int64_t>(outer) * task.bins;
  const int bins = static_cast<int>(task.bins), thread = static_cast<int>(threadIdx.x);
  if (task.shares) {
    for (int bin = thread; bin < bins; bin += kThreads) shared[bin] = 0;
    __syncthreads();
  }
  const Index step = task.parts.divisor * kThreads;
  for (Index i = part * kThreads + static_cast<Index>(threadIdx.x); i < task.inner; i += step) {
    const int64_t bin = task.bin_of(outer * task.inner + i);
    if (bin < 0) continue;
    if (task.shares)
      atomicAdd(&shared[bin], 1u);
    else
      atomicAdd(&counts[bin], 1ull);
  }
  if (!task.shares) return;
  __syncthreads();
  for (int bin = thread; bin < bins; bin += kThreads)
    if (shared[bin] != 0) atomicAdd(&counts[bin], static_cast<unsigned long long>(shared[bin]));
}

template <class Index>
__device__ __forceinline__ void add_one(Index* count) {
  using Unsigned = std::conditional_t<sizeof(Index) == 4, unsigned, unsigned long long>;
  atomicAdd(reinterpret_cast<Unsigned*>(count), Unsigned{1});
}

// Keys are classes of outer indices. A block counts, and later places, one run of positions.
template <class Index>
struct Order {
  Labels<Index> labels;
  Divisor<Index> inner;
  Index count, a_block, classes, keys, blocks;
  bool shares;     // cursors in shared memory
  Index* cursors;  // (blocks, keys): counts, then how many of a key are in the blocks before
  Index* starts;   // (keys + 1): of a key's positions in the order
  Index* pieces;   // (keys + 1): of a key's pieces; every key has at least one
  Index* order;    // (count)
  unsigned* ticket;
};

template <class Index>
__device__ __forceinline__ Index key_at(const Order<Index>& task, Index position, bool watch) {
  const Index label = class_at(task.labels, position, watch);
  return label < 0 ? label : task.inner.quotient(position) * task.classes + label;
}

template <class Index>
__global__ void __launch_bounds__(kThreads) order_count_kernel(const __grid_constant__ Order<Index> task) {
  Index* cursors = task.cursors + static_cast<Index>(blockIdx.x) * task.keys;
  Index* counts = task.shares ? reinterpret_cast<Index*>(torchext_shared) : cursors;
  const Index thread = static_cast<Index>(threadIdx.x);
  for (Index key = thread; key < task.keys; key += kThreads) counts[key] = 0;
  __syncthreads();
  const Index begin = static_cast<Index>(blockIdx.x) * task.a_block, end = least(begin + task.a_block, task.count);
  for (Index i = begin + thread; i < end; i += kThreads) {
    const Index key = key_at(task, i, true);
    if (key >= 0) add_one(&counts[key]);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *task.ticket = 0;
  if (!task.shares) return;
  __syncthreads();
  for (Index key = thread; key < task.keys; key += kThreads) cursors[key] = counts[key];
}

// The sum of the values of all threads before this one, and of all, through one value a thread in shared memory.
template <class Index>
__device__ __forceinline__ Index add_before(Index value, Index* shared, Index& all) {
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread] = value;
  __syncthreads();
  for (int distance = 1; distance < kThreads; distance *= 2) {
    const Index before = thread >= distance ? shared[thread - distance] : Index{0};
    __syncthreads();
    shared[thread] += before;
    __syncthreads();
  }
  all = shared[kThreads - 1];
  const Index before = shared[thread] - value;
  __syncthreads();
  return before;
}

template <class Index>
__device__ __forceinline__ Index pieces_of(Index rows) {
  return rows <= kRowsAPiece ? Index{1} : (rows + kRowsAPiece - 1) / kRowsAPiece;
}

// A thread a key adds up the blocks' counts; the last block to end adds up the keys.
template <class Index>
__global__ void __launch_bounds__(kThreads) order_starts_kernel(const __grid_constant__ Order<Index> task) {
  auto* shared = reinterpret_cast<Index*>(torchext_shared);
  const Index thread = static_cast<Index>(threadIdx.x);
  const Index key = static_cast<Index>(blockIdx.x) * kThreads + thread;
  if (key < task.keys) {
    Index* cursors = task.cursors + key;
    Index sum = 0;
    for (Index first = 0; first < task.blocks; first += kCountsAtOnce) {
      Index counts[kCountsAtOnce];
#pragma unroll
      for (int b = 0; b < kCountsAtOnce; ++b) counts[b] = cursors[least<Index>(first + b, task.blocks - 1) * task.keys];
#pragma unroll
      for (int b = 0; b < kCountsAtOnce; ++b) {
        if (first + b < task.blocks) cursors[(first + b) * task.keys] = sum;
        sum += first + b < task.blocks ? counts[b] : 0;
      }
    }
    task.starts[key] = sum;
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared[0] = static_cast<Index>(atomicAdd(task.ticket, 1u));
  __syncthreads();
  const bool is_last = shared[0] == static_cast<Index>(gridDim.x) - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  // Each thread takes a run of keys: its sum first, then the sums before each key.
  const Index run = (task.keys + kThreads - 1) / kThreads;
  const Index begin = least(thread * run, task.keys), end = least(begin + run, task.keys);
  const auto each_key = [&](const auto& body) {
    for (Index first = begin; first < end; first += kCountsAtOnce) {
      Index counts[kCountsAtOnce];
#pragma unroll
      for (int k = 0; k < kCountsAtOnce; ++k)
        counts[k] = *static_cast<volatile Index*>(&task.starts[least<Index>(first + k, end - 1)]);
#pragma unroll
      for (int k = 0; k < kCountsAtOnce; ++k)
        if (first + k < end) body(first + k, counts[k]);
    }
  };
  Index rows = 0, pieces = 0, all_rows, all_pieces;
  each_key([&](Index, Index count) {
    rows += count;
    pieces += pieces_of(count);
  });
  rows = add_before(rows, shared, all_rows);
  pieces = add_before(pieces, shared, all_pieces);
  each_key([&](Index key_of_run, Index count) {
    task.starts[key_of_run] = rows;
    task.pieces[key_of_run] = pieces;
    rows += count;
    pieces += pieces_of(count);
  });
  if (thread == 0) {
    task.starts[task.keys] = all_rows;
    task.pieces[task.keys] = all_pieces;
  }
}

// Warps take turns, and in a warp lanes of the same key stand in their order. If labels have changed since they were
// counted, by another stream's work, some positions are missing and some entries of the
// order are not written.
template <class Index>
__global__ void __launch_bounds__(kThreads) order_place_kernel(const __grid_constant__ Order<Index> task) {
  Index* of_block = task.cursors + static_cast<Index>(blockIdx.x) * task.keys;
  Index* cursors = task.shares ? reinterpret_cast<Index*>(torchext_shared) : of_block;
  const Index thread = static_cast<Index>(threadIdx.x);
  for (Index key = thread; key < task.keys; key += kThreads) cursors[key] = of_block[key] + task.starts[key];
  __syncthreads();
  const Index begin = static_cast<Index>(blockIdx.x) * task.a_block, end = least(begin + task.a_block, task.count);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (Index first = begin; first < end; first += kThreads) {
    const Index position = first + thread;
    const Index key = position < end ? key_at(task, position, false) : Index{-1};
    const unsigned equals = __match_any_sync(~0u, key);
    const int before = __popc(equals & ((1u << lane) - 1u));
    for (int turn = 0; turn < kThreads / kWarp; ++turn) {
      if (turn == warp && key >= 0) {
        const Index place = cursors[key] + before;
        if (place < task.count) task.order[place] = position;
      }
      __syncwarp();
      if (turn == warp && key >= 0 && before == 0) cursors[key] += __popc(equals);
      __syncthreads();
    }
  }
}

// S is what values of type T are summed in.
template <class T, class S, class Out, class Index>
struct Sums {
  const T* values;
  Strided<Index, kMostLabelAxes> row, column;
  Index features, columns;  // of a warp: a power of two up to its width, and threads take several
  Divisor<Index> tiles;     // of columns, of a piece
  Divisor<Index> row_features;
  Index keys, items, count;  // of pieces' columns, and of rows
  const Index *starts, *pieces, *order;
  S* sums;   // (pieces, features), of keys of more than one piece
  Out* out;  // (keys, features)
};

// The key that a piece is of: the last one that starts at it or before.
template <class Index>
__device__ __forceinline__ Index key_of(const Index* pieces, Index keys, Index piece) {
  Index low = 0, high = keys;
  while (high - low > 1) {
    const Index middle = low + (high - low) / 2;
    if (pieces[middle] <= piece)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Four blocks a processor leave room for all that is under way: left alone, the compiler saves registers for more
// blocks, and has loads wait for each other.
template <class T, class S, class Out, class Index>
__global__ void __launch_bounds__(kThreads, 4) sum_pieces_kernel(const __grid_constant__ Sums<T, S, Out, Index> task) {
  constexpr Index kWarpsABlock = kThreads / kWarp;
  Index tile = static_cast<Index>(blockIdx.x) * kWarpsABlock + static_cast<Index>(threadIdx.x) / kWarp;
  if (tile >= task.items) return;
  const Index piece = task.tiles.split(tile);
  if (piece >= task.pieces[task.keys]) return;
  const Index key = key_of(task.pieces, task.keys, piece);
  const Index first_piece = task.pieces[key];
  const bool is_whole = task.pieces[key + 1] - first_piece == 1;
  const Index begin = task.starts[key] + (piece - first_piece) * kRowsAPiece;
  const Index end = least<Index>(begin + kRowsAPiece, task.starts[key + 1]);
  const Index lane = static_cast<Index>(threadIdx.x) % kWarp;
  const Index step = kWarp / task.columns;  // rows at once
  const Index first_column = tile * task.columns * kColumnsAThread + lane % task.columns;
  const T* columns[kColumnsAThread];
#pragma unroll
  for (int k = 0; k < kColumnsAThread; ++k)
    columns[k] = task.values + task.column.offset(least<Index>(first_column + k * task.columns, task.features - 1));
  S sums[kColumnsAThread] = {};
  for (Index i = begin + lane / task.columns; i < end; i += kRowsAtOnce * step) {
    Index rows[kRowsAtOnce];
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) rows[r] = task.order[least<Index>(i + r * step, end - 1)];
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r)  // see order_place_kernel for what is no row
      rows[r] = task.row.offset(rows[r] >= 0 && rows[r] < task.count ? rows[r] : Index{0});
    T values[kRowsAtOnce][kColumnsAThread];
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r)
#pragma unroll
      for (int k = 0; k < kColumnsAThread; ++k) values[r][k] = columns[k][rows[r]];
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const bool inside = i + r * step < end;
#pragma unroll
      for (int k = 0; k < kColumnsAThread; ++k) {
        const S sum = sums[k] + static_cast<S>(values[r][k]);
        sums[k] = inside ? sum : sums[k];
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kColumnsAThread; ++k) {
    for (unsigned bits = kWarp / 2; bits >= static_cast<unsigned>(task.columns); bits /= 2)
      sums[k] += __shfl_xor_sync(~0u, sums[k], bits);
    const Index column = first_column + k * task.columns;
    if (lane >= task.columns || column >= task.features) continue;
    if (is_whole)
      task.out[key * task.features + column] = static_cast<Out>(sums[k]);
    else
      task.sums[piece * task.features + column] = sums[k];
  }
}

template <class T, class S, class Out, class Index>
__global__ void __launch_bounds__(kThreads) add_pieces_kernel(const __grid_constant__ Sums<T, S, Out, Index> task) {
  const Divisor<Index> features = task.row_features;
  each_item(task.keys * task.features, [&](Index i) {
    Index column = i;
    const Index key = features.split(column);
    const Index begin = task.pieces[key], end = task.pieces[key + 1];
    if (end - begin == 1) return;
    S sum = task.sums[begin * task.features + column];
#pragma unroll 4
    for (Index piece = begin + 1; piece < end; ++piece) sum += task.sums[piece * task.features + column];
    task.out[i] = static_cast<Out>(sum);
  });
}

template <class U, class Index>
struct Rows {
  Labels<Index> labels;
  Divisor<Index> inner, units;  // of a row
  Index classes, count;
  const U* sums;
  U* out;
};

template <class U, class Index>
__global__ void __launch_bounds__(kThreads) rows_kernel(const __grid_constant__ Rows<U, Index> task) {
  const Index step = static_cast<Index>(gridDim.x) * kThreads;
  for (Index first = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x); first < task.count;
       first += kUnitsAtOnce * step) {
    Index positions[kUnitsAtOnce], units[kUnitsAtOnce];
#pragma unroll
    for (int u = 0; u < kUnitsAtOnce; ++u) {
      units[u] = least<Index>(first + u * step, task.count - 1);
      positions[u] = task.units.split(units[u]);
    }
    int64_t labels[kUnitsAtOnce];
    read_labels(task.labels, positions, labels);
    U values[kUnitsAtOnce];
    bool hits[kUnitsAtOnce];
#pragma unroll
    for (int u = 0; u < kUnitsAtOnce; ++u) {
      const Index label = class_of(task.labels, positions[u], labels[u], false);
      hits[u] = label >= 0;
      const Index row = task.inner.quotient(positions[u]) * task.classes + (hits[u] ? label : 0);
      values[u] = task.sums[row * task.units.divisor + units[u]];
    }
#pragma unroll
    for (int u = 0; u < kUnitsAtOnce; ++u)
      if (first + u * step < task.count) task.out[first + u * step] = hits[u] ? values[u] : U{};
  }
}

inline int64_t last_label(const LabelTask& task) {
  return last_offset(task.outer_axis, task.outer_axes) + last_offset(task.inner_axis, task.inner_axes);
}

inline bool counts_fit_32(const CountsTask& task) {
  const int64_t last = task.predicted == nullptr ? 0 : last_label(*task.predicted);
  return std::max({task.outer * task.inner, task.classes, last_label(task), last}) <= kMost32;
}

// `counts` are zero before.
template <class Bins, class Index, class Launch>
void run_counts_of(const CountsTask& task, const Bins& bins, const Launch& launch) {
  const bool shares = task.bins <= kMostSharedBins;
  const int64_t a_block = kThreads * (shares ? std::max(kCountedAThread, task.bins / kThreads) : 4);
  const int64_t most = std::max<int64_t>(1, launch.processors * kBlocksAProcessor / 4 / task.outer);
  const int64_t parts = std::min(ceil_div(task.inner, a_block), most);
  const Counts<Bins, Index> counts{bins,
                                   static_cast<Index>(task.inner),
                                   Divisor<Index>(parts),
                                   task.bins,
                                   shares,
                                   reinterpret_cast<unsigned long long*>(task.counts)};
  const size_t shared = shares ? static_cast<size_t>(task.bins) * sizeof(unsigned) : 0;
  launch(counts_kernel<Bins, Index>, task.outer * parts, kThreads, shared, counts);
}

template <class Index, class Launch>
void run_counts(const CountsTask& task, const LabelShape* recorded, const LabelShape* recorded_predicted,
                const Launch& launch) {
  if (task.outer * task.inner == 0) return;  // no index math divides by a size of 0
  const Labels<Index> labels = labels_of<Index>(task, recorded);
  if (task.predicted == nullptr)
    run_counts_of<LabelBins<Index>, Index>(task, {labels}, launch);
  else
    run_counts_of<PairBins<Index>, Index>(task, {labels_of<Index>(*task.predicted, recorded_predicted), labels},
                                          launch);
}

// How the order of the labels is found, and where what is found stands in the workspace.
struct OrderPlan {
  int64_t count, keys, blocks, a_block, pieces;
};

template <class Launch>
OrderPlan order_plan(const SumsTask& task, const Launch& launch) {
  OrderPlan plan;
  plan.count = task.outer * task.inner;
  plan.keys = task.outer * task.classes;
  // No more counts than labels, and no fewer labels than pay for a block.
  const int64_t fewest = std::max<int64_t>(kThreads * 4, plan.keys);
  plan.blocks = std::clamp<int64_t>(ceil_div(plan.count, fewest), 1, 2 * launch.processors);
  plan.a_block = ceil_div(ceil_div(plan.count, plan.blocks), kThreads) * kThreads;
  plan.pieces = plan.keys + plan.count / kRowsAPiece;
  return plan;
}

template <class Launch>
bool sums_fit_32(const SumsTask& task, const Launch& launch) {
  const OrderPlan plan = order_plan(task, launch);
  const int64_t last_value = last_offset(task.outer_value_axis, task.outer_value_axes) +
                             last_offset(task.inner_value_axis, task.inner_value_axes) +
                             last_offset(task.feature_axis, task.feature_axes);
  const int64_t tiles = ceil_div(task.features, kWarp);
  return std::max({plan.count, plan.blocks * plan.keys, plan.keys * task.features, plan.pieces * task.features,
                   plan.pieces * tiles * kWarp, last_value, last_label(task)}) <= kMost32;
}

template <class Index, class Launch>
int64_t order_bytes(const SumsTask& task, const Launch& launch) {
  const OrderPlan plan = order_plan(task, launch);
  return (plan.blocks * plan.keys + 2 * (plan.keys + 1) + plan.count + 4) * static_cast<int64_t>(sizeof(Index));
}

template <class Launch>
int64_t piece_bytes(const SumsTask& task, const Launch& launch) {
  return order_plan(task, launch).pieces * task.features * task.sum_size;
}

// `workspace` holds order_bytes, `pieces` piece_bytes.
template <class T, class S, class Out, class Index, class Launch>
void run_sums(const SumsTask& task, const LabelShape* recorded, void* workspace, void* pieces, const Launch& launch) {
  const OrderPlan plan = order_plan(task, launch);
  Order<Index> order{};
  order.labels = labels_of<Index>(task, recorded);
  order.inner = Divisor<Index>(std::max<int64_t>(1, task.inner));
  order.count = static_cast<Index>(plan.count);
  order.a_block = static_cast<Index>(plan.a_block);
  order.classes = static_cast<Index>(task.classes);
  order.keys = static_cast<Index>(plan.keys);
  order.blocks = static_cast<Index>(plan.blocks);
  order.shares = plan.keys * static_cast<int64_t>(sizeof(Index)) <= kMostSharedBins * 4;
  order.cursors = static_cast<Index*>(workspace);
  order.starts = order.cursors + plan.blocks * plan.keys;
  order.pieces = order.starts + plan.keys + 1;
  order.order = order.pieces + plan.keys + 1;
  order.ticket = reinterpret_cast<unsigned*>(order.order + plan.count);
  const size_t shared = order.shares ? static_cast<size_t>(plan.keys) * sizeof(Index) : 0;
  launch(order_count_kernel<Index>, plan.blocks, kThreads, shared, order);
  launch(order_starts_kernel<Index>, ceil_div(plan.keys, kThreads), kThreads, kThreads * sizeof(Index), order);
  launch(order_place_kernel<Index>, plan.blocks, kThreads, shared, order);

  Sums<T, S, Out, Index> sums{};
  sums.values = static_cast<const T*>(task.values);
  Axis axes[kMaxDims];
  int count = 0;
  for (int a = 0; a < task.outer_value_axes; ++a) axes[count++] = task.outer_value_axis[a];
  for (int a = 0; a < task.inner_value_axes; ++a) append_axis(axes, count, task.inner_value_axis[a]);
  sums.row = {axes, count};
  sums.column = {task.feature_axis, task.feature_axes};
  sums.features = static_cast<Index>(task.features);
  sums.row_features = Divisor<Index>(task.features);
  int64_t columns = 1;
  while (columns < kWarp && columns < task.features) columns *= 2;
  sums.columns = static_cast<Index>(columns);
  const int64_t tiles = ceil_div(task.features, columns * kColumnsAThread);
  sums.tiles = Divisor<Index>(tiles);
  sums.keys = order.keys;
  sums.items = static_cast<Index>(plan.pieces * tiles);
  sums.count = order.count;
  sums.starts = order.starts;
  sums.pieces = order.pieces;
  sums.order = order.order;
  sums.sums = static_cast<S*>(pieces);
  sums.out = static_cast<Out*>(task.sums);
  launch(sum_pieces_kernel<T, S, Out, Index>, ceil_div(plan.pieces * tiles, kThreads / kWarp), kThreads, 0, sums);
  launch(add_pieces_kernel<T, S, Out, Index>, blocks_for(plan.keys * task.features, launch), kThreads, 0, sums);
}

// The bytes that a thread moves at once: whole units make up a row, and all of them are aligned.
inline int rows_unit(const RowsTask& task) {
  const uintptr_t together = reinterpret_cast<uintptr_t>(task.sums) | reinterpret_cast<uintptr_t>(task.out) |
                             static_cast<uintptr_t>(task.row_bytes);
  int unit = 16;
  while (together % static_cast<uintptr_t>(unit) != 0) unit /= 2;
  return unit;
}

inline bool rows_fit_32(const RowsTask& task, int unit) {
  const int64_t units = task.row_bytes / unit;
  return std::max({task.outer * task.inner * units, task.outer * task.classes * units, last_label(task)}) <= kMost32;
}

template <class Index, class Launch>
void run_rows(const RowsTask& task, int unit, const Launch& launch) {
  const int64_t units = task.row_bytes / unit, count = task.outer * task.inner * units;
  if (count == 0) return;
  with_bits(unit, [&](auto bits) {
    // Bits128 may stand at a multiple of 8, and moves in two halves; a unit of 16 bytes is aligned.
    using U = std::conditional_t<sizeof(bits) == 16, Vector<uint64_t>, decltype(bits)>;
    const Rows<U, Index> rows{labels_of<Index>(task, nullptr), Divisor<Index>(task.inner),
                              Divisor<Index>(units),           static_cast<Index>(task.classes),
                              static_cast<Index>(count),       reinterpret_cast<const U*>(task.sums),
                              reinterpret_cast<U*>(task.out)};
    // A thread's steps are as long as those of a thread that takes one unit at a time: kMost32 leaves room for them.
    const int64_t blocks = std::min(blocks_for(ceil_div(count, kUnitsAtOnce), launch),
                                    launch.processors * (kBlocksAProcessor / kUnitsAtOnce));
    launch(rows_kernel<U, Index>, blocks, kThreads, 0, rows);
  });
}

}  // namespace torchext
