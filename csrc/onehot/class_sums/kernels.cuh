// Counts are added with integer atomics, for which the order does not matter. Sums follow the order of the labels by
// their classes, from a stable counting sort: blocks count their classes, the counts are added up to where each block
// and class starts, and the blocks write their positions. Then one warp for each piece of a class adds up rows in that
// order, and the pieces of long classes are added up one after another. The order, and with it every bit of the result,
// depends on the labels alone.
#pragma once

#include <cstdint>

#include "common/kernel.cuh"
#include "common/truth.h"
#include "onehot/labels/kernels.cuh"
#include "onehot/class_sums/task.h"

namespace torchext {

constexpr int64_t kMostSharedBins = 8192;  // of 4 bytes
constexpr int64_t kCountedAThread = 16;    // the fewest labels per thread for which a block has its own counts
constexpr int kRowsAPiece = 64;
constexpr int kColumnsAThread = 4;

// The number of elements that a thread reads before it uses the first of them, so that their loads are in flight
// together. With a store between two loads, or a branch around one, each load would wait for the one before.
constexpr int kCountsAtOnce = 16, kRowsAtOnce = 4, kUnitsAtOnce = 4;

// The bin of a label is its class.
template <class Index>
struct LabelBins {
  Labels<Index> labels;

  __device__ __forceinline__ int64_t operator()(Index position) const { return class_at(labels, position, true); }
};

// The bin of a pair is target · classes + predicted. A label predicted for an ignored target may have any value.
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
  Divisor<Index> parts;  // blocks of threads for one outer index
  int64_t bins;
  bool in_shared_memory;  // counts in shared memory first
  unsigned long long* counts;
};

template <class Bins, class Index>
__global__ void __launch_bounds__(kThreads) counts_kernel(const __grid_constant__ Counts<Bins, Index> task) {
  auto* shared = reinterpret_cast<unsigned*>(torchext_shared);
  Index part = static_cast<Index>(blockIdx.x);
  const Index outer = task.parts.split(part);
  unsigned long long* counts = task.counts + static_cast<int64_t>(outer) * task.bins;
  const int bins = static_cast<int>(task.bins), thread = static_cast<int>(threadIdx.x);
  if (task.in_shared_memory) {
    for (int bin = thread; bin < bins; bin += kThreads) shared[bin] = 0;
    __syncthreads();
  }
  const Index step = task.parts.divisor * kThreads;
  for (Index i = part * kThreads + static_cast<Index>(threadIdx.x); i < task.inner; i += step) {
    const int64_t bin = task.bin_of(outer * task.inner + i);
    if (bin < 0) continue;
    if (task.in_shared_memory)
      atomicAdd(&shared[bin], 1u);
    else
      atomicAdd(&counts[bin], 1ull);
  }
  if (!task.in_shared_memory) return;
  __syncthreads();
  for (int bin = thread; bin < bins; bin += kThreads)
    if (shared[bin] != 0) atomicAdd(&counts[bin], static_cast<unsigned long long>(shared[bin]));
}

