#pragma once

#include <cstdint>

#include "common/kernel.cuh"
#include "onehot/labels/kernels.cuh"
#include "onehot/one_hot/task.h"

namespace torchext {

// Classes that a thread writes for each label that it reads.
constexpr int64_t kClassesAnItem = 16;

template <class Index>
struct ClassIndices {
  Labels<Index> labels;
  Index count;
  int64_t* out;  // null: the kernel only looks for bad labels
};

template <class Index>
__global__ void __launch_bounds__(kThreads) class_indices_kernel(const __grid_constant__ ClassIndices<Index> task) {
  each_item(task.count, [&](Index i) {
    const Index label = class_at(task.labels, i, true);
    if (task.out != nullptr) task.out[i] = label;
  });
}

// The output as one array of rows of classes, written from front to back in vectors, for rows of any length. Only the
// elements before the first aligned one and after the last complete vector are stored one by one.
template <class U, class Index>
struct OneHotRows {
  Labels<Index> labels;
  Divisor<Index> classes;
  U hot, cold;
  U* out;
  Index count, head, vectors;
};

template <class U, class Index, int kCount>
__device__ __forceinline__ void one_hot_run(const OneHotRows<U, Index>& task, Index first, U (&run)[kCount]) {
  Index column = first;
  Index row = task.classes.split(column);
  Index hot = class_at(task.labels, row, column == 0);
  if (column + kCount <= task.classes.divisor) {
    const U cold_or_zero = hot < 0 ? U{} : task.cold;
#pragma unroll
    for (int e = 0; e < kCount; ++e) run[e] = hot - column == e ? task.hot : cold_or_zero;
    return;
  }
#pragma unroll
  for (int e = 0; e < kCount; ++e) {
    if (column == task.classes.divisor) {
      column = 0;
      hot = class_at(task.labels, ++row, true);
    }
    run[e] = hot == column ? task.hot : hot < 0 ? U{} : task.cold;
    ++column;
  }
}

template <class U, class Index>
__global__ void __launch_bounds__(kThreads) one_hot_rows_kernel(const __grid_constant__ OneHotRows<U, Index> task) {
  constexpr int kCount = Vector<U>::kCount;
  each_item(task.vectors, [&](Index i) {
    const Index first = task.head + i * kCount;
    Vector<U> run;
    one_hot_run<U, Index, kCount>(task, first, run.at);
    *reinterpret_cast<Vector<U>*>(task.out + first) = run;
  });
  const Index whole = task.vectors * kCount;
  each_item(static_cast<Index>(task.count - whole), [&](Index i) {
    const Index position = i < task.head ? i : i + whole;
    U one[1];
    one_hot_run<U, Index, 1>(task, position, one);
    task.out[position] = one[0];
  });
}

// The output has one plane per class. A thread reads a run of labels once and writes it to several planes. The stores
// of neighbouring threads are contiguous. A run is a vector if all planes are aligned, otherwise one element.
template <class U, class Index>
struct OneHotPlanes {
  Labels<Index> labels;
  U hot, cold;
  U* out;
  Index inner, classes, classes_an_item, items;
  Divisor<Index> runs, class_groups;
};

template <class U, class Index, class Run>
__global__ void __launch_bounds__(kThreads) one_hot_planes_kernel(const __grid_constant__ OneHotPlanes<U, Index> task) {
  constexpr int kCount = sizeof(Run) / sizeof(U);
  each_item(task.items, [&](Index item) {
    const Index above = task.runs.split(item);
    Index group = above;
    const Index outer = task.class_groups.split(group);
    const Index column = item * kCount;
    Index hot[kCount];
#pragma unroll
    for (int e = 0; e < kCount; ++e) hot[e] = class_at(task.labels, outer * task.inner + column + e, group == 0);
    const Index begin = group * task.classes_an_item;
    const Index end = least(begin + task.classes_an_item, task.classes);
    U* out = task.out + (outer * task.classes + begin) * task.inner + column;
    for (Index c = begin; c < end; ++c, out += task.inner) {
      U run[kCount];
#pragma unroll
      for (int e = 0; e < kCount; ++e) run[e] = hot[e] == c ? task.hot : hot[e] < 0 ? U{} : task.cold;
      Run whole;
      std::memcpy(&whole, run, sizeof(Run));
      *reinterpret_cast<Run*>(out) = whole;
    }
  });
}

inline bool one_hot_fits_32(const OneHotTask& task) {
  return std::max(task.classes, last_label(task)) <= kMost32 &&
         task.outer * task.inner <= kMost32 / std::max<int64_t>(task.classes, 1);
}

template <class Index, class Launch>
void run_class_indices(const OneHotTask& task, int64_t* out, const LabelShape& recorded, const Launch& launch) {
  const int64_t count = task.outer * task.inner;
  if (count == 0) return;
  const ClassIndices<Index> indices{labels_of<Index>(task, recorded), static_cast<Index>(count), out};
  launch(class_indices_kernel<Index>, blocks_for(count, launch), kThreads, 0, indices);
}

template <class U, class Index, class Launch>
void run_one_hot_rows(const OneHotTask& task, const LabelShape& recorded, const Launch& launch) {
  const int64_t count = task.outer * task.classes;
  const uintptr_t address = reinterpret_cast<uintptr_t>(task.out);
  // An output that is not aligned to its element size (complex128 may be at a multiple of 8) has no aligned element.
  int64_t head = address % sizeof(U) == 0 ? static_cast<int64_t>((16 - address % 16) % 16 / sizeof(U)) : count;
  head = std::min(head, count);
  const int64_t vectors = (count - head) / Vector<U>::kCount;
  const OneHotRows<U, Index> rows{.labels = labels_of<Index>(task, recorded),
                                  .classes = Divisor<Index>(task.classes),
                                  .hot = bits_of<U>(task.hot),
                                  .cold = bits_of<U>(task.cold),
                                  .out = static_cast<U*>(task.out),
                                  .count = static_cast<Index>(count),
                                  .head = static_cast<Index>(head),
                                  .vectors = static_cast<Index>(vectors)};
  const int64_t singles = count - vectors * Vector<U>::kCount;
  launch(one_hot_rows_kernel<U, Index>, blocks_for(std::max(vectors, singles), launch), kThreads, 0, rows);
}

template <class U, class Index, class Launch>
void run_one_hot_planes(const OneHotTask& task, const LabelShape& recorded, const Launch& launch) {
  const bool aligned =
      reinterpret_cast<uintptr_t>(task.out) % 16 == 0 && task.inner * static_cast<int64_t>(sizeof(U)) % 16 == 0;
  const int64_t run = aligned ? Vector<U>::kCount : 1, runs = task.inner / run;
  // If planes are shorter than a warp, a thread that continued with the next class would leave gaps between the stores
  // of neighbouring threads.
  int64_t step = runs >= kWarp ? std::min(kClassesAnItem, task.classes) : 1;
  // If there are few labels, each item has fewer classes, so that no multiprocessor is idle.
  while (step > 1 && task.outer * runs * ceil_div(task.classes, step) < launch.processors * kThreadsAProcessor)
    step = ceil_div(step, 2);
  const int64_t groups = ceil_div(task.classes, step);
  const int64_t items = task.outer * groups * runs;
  const OneHotPlanes<U, Index> planes{.labels = labels_of<Index>(task, recorded),
                                      .hot = bits_of<U>(task.hot),
                                      .cold = bits_of<U>(task.cold),
                                      .out = static_cast<U*>(task.out),
                                      .inner = static_cast<Index>(task.inner),
                                      .classes = static_cast<Index>(task.classes),
                                      .classes_an_item = static_cast<Index>(step),
                                      .items = static_cast<Index>(items),
                                      .runs = Divisor<Index>(runs),
                                      .class_groups = Divisor<Index>(groups)};
  const int64_t blocks = blocks_for(items, launch);
  if (aligned)
    launch(one_hot_planes_kernel<U, Index, Vector<U>>, blocks, kThreads, 0, planes);
  else
    launch(one_hot_planes_kernel<U, Index, U>, blocks, kThreads, 0, planes);
}

template <class Index, class Launch>
void run_one_hot(const OneHotTask& task, const LabelShape& recorded, const Launch& launch) {
  if (task.outer * task.inner == 0) return;
  // Without classes there is nothing to write, but every label is bad.
  if (task.classes == 0) return run_class_indices<Index>(task, nullptr, recorded, launch);
  with_bits(task.element_size, [&](auto bits) {
    using U = decltype(bits);
    if (task.inner == 1)
      run_one_hot_rows<U, Index>(task, recorded, launch);
    else
      run_one_hot_planes<U, Index>(task, recorded, launch);
  });
}

}  // namespace torchext
