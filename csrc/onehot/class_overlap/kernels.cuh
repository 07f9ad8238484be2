// The forward pass has two kernels: one sums over pieces of a sample, the other adds up the sums of the pieces. The
// backward pass has one kernel. The order of each sum depends on the shapes alone, so the result has the same bits in
// every run and on every GPU.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "common/kernel.cuh"
#include "onehot/labels/kernels.cuh"
#include "onehot/class_overlap/task.h"

namespace torchext {

// Smaller for wide indices, which are for tensors of more than 2^31 elements: their code takes twice the space.
template <class Index>
constexpr int kPositionsAThread = sizeof(Index) == 8 ? 1 : 8;
template <class Index>
constexpr int kPositionsAPiece = kThreads * kPositionsAThread<Index>;
template <class Index>
constexpr int kClassUnroll = sizeof(Index) == 8 ? 1 : 4;
constexpr int kWarps = kThreads / kWarp;
constexpr int kClassesAtOnce = 32;  // classes whose sums for each warp are in shared memory

// Scores or their gradients. Positions are numbered over all samples and inner dimensions.
template <class T, class Index>
struct ClassRows {
  ClassRows(T* data, const ClassPlanes& planes)
      : data(data),
        class_stride(static_cast<Index>(planes.class_stride)),
        offsets(joined<Index>(planes.outer_axes, planes.inner_axes)) {}

  TORCHEXT_HD T* at(Index position) const { return data + offsets.offset(position); }

  T* data;
  Index class_stride;
  LabelOffsets<Index> offsets;
};

// Calls body with the activation as a compile-time constant. With a branch for each score, the loads of several scores
// would not be in flight together.
template <class Body>
__device__ __forceinline__ void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kSoftmax:
      return body(std::integral_constant<Activation, Activation::kSoftmax>{});
    case Activation::kSigmoid:
      return body(std::integral_constant<Activation, Activation::kSigmoid>{});
    default:
      return body(std::integral_constant<Activation, Activation::kNone>{});
  }
}

// Turns the scores of one position into probabilities.
template <class C>
struct Normalizer {
  C highest, scale;

  template <Activation kActivation>
  TORCHEXT_HD C probability(C score) const {
    if constexpr (kActivation == Activation::kSoftmax) return std::exp(score - highest) * scale;
    if constexpr (kActivation == Activation::kSigmoid) return C(1) / (C(1) + std::exp(-score));
    return score;
  }
};

// Calls body(class, k, score) for the scores of kPositions positions, in the order of the classes; k is the index of
// the position. All scores of `kClasses` classes are read before the first is used, so that their loads are in flight
// together. The remaining classes are processed one by one: if a branch skipped some of them, the compiler would move
// loads after it.
template <int kClasses, int kPositions, class T, class Index, class Body>
__device__ __forceinline__ void each_score(const T* const (&scores)[kPositions], Index stride, Index classes,
                                           const Body& body) {
  const auto some = [&](Index first, auto count) {
    T raw[count.value][kPositions];
#pragma unroll
    for (int c = 0; c < count.value; ++c)
#pragma unroll
      for (int k = 0; k < kPositions; ++k) raw[c][k] = scores[k][(first + c) * stride];
#pragma unroll
    for (int c = 0; c < count.value; ++c)
#pragma unroll
      for (int k = 0; k < kPositions; ++k) body(first + c, k, static_cast<Compute<T>>(raw[c][k]));
  };
  Index first = 0;
#pragma unroll 1
  for (; first + kClasses <= classes; first += kClasses) some(first, std::integral_constant<int, kClasses>{});
  if constexpr (kClasses > 1)
#pragma unroll 1
    for (; first < classes; ++first) some(first, std::integral_constant<int, 1>{});
}

