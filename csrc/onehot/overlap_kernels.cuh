// Two kernels forward, the sums over pieces of a sample and the pieces' sums added up, and one back. Each sums in an
// order that follows from the shapes alone: the same bits in every run, on every GPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/kernel.cuh"
#include "onehot/labels.cuh"
#include "onehot/overlap_task.h"

namespace torchext {

// Fewer where indices are wide: that code is for tensors beyond 2^31 elements, and takes twice the room.
template <class Index>
constexpr int kPlacesAThread = sizeof(Index) == 8 ? 1 : 8;
template <class Index>
constexpr int kPlacesAPiece = kThreads * kPlacesAThread<Index>;
template <class Index>
constexpr int kClassUnroll = sizeof(Index) == 8 ? 1 : 4;
constexpr int kWarps = kThreads / kWarp;
constexpr int kClassesAtOnce = 32;  // whose warps' sums are in shared memory

// Scores or their gradients: a place's position counts through samples and inner dimensions alike.
template <class T, class Index>
struct ClassRows {
  ClassRows(T* data, const ClassPlanes& planes) : data(data), class_stride(static_cast<Index>(planes.class_stride)) {
    Axis axes[kMaxDims];
    int count = 0;
    for (int a = 0; a < planes.outer_axes; ++a) append_axis(axes, count, planes.outer_axis[a]);
    for (int a = 0; a < planes.inner_axes; ++a) append_axis(axes, count, planes.inner_axis[a]);
    place = {axes, count};
  }

  TORCHEXT_HD T* at(Index position) const { return data + place.offset(position); }

  T* data;
  Index class_stride;
  Strided<Index, kMostLabelAxes> place;
};

// What makes probabilities of one place's scores.
template <class C>
struct Normalizer {
  Activation activation;
  C highest, scale;