// A key is a class of an outer index. A block of threads first counts, and later orders, the labels of one run of
// positions.
template <class Index>
struct Order {
  Labels<Index> labels;
  Divisor<Index> inner;
  Index count, labels_a_block, classes, keys, blocks;
  bool in_shared_memory;  // the cursors are in shared memory
  Index* cursors;         // (blocks, keys): first counts, then the number of labels of a key in the blocks before
  Index* starts;          // (keys + 1): where a key's positions start in the order
  Index* pieces;          // (keys + 1): where a key's pieces start; every key has at least one
  Index* order;           // (count)
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
  Index* counts = task.in_shared_memory ? reinterpret_cast<Index*>(torchext_shared) : cursors;
  const Index thread = static_cast<Index>(threadIdx.x);
  for (Index key = thread; key < task.keys; key += kThreads) counts[key] = 0;
  __syncthreads();
  const Index begin = static_cast<Index>(blockIdx.x) * task.labels_a_block,
              end = least(begin + task.labels_a_block, task.count);
  for (Index i = begin + thread; i < end; i += kThreads) {
    const Index key = key_at(task, i, true);
    if (key >= 0) increment(&counts[key]);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *task.ticket = 0;
  if (!task.in_shared_memory) return;
  __syncthreads();
  for (Index key = thread; key < task.keys; key += kThreads) cursors[key] = counts[key];
}

// Returns the sum of the values of all threads before this one, and sets `all` to the sum of all. `shared` holds one
// value per thread.
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

// One thread for each key adds up the blocks' counts. The last block to finish adds up the keys.
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
  // Each thread has a run of keys. It first computes the sums of the run, then the sums before each key.
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

// Warps take turns, and the lanes of a warp with the same key write in their order. If labels have changed since they
// were counted, by another stream's work, some positions are missing and some entries of the order are not written.
template <class Index>
__global__ void __launch_bounds__(kThreads) order_place_kernel(const __grid_constant__ Order<Index> task) {
  Index* block_cursors = task.cursors + static_cast<Index>(blockIdx.x) * task.keys;
  Index* cursors = task.in_shared_memory ? reinterpret_cast<Index*>(torchext_shared) : block_cursors;
  const Index thread = static_cast<Index>(threadIdx.x);
  for (Index key = thread; key < task.keys; key += kThreads) cursors[key] = block_cursors[key] + task.starts[key];
  __syncthreads();
  const Index begin = static_cast<Index>(blockIdx.x) * task.labels_a_block,
              end = least(begin + task.labels_a_block, task.count);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (Index first = begin; first < end; first += kThreads) {
    const Index position = first + thread;
    const Index key = position < end ? key_at(task, position, false) : Index{-1};
    const unsigned equals = __match_any_sync(~0u, key);
    const int before = __popc(equals & ((1u << lane) - 1u));
    for (int turn = 0; turn < kThreads / kWarp; ++turn) {
      if (turn == warp && key >= 0) {
        const Index slot = cursors[key] + before;
        if (slot < task.count) task.order[slot] = position;
      }
      __syncwarp();
      if (turn == warp && key >= 0 && before == 0) cursors[key] += __popc(equals);
      __syncthreads();
    }
  }
}

// S is the type in which values of type T are summed.
template <class T, class S, class Out, class Index>
struct Sums {
  const T* values;
  LabelOffsets<Index> row, column;
  // columns: neighbouring lanes of a warp with different columns, a power of two; a lane has several columns
  Index features, columns;
  Divisor<Index> tiles;  // of the columns of a piece
  Divisor<Index> row_features;
  Index keys, items, count;  // items: tiles of all pieces; count: rows
  const Index *starts, *pieces, *order;
  S* sums;   // (pieces, features), for keys of more than one piece
  Out* out;  // (keys, features)
};

// The key to which a piece belongs: the last key that starts at this piece or before.
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

// The launch bound of four blocks per multiprocessor leaves enough registers for all loads in flight. Otherwise the
// compiler would save registers for more blocks and make loads wait for each other.
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
    for (int r = 0; r < kRowsAtOnce; ++r)  // an entry may not be a row, see order_place_kernel
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

inline bool counts_fit_32(const CountsTask& task) {
  const int64_t last = task.predicted == nullptr ? 0 : last_label(*task.predicted);
  return std::max({task.outer * task.inner, task.classes, last_label(task), last}) <= kMost32;
}

// `task.counts` must be zeros.
template <class Bins, class Index, class Launch>
void run_counts_of(const CountsTask& task, const Bins& bins, const Launch& launch) {
  const bool in_shared_memory = task.bins <= kMostSharedBins;
  const int64_t labels_a_block = kThreads * (in_shared_memory ? std::max(kCountedAThread, task.bins / kThreads) : 4);
  const int64_t most = std::max<int64_t>(1, launch.processors * kBlocksAProcessor / 4 / task.outer);
  const int64_t parts = std::min(ceil_div(task.inner, labels_a_block), most);
  const Counts<Bins, Index> counts{.bin_of = bins,
                                   .inner = static_cast<Index>(task.inner),
                                   .parts = Divisor<Index>(parts),
                                   .bins = task.bins,
                                   .in_shared_memory = in_shared_memory,
                                   .counts = reinterpret_cast<unsigned long long*>(task.counts)};
  const size_t shared = in_shared_memory ? static_cast<size_t>(task.bins) * sizeof(unsigned) : 0;
  launch(counts_kernel<Bins, Index>, task.outer * parts, kThreads, shared, counts);
}

template <class Index, class Launch>
void run_counts(const CountsTask& task, const LabelShape& recorded, const LabelShape& recorded_predicted,
                const Launch& launch) {
  if (task.outer * task.inner == 0) return;  // a divisor must not be 0
  const Labels<Index> labels = labels_of<Index>(task, recorded);
  if (task.predicted == nullptr)
    run_counts_of<LabelBins<Index>, Index>(task, {labels}, launch);
  else
    run_counts_of<PairBins<Index>, Index>(task, {labels_of<Index>(*task.predicted, recorded_predicted), labels},
                                          launch);
}

// The sizes of the sort, which determine where its results are in the workspace.
struct OrderPlan {
  int64_t count, keys, blocks, labels_a_block, pieces;
};

template <class Launch>
OrderPlan order_plan(const SumsTask& task, const Launch& launch) {
  OrderPlan plan;
  plan.count = task.outer * task.inner;
  plan.keys = task.outer * task.classes;
  // There are no more counts than labels, and enough labels in a block to justify it.
  const int64_t fewest = std::max<int64_t>(kThreads * 4, plan.keys);
  plan.blocks = std::clamp<int64_t>(ceil_div(plan.count, fewest), 1, 2 * launch.processors);
  plan.labels_a_block = ceil_div(ceil_div(plan.count, plan.blocks), kThreads) * kThreads;
  plan.pieces = plan.keys + plan.count / kRowsAPiece;
  return plan;
}

template <class Launch>
bool sums_fit_32(const SumsTask& task, const Launch& launch) {
  const OrderPlan plan = order_plan(task, launch);
  const int64_t tiles = ceil_div(task.features, kWarp);
  return std::max({plan.count, plan.blocks * plan.keys, plan.keys * task.features, plan.pieces * task.features,
                   plan.pieces * tiles * kWarp, last_value(task), last_label(task)}) <= kMost32;
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

// `workspace` has order_bytes bytes, and `pieces` has piece_bytes bytes.
template <class T, class S, class Out, class Index, class Launch>
void run_sums(const SumsTask& task, const LabelShape& recorded, void* workspace, void* pieces, const Launch& launch) {
  const OrderPlan plan = order_plan(task, launch);
  Order<Index> order{};
  order.labels = labels_of<Index>(task, recorded);
  order.inner = Divisor<Index>(std::max<int64_t>(1, task.inner));
  order.count = static_cast<Index>(plan.count);
  order.labels_a_block = static_cast<Index>(plan.labels_a_block);
  order.classes = static_cast<Index>(task.classes);
  order.keys = static_cast<Index>(plan.keys);
  order.blocks = static_cast<Index>(plan.blocks);
  order.in_shared_memory = plan.keys * static_cast<int64_t>(sizeof(Index)) <= kMostSharedBins * 4;
  order.cursors = static_cast<Index*>(workspace);
  order.starts = order.cursors + plan.blocks * plan.keys;
  order.pieces = order.starts + plan.keys + 1;
  order.order = order.pieces + plan.keys + 1;
  order.ticket = reinterpret_cast<unsigned*>(order.order + plan.count);
  const size_t shared = order.in_shared_memory ? static_cast<size_t>(plan.keys) * sizeof(Index) : 0;
  launch(order_count_kernel<Index>, plan.blocks, kThreads, shared, order);
  launch(order_starts_kernel<Index>, ceil_div(plan.keys, kThreads), kThreads, kThreads * sizeof(Index), order);
  launch(order_place_kernel<Index>, plan.blocks, kThreads, shared, order);

  Sums<T, S, Out, Index> sums{};
  sums.values = static_cast<const T*>(task.values);
  sums.row = joined<Index>(task.outer_value_axes, task.inner_value_axes);
  sums.column = LabelOffsets<Index>(task.feature_axes);
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

// The number of bytes that a thread copies at once: a row is a multiple of it, and all pointers are aligned to it.
inline int rows_unit(const RowsTask& task) {
  const uintptr_t combined = reinterpret_cast<uintptr_t>(task.sums) | reinterpret_cast<uintptr_t>(task.out) |
                             static_cast<uintptr_t>(task.row_bytes);
  int unit = 16;
  while (combined % static_cast<uintptr_t>(unit) != 0) unit /= 2;
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
    // Bits128 may only be aligned to 8 bytes and is copied in two halves. A unit of 16 bytes is aligned.
    using U = std::conditional_t<sizeof(bits) == 16, Vector<uint64_t>, decltype(bits)>;
    const Rows<U, Index> rows{.labels = labels_of<Index>(task, {}),
                              .inner = Divisor<Index>(task.inner),
                              .units = Divisor<Index>(units),
                              .classes = static_cast<Index>(task.classes),
                              .count = static_cast<Index>(count),
                              .sums = reinterpret_cast<const U*>(task.sums),
                              .out = reinterpret_cast<U*>(task.out)};
    // A thread's step is not longer than that of a thread that copies one unit at a time, so the margin in kMost32 is
    // sufficient.
    const int64_t blocks = std::min(blocks_for(ceil_div(count, kUnitsAtOnce), launch),
                                    launch.processors * (kBlocksAProcessor / kUnitsAtOnce));
    launch(rows_kernel<U, Index>, blocks, kThreads, 0, rows);
  });
}

}  // namespace torchext