template <int kClasses, int kPositions, class T, class Index>
__device__ __forceinline__ void normalize(Activation activation, const T* const (&scores)[kPositions], Index stride,
                                          Index classes, Normalizer<Compute<T>> (&out)[kPositions]) {
  using C = Compute<T>;
#pragma unroll
  for (int k = 0; k < kPositions; ++k) out[k] = {-static_cast<C>(INFINITY), C(0)};
  if (activation != Activation::kSoftmax) return;
  each_score<kClasses>(scores, stride, classes, [&](Index, int k, C score) {
    out[k].highest = score > out[k].highest ? score : out[k].highest;
  });
  each_score<kClasses>(scores, stride, classes,
                       [&](Index, int k, C score) { out[k].scale += std::exp(score - out[k].highest); });
#pragma unroll
  for (int k = 0; k < kPositions; ++k) out[k].scale = C(1) / out[k].scale;
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
  auto* warp_sums = reinterpret_cast<OverlapSums<C>*>(torchext_shared);
  Index piece = static_cast<Index>(blockIdx.x);
  const Index outer = task.pieces.split(piece);
  const Index end = least<Index>((piece + 1) * kPositionsAPiece<Index>, task.inner);
  const Index stride = task.scores.class_stride;

  constexpr int kPositions = kPositionsAThread<Index>;
  const Index first_position = piece * kPositionsAPiece<Index> + static_cast<Index>(threadIdx.x);
  const T* scores[kPositions];
  Index position[kPositions], label[kPositions];  // -1: the position is not counted
  int64_t read[kPositions];
#pragma unroll
  for (int k = 0; k < kPositions; ++k) {
    position[k] = outer * task.inner + least<Index>(first_position + k * kThreads, end - 1);
    scores[k] = task.scores.at(position[k]);
  }
  read_labels(task.labels, position, read);
#pragma unroll
  for (int k = 0; k < kPositions; ++k)
    label[k] = first_position + k * kThreads < end ? class_of(task.labels, position[k], read[k], true) : Index{-1};
  Normalizer<C> normalizers[kPositions];
  normalize<1>(task.activation, scores, stride, task.classes, normalizers);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (Index first = 0; first < task.classes; first += kClassesAtOnce) {
    const int at_once = static_cast<int>(least<Index>(kClassesAtOnce, task.classes - first));
    for (int c = 0; c < at_once; ++c) {
      OverlapSums<C> sums{};
      T raw[kPositions];
#pragma unroll
      for (int k = 0; k < kPositions; ++k) raw[k] = scores[k][(first + c) * stride];
      with_activation(task.activation, [&](auto activation) {
#pragma unroll
        for (int k = 0; k < kPositions; ++k) {
          const C value = normalizers[k].template probability<activation.value>(static_cast<C>(raw[k]));
          const bool hit = label[k] == first + c;
          sums.intersection += hit ? value : C(0);
          sums.total += label[k] < 0 ? C(0) : task.squared ? value * value : value;
          sums.count += hit;
        }
      });
      for (unsigned bits = kWarp / 2; bits > 0; bits /= 2) {
        sums.intersection += __shfl_xor_sync(~0u, sums.intersection, bits);
        sums.total += __shfl_xor_sync(~0u, sums.total, bits);
        sums.count += __shfl_xor_sync(~0u, sums.count, bits);
      }
      if (lane == 0) warp_sums[warp * kClassesAtOnce + c] = sums;
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < at_once) {
      OverlapSums<C> sums = warp_sums[threadIdx.x];
      for (int w = 1; w < kWarps; ++w) {
        const OverlapSums<C>& more = warp_sums[w * kClassesAtOnce + static_cast<int>(threadIdx.x)];
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
  Index pieces, count;  // pairs of a sample and a class
  Divisor<Index> classes;
  C *intersection, *total;
  int64_t* support;
};

// One warp for each sample and class.
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
    const T* const scores[1] = {task.scores.at(position)};
    T* grads = task.grad_scores.at(position);
    const C* total_gradients = task.grad_total + outer * task.classes;
    const C hit_gradient = label < 0 ? C(0) : task.grad_intersection[outer * task.classes + label];
    constexpr int kClasses = kClassUnroll<Index>;
    const Index stride = task.scores.class_stride;
    Normalizer<C> normalizer[1];
    normalize<kClasses>(task.activation, scores, stride, task.classes, normalizer);
    const auto gradient = [&](Index c, C value) {
      const C total = task.squared ? 2 * value * total_gradients[c] : total_gradients[c];
      return c == label ? total + hit_gradient : total;
    };
    with_activation(task.activation, [&](auto activation) {
      const auto value_of = [&](C score) { return normalizer[0].template probability<activation.value>(score); };
      C dot(0);
      if constexpr (activation.value == Activation::kSoftmax)
        each_score<kClasses>(scores, stride, task.classes, [&](Index c, int, C score) {
          const C value = value_of(score);
          dot += value * gradient(c, value);
        });
      each_score<kClasses>(scores, stride, task.classes, [&](Index c, int, C score) {
        C grad(0);
        if (label >= 0) {
          const C value = value_of(score);
          grad = gradient(c, value);
          if constexpr (activation.value == Activation::kSoftmax)
            grad = value * (grad - dot);
          else if constexpr (activation.value == Activation::kSigmoid)
            grad *= value * (1 - value);
        }
        grads[c * task.grad_scores.class_stride] = static_cast<T>(grad);
      });
    });
  });
}