  TORCHEXT_HD C operator()(C score) const {
    if (activation == Activation::kSoftmax) return std::exp(score - highest) * scale;
    return activation == Activation::kSigmoid ? C(1) / (C(1) + std::exp(-score)) : score;
  }
};

template <class T, class Index>
TORCHEXT_HD Normalizer<Compute<T>> normalizer_of(Activation activation, const T* scores, Index stride, Index classes) {
  using C = Compute<T>;
  Normalizer<C> normalizer{activation, C(0), C(1)};
  if (activation != Activation::kSoftmax) return normalizer;
  C highest = -static_cast<C>(INFINITY), sum(0);
#pragma unroll kClassUnroll < Index>
  for (Index c = 0; c < classes; ++c) {
    const C score = static_cast<C>(scores[c * stride]);
    highest = score > highest ? score : highest;
  }
#pragma unroll kClassUnroll < Index>
  for (Index c = 0; c < classes; ++c) sum += std::exp(static_cast<C>(scores[c * stride]) - highest);
  normalizer.highest = highest;
  normalizer.scale = C(1) / sum;
  return normalizer;
}

template <class C>
struct OverlapSums {
  C intersection, total;
  int count;
};

template <class T, class Index>
struct Overlap {
  Labels<Index> labels;
  ClassRows<const T, Index> scores;
  Activation activation;
  bool squared;
  Index inner, classes;
  Divisor<Index> pieces;
  OverlapSums<Compute<T>>* sums;  // (outer, pieces, classes)
};

template <class T, class Index>
__global__ void __launch_bounds__(kThreads) overlap_kernel(const __grid_constant__ Overlap<T, Index> task) {
  using C = Compute<T>;
  auto* of_warps = reinterpret_cast<OverlapSums<C>*>(torchext_shared);
  Index piece = static_cast<Index>(blockIdx.x);
  const Index outer = task.pieces.split(piece);
  const Index end = least<Index>((piece + 1) * kPlacesAPiece<Index>, task.inner);
  const Index stride = task.scores.class_stride;

  constexpr int kPlaces = kPlacesAThread<Index>;
  const T* scores[kPlaces];
  Index label[kPlaces];  // -1: takes no part
  Normalizer<C> probability[kPlaces];
#pragma unroll
  for (int k = 0; k < kPlaces; ++k) {
    const Index place = piece * kPlacesAPiece<Index> + k * kThreads + static_cast<Index>(threadIdx.x);
    const Index position = outer * task.inner + least<Index>(place, end - 1);
    label[k] = place < end ? class_at(task.labels, position, true) : Index{-1};
    scores[k] = task.scores.at(position);
    probability[k] = normalizer_of(task.activation, scores[k], stride, task.classes);
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (Index first = 0; first < task.classes; first += kClassesAtOnce) {
    const int at_once = static_cast<int>(least<Index>(kClassesAtOnce, task.classes - first));
    for (int c = 0; c < at_once; ++c) {
      OverlapSums<C> sums{};
#pragma unroll
      for (int k = 0; k < kPlaces; ++k) {
        const C value = probability[k](static_cast<C>(scores[k][(first + c) * stride]));
        const bool hit = label[k] == first + c;
        sums.intersection += hit ? value : C(0);
        sums.total += label[k] < 0 ? C(0) : task.squared ? value * value : value;
        sums.count += hit;
      }
      for (unsigned bits = kWarp / 2; bits > 0; bits /= 2) {
        sums.intersection += __shfl_xor_sync(~0u, sums.intersection, bits);
        sums.total += __shfl_xor_sync(~0u, sums.total, bits);
        sums.count += __shfl_xor_sync(~0u, sums.count, bits);
      }
      if (lane == 0) of_warps[warp * kClassesAtOnce + c] = sums;
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < at_once) {
      OverlapSums<C> sums = of_warps[threadIdx.x];
      for (int w = 1; w < kWarps; ++w) {
        const OverlapSums<C>& more = of_warps[w * kClassesAtOnce + static_cast<int>(threadIdx.x)];
        sums.intersection += more.intersection;
        sums.total += more.total;
        sums.count += more.count;
      }
      task.sums[static_cast<Index>(blockIdx.x) * task.classes + first + static_cast<Index>(threadIdx.x)] = sums;
    }
    __syncthreads();
  }
}

template <class C, class Index>
struct OverlapTotals {
  const OverlapSums<C>* sums;
  Index pieces, count;  // of samples and classes
  Divisor<Index> classes;
  C *intersection, *total;
  int64_t* support;
};

// A warp for each sample and class.
template <class C, class Index>
__global__ void __launch_bounds__(kThreads)
    overlap_totals_kernel(const __grid_constant__ OverlapTotals<C, Index> task) {
  const Index lane = static_cast<Index>(threadIdx.x) % kWarp;
  const Index i = static_cast<Index>(blockIdx.x) * kWarps + static_cast<Index>(threadIdx.x) / kWarp;
  double intersection = 0, total = 0;
  int64_t count = 0;
  if (i < task.count) {
    Index c = i;
    const Index outer = task.classes.split(c);
    const OverlapSums<C>* sums = task.sums + outer * task.pieces * task.classes.divisor + c;
    for (Index piece = lane; piece < task.pieces; piece += kWarp) {
      const OverlapSums<C> one = sums[piece * task.classes.divisor];
      intersection += static_cast<double>(one.intersection);
      total += static_cast<double>(one.total);
      count += one.count;
    }
  }
  for (unsigned bits = kWarp / 2; bits > 0; bits /= 2) {
    intersection += __shfl_xor_sync(~0u, intersection, bits);
    total += __shfl_xor_sync(~0u, total, bits);
    count += __shfl_xor_sync(~0u, count, bits);
  }
  if (lane != 0 || i >= task.count) return;
  task.intersection[i] = static_cast<C>(intersection);
  task.total[i] = static_cast<C>(total);
  task.support[i] = count;
}

template <class T, class Index>
struct OverlapBackward {
  Labels<Index> labels;
  ClassRows<const T, Index> scores;
  ClassRows<T, Index> grad_scores;
  Activation activation;
  bool squared;
  Index count, classes;
  Divisor<Index> inner;
  const Compute<T>*grad_intersection, *grad_total;  // (outer, classes)
};

template <class T, class Index>
__global__ void __launch_bounds__(kThreads)
    overlap_backward_kernel(const __grid_constant__ OverlapBackward<T, Index> task) {
  using C = Compute<T>;
  each_item(task.count, [&](Index position) {
    Index inner = position;
    const Index outer = task.inner.split(inner);
    const Index label = class_at(task.labels, position, false);
    const T* scores = task.scores.at(position);
    T* grads = task.grad_scores.at(position);
    const C* of_intersection = task.grad_intersection + outer * task.classes;
    const C* of_total = task.grad_total + outer * task.classes;
    const auto probability = normalizer_of(task.activation, scores, task.scores.class_stride, task.classes);
    const auto value_at = [&](Index c) { return probability(static_cast<C>(scores[c * task.scores.class_stride])); };
    const auto gradient = [&](Index c, C value) {
      const C total = task.squared ? 2 * value * of_total[c] : of_total[c];
      return c == label ? total + of_intersection[c] : total;
    };
    C dot(0);
    if (task.activation == Activation::kSoftmax) {
#pragma unroll kClassUnroll < Index>
      for (Index c = 0; c < task.classes; ++c) {
        const C value = value_at(c);
        dot += value * gradient(c, value);
      }
    }
#pragma unroll kClassUnroll < Index>
    for (Index c = 0; c < task.classes; ++c) {
      C grad(0);
      if (label >= 0) {
        const C value = value_at(c);
        grad = gradient(c, value);
        if (task.activation == Activation::kSoftmax)
          grad = value * (grad - dot);
        else if (task.activation == Activation::kSigmoid)
          grad *= value * (1 - value);
      }
      grads[c * task.grad_scores.class_stride] = static_cast<T>(grad);
    }
  });
}

template <class Index>
int64_t overlap_pieces(const OverlapTask& task) {
  return std::max<int64_t>(1, ceil_div(task.inner, kPlacesAPiece<Index>));
}

template <class T, class Index>
size_t overlap_sums_bytes(const OverlapTask& task) {
  return static_cast<size_t>(task.outer * overlap_pieces<Index>(task) * task.classes) * sizeof(OverlapSums<Compute<T>>);
}

inline bool overlap_fits_32(const OverlapTask& task) {
  const auto last = [&](const ClassPlanes& planes) {
    return last_offset(planes.outer_axis, planes.outer_axes) + last_offset(planes.inner_axis, planes.inner_axes) +
           task.classes * planes.class_stride;
  };
  const int64_t places = task.outer * task.inner;
  const int64_t last_label =
      last_offset(task.outer_axis, task.outer_axes) + last_offset(task.inner_axis, task.inner_axes);
  return std::max({places * std::max<int64_t>(task.classes, 1),
                   task.outer * overlap_pieces<int32_t>(task) * task.classes, last(task.score_planes),
                   last(task.grad_planes), last_label}) <= kMost32;
}

// `sums` holds overlap_sums_bytes.
template <class T, class Index, class Launch>
void run_overlap(const OverlapTask& task, const LabelShape* recorded, void* sums, void* intersection, void* total,
                 int64_t* support, const Launch& launch) {
  using C = Compute<T>;
  if (task.outer == 0) return;
  const int64_t pieces = overlap_pieces<Index>(task);
  auto* of_pieces = static_cast<OverlapSums<C>*>(sums);
  const int64_t used_pieces = task.inner == 0 ? 0 : pieces;
  if (task.inner > 0) {
    const Overlap<T, Index> overlap{labels_of<Index>(task, recorded),
                                    {static_cast<const T*>(task.scores), task.score_planes},
                                    task.activation,
                                    task.squared,
                                    static_cast<Index>(task.inner),
                                    static_cast<Index>(task.classes),
                                    Divisor<Index>(pieces),
                                    of_pieces};
    const size_t shared = kWarps * kClassesAtOnce * sizeof(OverlapSums<C>);
    launch(overlap_kernel<T, Index>, task.outer * pieces, kThreads, shared, overlap);
  }
  if (task.classes == 0) return;
  const OverlapTotals<C, Index> totals{of_pieces,
                                       static_cast<Index>(used_pieces),
                                       static_cast<Index>(task.outer * task.classes),
                                       Divisor<Index>(task.classes),
                                       static_cast<C*>(intersection),
                                       static_cast<C*>(total),
                                       support};
  launch(overlap_totals_kernel<C, Index>, ceil_div(task.outer * task.classes, kWarps), kThreads, 0, totals);
}

template <class T, class Index, class Launch>
void run_overlap_backward(const OverlapTask& task, const Launch& launch) {
  using C = Compute<T>;
  const int64_t count = task.outer * task.inner;
  if (count == 0 || task.classes == 0) return;
  const OverlapBackward<T, Index> backward{labels_of<Index>(task, nullptr),
                                           {static_cast<const T*>(task.scores), task.score_planes},
                                           {static_cast<T*>(task.grad_scores), task.grad_planes},
                                           task.activation,
                                           task.squared,
                                           static_cast<Index>(count),
                                           static_cast<Index>(task.classes),
                                           Divisor<Index>(task.inner),
                                           static_cast<const C*>(task.grad_intersection),
                                           static_cast<const C*>(task.grad_total)};
  launch(overlap_backward_kernel<T, Index>, blocks_for(count, launch), kThreads, 0, backward);
}

}  // namespace torchext
