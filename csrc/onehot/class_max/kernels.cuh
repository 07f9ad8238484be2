// The first pass finds the largest key of each entry with atomics that only increase it. The second pass finds the
// lowest position among the values with that key. The result does not depend on the order of threads.
#pragma once

#include <cstdint>

#include "common/kernel.cuh"
#include "onehot/class_max/task.h"
#include "onehot/labels/kernels.cuh"

namespace torchext {

template <class U, class Index>
struct Extremes {
  Labels<Index> labels;
  const U* values;
  LabelOffsets<Index> row, column;
  Divisor<Index> inner, features, sample;  // `sample`: the entries of an outer index
  Index count, entries, width, classes;
  U reversed;
  unsigned long long* keys;
  // First the complements of positions within an outer index, so that the lowest position is the largest number, and 0
  // stands for no position. The last kernel replaces them by the positions.
  unsigned long long* positions;
  U* best;
};

// Most values are not larger than the current one and need no atomic operation.
__device__ __forceinline__ void raise_to(unsigned long long* at, unsigned long long value) {
  unsigned long long there = *static_cast<volatile unsigned long long*>(at);
  while (there < value) {
    const unsigned long long before = atomicCAS(at, there, value);
    if (before == there) return;
    there = before;
  }
}

// Runs first for the keys and then for the positions. If labels change between the two, an entry may stay without a
// position.
template <class Order, class Index, bool kPositions>
__global__ void __launch_bounds__(kThreads)
    extremes_kernel(const __grid_constant__ Extremes<typename Order::Bits, Index> task) {
  each_item(task.count, [&](Index column) {
    const Index position = task.features.split(column);
    const Index label = class_at(task.labels, position, !kPositions && column == 0);
    if (label < 0 || task.width == 0) return;
    const Index outer = task.inner.quotient(position);
    const Index entry = (outer * task.classes + label) * task.width + column;
    const auto bits = task.values[task.row.offset(position) + task.column.offset(column)];
    const unsigned long long key = Order::key(bits, task.reversed);
    if constexpr (!kPositions)
      raise_to(&task.keys[entry], key);
    else if (key == task.keys[entry])
      raise_to(&task.positions[entry], ~static_cast<unsigned long long>(position - outer * task.inner.divisor));
  });
}

template <class Order, class Index>
__global__ void __launch_bounds__(kThreads)
    extremes_values_kernel(const __grid_constant__ Extremes<typename Order::Bits, Index> task) {
  each_item(task.entries, [&](Index entry) {
    const unsigned long long found_at = ~task.positions[entry];
    task.positions[entry] = found_at;
    if (static_cast<int64_t>(found_at) < 0) {
      task.best[entry] = Order::worst(task.reversed);
      return;
    }
    Index column = entry;
    task.features.split(column);
    const Index position = task.sample.quotient(entry) * task.inner.divisor + static_cast<Index>(found_at);
    task.best[entry] = Order::settled(task.values[task.row.offset(position) + task.column.offset(column)]);
  });
}

inline bool extremes_fit_32(const ExtremesTask& task) {
  const int64_t count = task.outer * task.inner * std::max<int64_t>(1, task.features);
  return std::max({count, entries_of(task), last_value(task), last_label(task)}) <= kMost32;
}

// `keys` and the task's positions have to be zero.
template <class Order, class Index, class Launch>
void run_extremes(const ExtremesTask& task, const LabelShape& recorded, void* keys, const Launch& launch) {
  using U = typename Order::Bits;
  const auto divisor = [](int64_t size) { return Divisor<Index>(std::max<int64_t>(1, size)); };
  Extremes<U, Index> extremes{};
  if (task.outer * task.inner > 0) {  // index arithmetic must not divide by a size of 0
    extremes.labels = labels_of<Index>(task, recorded);
    extremes.count = static_cast<Index>(task.outer * task.inner * std::max<int64_t>(1, task.features));
    if (task.features > 0) {
      extremes.values = static_cast<const U*>(task.values);
      extremes.row = joined<Index>(task.outer_value_axes, task.inner_value_axes);
      extremes.column = LabelOffsets<Index>(task.feature_axes);
    }
  }
  extremes.inner = divisor(task.inner);
  extremes.features = divisor(task.features);
  extremes.sample = divisor(task.classes * task.features);
  extremes.entries = static_cast<Index>(entries_of(task));
  extremes.width = static_cast<Index>(task.features);
  extremes.classes = static_cast<Index>(task.classes);
  extremes.reversed = static_cast<U>(task.largest ? U{0} : ~U{0});
  extremes.keys = static_cast<unsigned long long*>(keys);
  extremes.positions = reinterpret_cast<unsigned long long*>(task.positions);
  extremes.best = static_cast<U*>(task.best);
  if (extremes.count > 0)
    launch(extremes_kernel<Order, Index, false>, blocks_for(extremes.count, launch), kThreads, 0, extremes);
  if (extremes.entries == 0) return;
  if (extremes.count > 0)
    launch(extremes_kernel<Order, Index, true>, blocks_for(extremes.count, launch), kThreads, 0, extremes);
  launch(extremes_values_kernel<Order, Index>, blocks_for(extremes.entries, launch), kThreads, 0, extremes);
}

}  // namespace torchext