template <class Index>
int64_t overlap_pieces(const OverlapTask& task) {
  return std::max<int64_t>(1, ceil_div(task.inner, kPositionsAPiece<Index>));
}

template <class T, class Index>
size_t overlap_sums_bytes(const OverlapTask& task) {
  return static_cast<size_t>(task.outer * overlap_pieces<Index>(task) * task.classes) * sizeof(OverlapSums<Compute<T>>);
}

inline bool overlap_fits_32(const OverlapTask& task) {
  const auto last = [&](const ClassPlanes& planes) {
    return planes.outer_axes.last_offset() + planes.inner_axes.last_offset() + task.classes * planes.class_stride;
  };
  const int64_t positions = task.outer * task.inner;
  return std::max({positions * std::max<int64_t>(task.classes, 1),
                   task.outer * overlap_pieces<int32_t>(task) * task.classes, last(task.score_planes),
                   last(task.grad_planes), last_label(task)}) <= kMost32;
}

// `sums` has overlap_sums_bytes bytes.
template <class T, class Index, class Launch>
void run_overlap(const OverlapTask& task, const LabelShape& recorded, void* sums, const Launch& launch) {
  using C = Compute<T>;
  if (task.outer == 0) return;
  const int64_t pieces = overlap_pieces<Index>(task);
  auto* piece_sums = static_cast<OverlapSums<C>*>(sums);
  const int64_t used_pieces = task.inner == 0 ? 0 : pieces;
  if (task.inner > 0) {
    const Overlap<T, Index> overlap{.labels = labels_of<Index>(task, recorded),
                                    .scores = {static_cast<const T*>(task.scores), task.score_planes},
                                    .activation = task.activation,
                                    .squared = task.squared,
                                    .inner = static_cast<Index>(task.inner),
                                    .classes = static_cast<Index>(task.classes),
                                    .pieces = Divisor<Index>(pieces),
                                    .sums = piece_sums};
    const size_t shared = kWarps * kClassesAtOnce * sizeof(OverlapSums<C>);
    launch(overlap_kernel<T, Index>, task.outer * pieces, kThreads, shared, overlap);
  }
  if (task.classes == 0) return;
  const OverlapTotals<C, Index> totals{.sums = piece_sums,
                                       .pieces = static_cast<Index>(used_pieces),
                                       .count = static_cast<Index>(task.outer * task.classes),
                                       .classes = Divisor<Index>(task.classes),
                                       .intersection = static_cast<C*>(task.intersection),
                                       .total = static_cast<C*>(task.total),
                                       .support = task.support};
  launch(overlap_totals_kernel<C, Index>, ceil_div(task.outer * task.classes, kWarps), kThreads, 0, totals);
}

template <class T, class Index, class Launch>
void run_overlap_backward(const OverlapTask& task, const Launch& launch) {
  using C = Compute<T>;
  const int64_t count = task.outer * task.inner;
  if (count == 0 || task.classes == 0) return;
  const OverlapBackward<T, Index> backward{.labels = labels_of<Index>(task, {}),
                                           .scores = {static_cast<const T*>(task.scores), task.score_planes},
                                           .grad_scores = {static_cast<T*>(task.grad_scores), task.grad_planes},
                                           .activation = task.activation,
                                           .squared = task.squared,
                                           .count = static_cast<Index>(count),
                                           .classes = static_cast<Index>(task.classes),
                                           .inner = Divisor<Index>(task.inner),
                                           .grad_intersection = static_cast<const C*>(task.grad_intersection),
                                           .grad_total = static_cast<const C*>(task.grad_total)};
  launch(overlap_backward_kernel<T, Index>, blocks_for(count, launch), kThreads, 0, backward);
}

}  // namespace torchext
