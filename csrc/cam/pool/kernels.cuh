// At most three kernels compute the weights of the channels (sums over positions), the maps (sums over channels) and
// the finished maps. The order of each sum depends on shapes and strides alone, so the result has the same bits in
// every run and on every GPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "cam/pool/geometry.h"
#include "cam/pool/task.h"
#include "common/kernel.cuh"
#include "common/strided.h"

namespace torchext {

constexpr int kCamRank = 3;
// The number of loads that a thread has in flight. It is smaller for wide indices, which are for tensors of more than
// 2^31 elements: their code takes twice the space.
template <class Index>
constexpr int kLoads = sizeof(Index) == 8 ? 1 : 8;

// This many blocks keep any GPU busy. The number of multiprocessors of the GPU is not used because the order of the
// sums would depend on it.
constexpr int64_t kEnoughBlocks = 1024;

// Every block that finishes a map adds up all parts of it. So the parts of a map have at most this many entries
// together.
constexpr int64_t kMostParts = 32768;
constexpr int64_t kMostMapBytes = 32768;  // kept in shared memory; a larger map is in one part and is read in place
// kept in shared memory; if there are more, their sums are in one piece and are read in place
constexpr int64_t kMostWeights = 2048;
constexpr int kTargetsAtOnce = 4;  // targets whose maps are computed from a single read of the activations
constexpr int64_t kOutputsABlock = 2048;

// Activations or gradients, ([T,] B, C, positions).
struct CamInput {
  const void* data;
  int64_t target_stride, sample_stride, channel_stride, positions;
  int axes;
  Axis axis[kCamRank];  // of the positions
  bool by_channel;      // neighbouring channels are closer in memory than neighbouring positions
};

template <class T, class Index>
struct CamSource {
  explicit CamSource(const CamInput& input)
      : data(static_cast<const T*>(input.data)),
        target_stride(static_cast<Index>(input.target_stride)),
        sample_stride(static_cast<Index>(input.sample_stride)),
        channel_stride(static_cast<Index>(input.channel_stride)),
        position_axes(input.axis, input.axes) {}

  TORCHEXT_HD const T* at(Index target, Index sample, Index channel, Index position) const {
    return data + (target * target_stride + sample * sample_stride + channel * channel_stride +
                   position_axes.offset(position));
  }

  const T* data;
  Index target_stride, sample_stride, channel_stride;
  Strided<Index, kCamRank> position_axes;
};

// The part of the input that one block of threads sums.
template <class Index>
struct CamPiece {
  Index target, sample, channel_piece, position_piece;
  Index first_channel, channels, first_position, positions;
};

// (T, B, C, positions), split into pieces. Consecutive blocks are for consecutive targets, because these read the same
// activations.
template <class Index>
struct CamPieces {
  CamPieces(int64_t targets, int64_t channels, int64_t positions, int64_t channels_a_piece, int64_t positions_a_piece)
      : channels(static_cast<Index>(channels)),
        positions(static_cast<Index>(positions)),
        channels_a_piece(static_cast<Index>(channels_a_piece)),
        positions_a_piece(static_cast<Index>(positions_a_piece)),
        targets(targets),
        channel_pieces(ceil_div(channels, channels_a_piece)),
        position_pieces(ceil_div(positions, positions_a_piece)) {}

  TORCHEXT_HD CamPiece<Index> operator[](unsigned block) const {
    CamPiece<Index> piece;
    piece.target = static_cast<Index>(block);
    piece.position_piece = targets.split(piece.target);
    piece.channel_piece = position_pieces.split(piece.position_piece);
    piece.sample = channel_pieces.split(piece.channel_piece);
    piece.first_channel = piece.channel_piece * channels_a_piece;
    piece.channels = least(channels_a_piece, channels - piece.first_channel);
    piece.first_position = piece.position_piece * positions_a_piece;
    piece.positions = least(positions_a_piece, positions - piece.first_position);
    return piece;
  }

  int64_t count(int64_t batch) const {
    return targets.divisor * batch * channel_pieces.divisor * position_pieces.divisor;
  }

  Index channels, positions, channels_a_piece, positions_a_piece;
  Divisor<Index> targets, channel_pieces, position_pieces;
};

// The terms of the sums of one row or column: kSums sums of value(i), the k-th with the factors factor(k, i).
template <class Value, class Factor>
struct CamTerms {
  Value value;
  Factor factor;
};

template <class Value, class Factor>
TORCHEXT_HD CamTerms<Value, Factor> terms(const Value& value, const Factor& factor) {
  return {value, factor};
}

// A plain sum.
template <class Value>
TORCHEXT_HD auto terms(const Value& value) {
  return terms(value, [](int, int64_t) { return 1.0f; });
}

// The sums over i = first, first + step, … below count. A single sum is split into as many partial sums as there are
// loads. For an i past the end, the last value is read and not used: without a branch between them, all loads are in
// flight at once.
template <int kSums, class C, class Index, class Terms>
__device__ __forceinline__ void strided_sums(Index first, Index step, Index count, const Terms& terms, C* out) {
  constexpr int kAtOnce = kLoads<Index>, kStrands = kSums == 1 ? kAtOnce : 1;
  C sums[kStrands][kSums] = {};
#pragma unroll 1
  for (Index i = first; i < count; i += step * kAtOnce) {
    C values[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) values[u] = terms.value(least(i + u * step, count - 1));
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u)
#pragma unroll
      for (int k = 0; k < kSums; ++k) {
        const C product = terms.factor(k, least(i + u * step, count - 1)) * values[u];
        sums[u % kStrands][k] += i + u * step < count ? product : C(0);
      }
  }
#pragma unroll
  for (int half = kStrands / 2; half > 0; half /= 2)
#pragma unroll
    for (int u = 0; u < half; ++u) sums[u][0] += sums[u + half][0];
#pragma unroll
  for (int k = 0; k < kSums; ++k) out[k] = sums[0][k];
}

// Calls store(row, sums of terms_of(row)), for rows whose entries are neighbours in memory: `width` threads of a warp
// share a row.
template <int kSums, class C, class Index, class TermsOf, class Store>
__device__ __forceinline__ void sum_rows(Index rows, Index columns, int width, const TermsOf& terms_of,
                                         const Store& store) {
  const Index lane = static_cast<Index>(threadIdx.x) % width, group = static_cast<Index>(threadIdx.x) / width;
  for (Index first = 0; first < rows; first += kThreads / width) {  // all lanes take part in the shuffles
    const Index row = first + group;
    C sums[kSums] = {};
    if (row < rows) strided_sums<kSums, C, Index>(lane, width, columns, terms_of(row), sums);
#pragma unroll
    for (int k = 0; k < kSums; ++k)
      for (int bits = width / 2; bits > 0; bits /= 2) sums[k] += __shfl_xor_sync(~0u, sums[k], bits);
    if (lane == 0 && row < rows) store(row, sums);
  }
}

// Calls store(column, sums of terms_of(column)), for columns whose entries are next to those of the next column in
// memory: `width` threads handle neighbouring columns, and kThreads / width groups of such threads share the rows.
// `scratch` holds kThreads values.
template <int kSums, class C, class Index, class TermsOf, class Store>
__device__ __forceinline__ void sum_columns(Index rows, Index columns, int width, C* scratch, const TermsOf& terms_of,
                                            const Store& store) {
  const int groups = kThreads / width, group = static_cast<int>(threadIdx.x) / width;
  for (Index first = 0; first < columns; first += width) {
    const Index column = first + static_cast<Index>(threadIdx.x) % width;
    C sums[kSums] = {};
    if (column < columns) strided_sums<kSums, C, Index>(group, groups, rows, terms_of(column), sums);
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
      scratch[threadIdx.x] = sums[k];
      __syncthreads();
      for (int half = groups / 2; half > 0; half /= 2) {
        if (group < half) scratch[threadIdx.x] += scratch[threadIdx.x + half * width];
        __syncthreads();
      }
      sums[k] = scratch[threadIdx.x % width];
      __syncthreads();
    }
    if (group == 0 && column < columns) store(column, sums);
  }
}

// Both are NaN if a value is NaN, as in torch.amin and torch.amax.
template <class C>
struct Range {
  C low, high;
};

template <class C>
TORCHEXT_HD Range<C> merged(const Range<C>& a, const Range<C>& b) {
  return {b.low < a.low || b.low != b.low ? b.low : a.low, b.high > a.high || b.high != b.high ? b.high : a.high};
}

// The range of at(0), …, at(count - 1), in every thread. `scratch` holds kThreads ranges.
template <class C, class Index, class At>
__device__ __forceinline__ Range<C> block_range(Index count, Range<C>* scratch, const At& at) {
  Range<C> range{static_cast<C>(INFINITY), -static_cast<C>(INFINITY)};
  for (Index i = static_cast<Index>(threadIdx.x); i < count; i += kThreads) range = merged(range, at(i));
  scratch[threadIdx.x] = range;
  __syncthreads();
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) scratch[threadIdx.x] = merged(scratch[threadIdx.x], scratch[threadIdx.x + half]);
    __syncthreads();
  }
  return scratch[0];
}

template <class C>
TORCHEXT_HD C rectified(C value, bool relu) {
  return relu && value < 0 ? C(0) : value;  // a NaN is unchanged
}

// Where the weights of a target's channels are, or the sums of their first piece.
template <class Index>
struct CamWeightLayout {
  Index batch, pieces, channels;

  TORCHEXT_HD Index start_of(Index target, Index sample) const { return (target * batch + sample) * pieces * channels; }
};

template <class T, class Index>
struct CamMeans {
  CamSource<T, Index> gradients;
  CamPieces<Index> pieces;
  bool by_channel;
  int width;
  CamWeightLayout<Index> layout;
  Compute<T>* sums;  // (T, B, position pieces, C), divided by the number of positions
};

// Grad-CAM's weights. kFlat: the positions are a single axis.
template <class T, class Index, bool kFlat>
__global__ void __launch_bounds__(kThreads) cam_means_kernel(const __grid_constant__ CamMeans<T, Index> task) {
  using C = Compute<T>;
  const CamPiece<Index> piece = task.pieces[blockIdx.x];
  C* sums = task.sums + task.layout.start_of(piece.target, piece.sample) + piece.position_piece * task.pieces.channels +
            piece.first_channel;
  const auto entries = [&](Index channel) {
    const T* data = task.gradients.at(piece.target, piece.sample, piece.first_channel + channel, 0);
    return terms([&task, data, first = piece.first_position](Index position) {
      const auto& position_axes = task.gradients.position_axes;
      return static_cast<C>(
          data[kFlat ? (first + position) * position_axes.stride[0] : position_axes.offset(first + position)]);
    });
  };
  const auto store = [&](Index channel, const C* sum) { sums[channel] = *sum / static_cast<C>(task.pieces.positions); };
  if (task.by_channel)
    sum_columns<1>(piece.positions, piece.channels, task.width, reinterpret_cast<C*>(torchext_shared), entries, store);
  else
    sum_rows<1, C>(piece.channels, piece.positions, task.width, entries, store);
}

template <class T, class Index>
struct CamRatios {
  CamSource<T, Index> activations, gradients;
  CamPieces<Index> pieces;  // of channels; a piece has all positions and targets
  bool plus_plus, by_channel;
  int width;
  Index targets;
  CamWeightLayout<Index> layout;
  Compute<T>* weights;  // (T, B, C)
};

template <class C>
TORCHEXT_HD C ratio(C numerator, C denominator) {
  return denominator == 0 ? C(0) : numerator / denominator;
}

// The weights of Grad-CAM++ and XGrad-CAM. Their denominators contain the channel's sum of activations.
template <class T, class Index>
__global__ void __launch_bounds__(kThreads) cam_ratios_kernel(const __grid_constant__ CamRatios<T, Index> task) {
  using C = Compute<T>;
  const CamPiece<Index> piece = task.pieces[blockIdx.x];
  C* scratch = reinterpret_cast<C*>(torchext_shared);
  C* activation_sums = scratch + kThreads;
  const auto sum = [&](const auto& entries, const auto& store) {
    if (task.by_channel)
      sum_columns<1>(piece.positions, piece.channels, task.width, scratch, entries, store);
    else
      sum_rows<1, C>(piece.channels, piece.positions, task.width, entries, store);
    __syncthreads();
  };
  const auto activations_of = [&](Index channel) {
    const T* data = task.activations.at(0, piece.sample, piece.first_channel + channel, 0);
    return
        [&task, data](Index position) { return static_cast<C>(data[task.activations.position_axes.offset(position)]); };
  };
  sum([&](Index channel) { return terms(activations_of(channel)); },
      [&](Index channel, const C* total) { activation_sums[channel] = *total; });
  for (Index target = 0; target < task.targets; ++target) {
    C* weights = task.weights + task.layout.start_of(target, piece.sample) + piece.first_channel;
    const auto entries = [&](Index channel) {
      const T* data = task.gradients.at(target, piece.sample, piece.first_channel + channel, 0);
      return terms([&task, data, activation = activations_of(channel),
                    activation_sum = activation_sums[channel]](Index position) {
        const C gradient = static_cast<C>(data[task.gradients.position_axes.offset(position)]);
        if (!task.plus_plus) return gradient * activation(position);
        return gradient <= 0 ? C(0) : ratio(gradient, C(2) + activation_sum * gradient);
      });
    };
    sum(entries, [&](Index channel, const C* total) {
      weights[channel] = task.plus_plus ? *total : ratio(*total, activation_sums[channel]);
    });
  }
}

// Where a block of threads stores its sums over channels.
template <class C, class Index>
struct CamMapLayout {
  Index batch;
  C* maps;           // (T, B, channel pieces, positions)
  Range<C>* ranges;  // (T, B, position pieces) of complete, rectified maps; null if the maps are in parts
  bool relu;

  TORCHEXT_HD C* start_of(const CamPieces<Index>& pieces, const CamPiece<Index>& piece, Index target) const {
    const Index matrix = target * batch + piece.sample;
    return maps + (matrix * pieces.channel_pieces.divisor + piece.channel_piece) * pieces.positions +
           piece.first_position;
  }

  // All threads of a block must call this together; `entries` are the block's part of the map.
  __device__ __forceinline__ void store_range(const CamPieces<Index>& pieces, const CamPiece<Index>& piece,
                                              Index target, const C* entries, Range<C>* scratch) const {
    if (ranges == nullptr) return;
    __syncthreads();
    const Range<C> range = block_range(piece.positions, scratch, [&](Index i) {
      const C entry = rectified(entries[i], relu);
      return Range<C>{entry, entry};
    });
    const Index matrix = target * batch + piece.sample;
    if (threadIdx.x == 0) ranges[matrix * pieces.position_pieces.divisor + piece.position_piece] = range;
    __syncthreads();
  }
};

template <class T, class Index>
struct CamMaps {
  CamSource<T, Index> activations;
  CamPieces<Index> pieces;
  bool by_channel;
  int width;
  Index targets;
  CamWeightLayout<Index> layout;
  const Compute<T>* sums;
  Index kept_weights;
  Compute<T>* weights;  // (T, B, C), for the sums of the pieces; null if there is only one piece
  CamMapLayout<Compute<T>, Index> out;
};

// Computes kTargets maps at once. If fewer targets are left, the last one is repeated.
template <int kTargets, class T, class Index>
__global__ void __launch_bounds__(kThreads) cam_maps_kernel(const __grid_constant__ CamMaps<T, Index> task) {
  using C = Compute<T>;
  const CamPiece<Index> piece = task.pieces[blockIdx.x];
  Range<C>* range_scratch = reinterpret_cast<Range<C>*>(torchext_shared);
  C* sum_scratch = reinterpret_cast<C*>(range_scratch + kThreads);
  C* map_entries = sum_scratch + kThreads;
  C* kept_weights = map_entries + kThreads * kTargets;
  const Index channels = task.pieces.channels;
  const bool keeps = task.kept_weights >= piece.channels;
  for (Index first = 0; first < task.targets; first += kTargets) {
    const C* read_in_place[kTargets];
#pragma unroll
    for (int k = 0; k < kTargets; ++k) {
      const Index target = least(first + k, task.targets - 1);
      const C* sums = task.sums + task.layout.start_of(target, piece.sample) + piece.first_channel;
      read_in_place[k] = keeps ? kept_weights + k * task.kept_weights : sums;
      if (!keeps) continue;
      C* weights = task.weights;
      if (weights != nullptr && piece.position_piece == 0)
        weights += (target * task.layout.batch + piece.sample) * channels + piece.first_channel;
      else
        weights = nullptr;
      for (Index c = static_cast<Index>(threadIdx.x); c < piece.channels; c += kThreads) {
        C sum{};
        for (Index p = 0; p < task.layout.pieces; ++p) sum += sums[p * channels + c];
        kept_weights[k * task.kept_weights + c] = sum;
        if (weights != nullptr) weights[c] = sum;
      }
    }
    __syncthreads();
    const auto entries = [&](Index position) {
      const T* data = task.activations.at(0, piece.sample, piece.first_channel, piece.first_position + position);
      return terms(
          [data, stride = task.activations.channel_stride](Index c) { return static_cast<C>(data[c * stride]); },
          [&read_in_place](int k, Index c) { return read_in_place[k][c]; });
    };
    const auto store = [&](Index position, const C* sums) {
#pragma unroll
      for (int k = 0; k < kTargets; ++k) {
        if (first + k >= task.targets) return;
        map_entries[k * kThreads + position] = sums[k];
        task.out.start_of(task.pieces, piece, first + k)[position] = sums[k];
      }
    };
    if (task.by_channel)
      sum_rows<kTargets, C>(piece.positions, piece.channels, task.width, entries, store);
    else
      sum_columns<kTargets>(piece.channels, piece.positions, task.width, sum_scratch, entries, store);
    for (Index target = first; target < least(first + kTargets, task.targets); ++target)
      task.out.store_range(task.pieces, piece, target, map_entries + (target - first) * kThreads, range_scratch);
    __syncthreads();  // before the weights of the next targets overwrite these
  }
}

template <class T, class Index>
struct CamProducts {
  CamSource<T, Index> activations, gradients;
  CamPieces<Index> pieces;
  bool by_channel;
  int width;
  CamMethod method;
  CamMapLayout<Compute<T>, Index> out;
};

// The maps of methods that multiply gradients and activations elementwise.
template <class T, class Index>
__global__ void __launch_bounds__(kThreads) cam_products_kernel(const __grid_constant__ CamProducts<T, Index> task) {
  using C = Compute<T>;
  const CamPiece<Index> piece = task.pieces[blockIdx.x];
  Range<C>* range_scratch = reinterpret_cast<Range<C>*>(torchext_shared);
  C* sum_scratch = reinterpret_cast<C*>(range_scratch + kThreads);
  C* map_entries = sum_scratch + kThreads;
  C* map = task.out.start_of(task.pieces, piece, piece.target);
  const bool rectify_gradient = task.method == CamMethod::kLayerCam;
  const bool rectify_product = task.method == CamMethod::kElementwise;
  const auto entries = [&](Index position) {
    const Index at = piece.first_position + position;
    const T* activations = task.activations.at(0, piece.sample, piece.first_channel, at);
    const T* gradients = task.gradients.at(piece.target, piece.sample, piece.first_channel, at);
    return terms([=, a_stride = task.activations.channel_stride, g_stride = task.gradients.channel_stride](Index c) {
      const C gradient = rectified(static_cast<C>(gradients[c * g_stride]), rectify_gradient);
      return rectified(gradient * static_cast<C>(activations[c * a_stride]), rectify_product);
    });
  };
  const auto store = [&](Index position, const C* sum) { map_entries[position] = map[position] = *sum; };
  if (task.by_channel)
    sum_rows<1, C>(piece.positions, piece.channels, task.width, entries, store);
  else
    sum_columns<1>(piece.channels, piece.positions, task.width, sum_scratch, entries, store);
  task.out.store_range(task.pieces, piece, piece.target, map_entries, range_scratch);
}

template <class Index>
struct CamSizes {
  Index from[kCamRank], to[kCamRank];
  Divisor<Index> height, width;  // of the output
};

// A matrix is one target's map of one sample.
template <class T, class Index>
struct CamFinish {
  const Compute<T>* maps;
  Compute<T>* whole_maps;  // (T, B, positions), for the sums of the parts; null if there is only one part
  Index parts, positions;
  const Range<Compute<T>>* ranges;  // null: the parts are added up in shared memory
  Index range_count;
  bool relu;
  CamNormalize normalize;
  int width;
  bool resizes;
  CamSizes<Index> sizes;
  T* out;
  Index outputs, outputs_a_block;
  Divisor<Index> blocks_a_matrix;
};

// Linear interpolation of value(position) at one position of the output.
template <class C, class Index, class Value>
__device__ __forceinline__ C resized(const CamSizes<Index>& sizes, Index output, const Value& value) {
  Index y = sizes.width.split(output);
  const Index z = sizes.height.split(y);
  const LinearTap<C> d = linear_tap<C>(z, sizes.from[0], sizes.to[0]);
  const LinearTap<C> h = linear_tap<C>(y, sizes.from[1], sizes.to[1]);
  const LinearTap<C> w = linear_tap<C>(output, sizes.from[2], sizes.to[2]);
  const auto row = [&](int64_t depth, int64_t height) {
    const Index first = (static_cast<Index>(depth) * sizes.from[1] + static_cast<Index>(height)) * sizes.from[2];
    const C low = value(first + static_cast<Index>(w.low));
    return w.low == w.high ? low : lerp(low, value(first + static_cast<Index>(w.high)), w.weight);
  };
  const auto plane = [&](int64_t depth) {
    const C low = row(depth, h.low);
    return h.low == h.high ? low : lerp(low, row(depth, h.high), h.weight);
  };
  const C low = plane(d.low);
  return d.low == d.high ? low : lerp(low, plane(d.high), d.weight);
}

// Interpolation and normalisation may be exchanged: normalisation is a linear map of all entries, and the weights of an
// interpolation sum to 1.
template <class T, class Index>
__global__ void __launch_bounds__(kThreads) cam_finish_kernel(const __grid_constant__ CamFinish<T, Index> task) {
  using C = Compute<T>;
  Index block = static_cast<Index>(blockIdx.x);
  const Index matrix = task.blocks_a_matrix.split(block);
  Range<C>* range_scratch = reinterpret_cast<Range<C>*>(torchext_shared);
  C* sum_scratch = reinterpret_cast<C*>(range_scratch + kThreads);
  C* shared_map = sum_scratch + kThreads;
  const C* maps = task.maps + matrix * task.parts * task.positions;
  const bool is_complete = task.ranges != nullptr;
  if (!is_complete) {
    C* whole_map = block == 0 && task.whole_maps != nullptr ? task.whole_maps + matrix * task.positions : nullptr;
    sum_columns<1>(
        task.parts, task.positions, task.width, sum_scratch,
        [&](Index position) {
          return terms([&, position](Index part) { return maps[part * task.positions + position]; });
        },
        [&](Index position, const C* sum) {
          shared_map[position] = rectified(*sum, task.relu);
          if (whole_map != nullptr) whole_map[position] = *sum;
        });
    __syncthreads();
  }
  const C* map = is_complete ? maps : shared_map;
  const auto value = [&](Index position) { return rectified(map[position], task.relu); };
  C offset = 0, span = 1;
  if (task.normalize != CamNormalize::kNone) {
    const Range<C> range =
        is_complete ? block_range(task.range_count, range_scratch,
                                  [&](Index i) { return task.ranges[matrix * task.range_count + i]; })
                    : block_range(task.positions, range_scratch, [&](Index i) { return Range<C>{map[i], map[i]}; });
    const bool stretch = task.normalize == CamNormalize::kMinMax;
    offset = stretch ? range.low : C(0);
    span = stretch ? range.high - range.low : -range.low > range.high ? -range.low : range.high;
  }
  const Index first = block * task.outputs_a_block;
  const Index last = least(first + task.outputs_a_block, task.outputs);
  for (Index o = first + static_cast<Index>(threadIdx.x); o < last; o += kThreads) {
    const C entry = task.resizes ? resized<C>(task.sizes, o, value) : value(o);
    task.out[matrix * task.outputs + o] = static_cast<T>(span == 0 ? C(0) : (entry - offset) / span);
  }
}

struct CamTask {
  CamInput activations, gradients;  // gradients are not used if weights are given
  const void* given;                // (T, B, C) in the compute type
  CamMethod method;
  int64_t targets, batch, channels;
  bool relu, resizes;
  CamNormalize normalize;
  int64_t from[kCamRank], to[kCamRank];  // depth, height, width; `to` is the output's size, resized or not
  void *out, *maps, *weights;
};

inline int64_t power_of_two_from(int64_t count) {
  int64_t power = 1;
  while (power < count) power *= 2;
  return power;
}

inline int64_t pieces_of(int64_t count, int64_t wanted, int64_t least_in_one) {
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, count / least_in_one));
}

// How a kernel splits its input, and the number of threads that read neighbouring elements.
struct CamSplit {
  int64_t channels_a_piece, positions_a_piece;
  int width;
};

// How sums over positions are split.
inline CamSplit split_by_channels(const CamInput& input, int64_t channels) {
  const int64_t width =
      input.by_channel ? std::min<int64_t>(64, power_of_two_from(channels))
                       : std::clamp<int64_t>(power_of_two_from(ceil_div(input.positions, kLoads<int32_t>)), 4, kWarp);
  return {input.by_channel ? width : kThreads / width, input.positions, static_cast<int>(width)};
}

// The number of targets that the second kernel processes at once.
inline int64_t targets_at_once(const CamTask& task) {
  return task.targets > 1 ? kTargetsAtOnce : 1;
}

inline int64_t most_weights(const CamTask& task) {
  return kMostWeights / targets_at_once(task);
}

// Only means are split into pieces of positions. The next kernel adds up the pieces.
inline CamSplit split_gradients(const CamTask& task) {
  const CamInput& input = task.gradients;
  CamSplit split = split_by_channels(input, task.channels);
  if (task.channels <= most_weights(task)) {
    const int64_t matrices = task.targets * task.batch;
    const int64_t wanted = ceil_div(kEnoughBlocks, matrices * ceil_div(task.channels, split.channels_a_piece));
    split.positions_a_piece =
        ceil_div(input.positions, pieces_of(input.positions, wanted, input.by_channel ? 32 : 512));
  }
  return split;
}

inline int64_t weight_pieces(const CamTask& task) {
  if (task.method != CamMethod::kGradCam) return 1;
  return ceil_div(task.gradients.positions, split_gradients(task).positions_a_piece);
}

// Whether the last kernel keeps a complete map in shared memory. Only then may the map be in parts.
inline bool keeps_map(const CamTask& task, int64_t compute_size) {
  return task.activations.positions * compute_size <= kMostMapBytes;
}

inline CamSplit split_activations(const CamTask& task, int64_t compute_size) {
  const int64_t positions = task.activations.positions;
  int64_t width, positions_a_piece, channels_at_least;
  if (task.activations.by_channel) {
    width = std::clamp<int64_t>(power_of_two_from(ceil_div(task.channels, kLoads<int32_t>)), 4, kWarp);
    positions_a_piece = kThreads / width;
    channels_at_least = kWarp * kLoads<int32_t>;
  } else {
    width = std::clamp<int64_t>(power_of_two_from(positions), kWarp, kThreads);
    positions_a_piece = width;
    channels_at_least = kWarp;
  }
  const int64_t matrices = task.batch * (multiplies(task.method) ? task.targets : 1);
  const int64_t wanted = ceil_div(kEnoughBlocks, matrices * ceil_div(positions, positions_a_piece));
  const int64_t most = keeps_map(task, compute_size) ? std::max<int64_t>(1, kMostParts / positions) : 1;
  const int64_t parts = pieces_of(task.channels, std::min(wanted, most), channels_at_least);
  return {ceil_div(task.channels, parts), positions_a_piece, static_cast<int>(width)};
}

inline int64_t map_parts(const CamTask& task, int64_t compute_size) {
  return ceil_div(task.channels, split_activations(task, compute_size).channels_a_piece);
}

// The values that one kernel passes to the next and that are not results are in one block of memory: ranges, sums,
// maps.
struct CamScratch {
  int64_t ranges, sums, maps;  // counts, in the compute type
};

inline CamScratch scratch_of(const CamTask& task, int64_t compute_size) {
  const int64_t matrices = task.targets * task.batch, positions = task.activations.positions;
  const int64_t pieces = weight_pieces(task), parts = map_parts(task, compute_size);
  return {2 * matrices * ceil_div(positions, split_activations(task, compute_size).positions_a_piece),
          pieces > 1 ? matrices * pieces * task.channels : 0, parts > 1 ? matrices * parts * positions : 0};
}

inline int64_t last_offset(const CamTask& task, const CamInput& input) {
  return (task.targets - 1) * input.target_stride + (task.batch - 1) * input.sample_stride +
         (task.channels - 1) * input.channel_stride + last_offset(input.axis, input.axes);
}

inline int64_t outputs_of(const CamTask& task) {
  return task.to[0] * task.to[1] * task.to[2];
}

inline bool fits_32(const CamTask& task, int64_t compute_size) {
  const CamScratch scratch = scratch_of(task, compute_size);
  const int64_t matrices = task.targets * task.batch;
  const int64_t gradients = task.method == CamMethod::kWeightsGiven ? 0 : last_offset(task, task.gradients);
  return std::max({last_offset(task, task.activations), gradients, scratch.sums, scratch.maps, scratch.ranges,
                   matrices * task.channels, matrices * task.activations.positions, matrices * outputs_of(task)}) <=
         kMost32;
}

template <class Index>
CamWeightLayout<Index> weight_layout(const CamTask& task) {
  return {static_cast<Index>(task.batch), static_cast<Index>(weight_pieces(task)), static_cast<Index>(task.channels)};
}

template <class T, class Index, class Launch>
void run_cam_means(const CamTask& task, Compute<T>* sums, const Launch& launch) {
  const CamSplit split = split_gradients(task);
  const CamMeans<T, Index> means{CamSource<T, Index>(task.gradients),
                                 CamPieces<Index>(task.targets, task.channels, task.gradients.positions,
                                                  split.channels_a_piece, split.positions_a_piece),
                                 task.gradients.by_channel,
                                 split.width,
                                 weight_layout<Index>(task),
                                 sums};
  const auto kernel = task.gradients.axes <= 1 ? cam_means_kernel<T, Index, true> : cam_means_kernel<T, Index, false>;
  launch(kernel, means.pieces.count(task.batch), kThreads, kThreads * sizeof(Compute<T>), means);
}

template <class T, class Index, class Launch>
void run_cam_ratios(const CamTask& task, const Launch& launch) {
  const CamSplit split = split_by_channels(task.activations, task.channels);
  const CamRatios<T, Index> ratios{
      CamSource<T, Index>(task.activations),
      CamSource<T, Index>(task.gradients),
      CamPieces<Index>(1, task.channels, task.activations.positions, split.channels_a_piece, split.positions_a_piece),
      task.method == CamMethod::kPlusPlus,
      task.activations.by_channel,
      split.width,
      static_cast<Index>(task.targets),
      weight_layout<Index>(task),
      static_cast<Compute<T>*>(task.weights)};
  const size_t shared = static_cast<size_t>(kThreads + split.channels_a_piece) * sizeof(Compute<T>);
  launch(cam_ratios_kernel<T, Index>, ratios.pieces.count(task.batch), kThreads, shared, ratios);
}

template <class T, class Index, class Launch>
void run_cam_maps(const CamTask& task, const Compute<T>* sums, const CamMapLayout<Compute<T>, Index>& out,
                  const Launch& launch) {
  using C = Compute<T>;
  const CamSplit split = split_activations(task, sizeof(C));
  const int64_t kept_weights = std::min(split.channels_a_piece, most_weights(task));
  const CamMaps<T, Index> maps{
      CamSource<T, Index>(task.activations),
      CamPieces<Index>(1, task.channels, task.activations.positions, split.channels_a_piece, split.positions_a_piece),
      task.activations.by_channel,
      split.width,
      static_cast<Index>(task.targets),
      weight_layout<Index>(task),
      sums,
      static_cast<Index>(kept_weights),
      weight_pieces(task) > 1 ? static_cast<C*>(task.weights) : nullptr,
      out};
  const int64_t targets = targets_at_once(task);
  const size_t shared =
      kThreads * (sizeof(Range<C>) + sizeof(C)) + static_cast<size_t>(targets * (kThreads + kept_weights)) * sizeof(C);
  const auto kernel = targets == 1 ? cam_maps_kernel<1, T, Index> : cam_maps_kernel<kTargetsAtOnce, T, Index>;
  launch(kernel, maps.pieces.count(task.batch), kThreads, shared, maps);
}

template <class T, class Index, class Launch>
void run_cam_products(const CamTask& task, const CamMapLayout<Compute<T>, Index>& out, const Launch& launch) {
  using C = Compute<T>;
  const CamSplit split = split_activations(task, sizeof(C));
  const CamProducts<T, Index> products{CamSource<T, Index>(task.activations),
                                       CamSource<T, Index>(task.gradients),
                                       CamPieces<Index>(task.targets, task.channels, task.activations.positions,
                                                        split.channels_a_piece, split.positions_a_piece),
                                       task.activations.by_channel,
                                       split.width,
                                       task.method,
                                       out};
  const size_t shared = kThreads * (sizeof(Range<C>) + 2 * sizeof(C));
  launch(cam_products_kernel<T, Index>, products.pieces.count(task.batch), kThreads, shared, products);
}

template <class T, class Index, class Launch>
void run_cam_finish(const CamTask& task, const CamMapLayout<Compute<T>, Index>& from, const Launch& launch) {
  using C = Compute<T>;
  const int64_t matrices = task.targets * task.batch;
  const int64_t positions = task.activations.positions, outputs = outputs_of(task);
  const int64_t parts = map_parts(task, sizeof(C));
  int64_t outputs_a_block = kOutputsABlock;
  while (outputs_a_block > kThreads && matrices * ceil_div(outputs, outputs_a_block) < kEnoughBlocks)
    outputs_a_block /= 2;
  const int64_t blocks = ceil_div(outputs, outputs_a_block);
  CamFinish<T, Index> finish{
      from.maps,
      parts > 1 ? static_cast<C*>(task.maps) : nullptr,
      static_cast<Index>(parts),
      static_cast<Index>(positions),
      from.ranges,
      static_cast<Index>(ceil_div(positions, split_activations(task, sizeof(C)).positions_a_piece)),
      task.relu,
      task.normalize,
      static_cast<int>(std::clamp<int64_t>(power_of_two_from(positions), kWarp, kThreads)),
      task.resizes,
      {{}, {}, Divisor<Index>(task.to[1]), Divisor<Index>(task.to[2])},
      static_cast<T*>(task.out),
      static_cast<Index>(outputs),
      static_cast<Index>(outputs_a_block),
      Divisor<Index>(blocks)};
  for (int a = 0; a < kCamRank; ++a) {
    finish.sizes.from[a] = static_cast<Index>(task.from[a]);
    finish.sizes.to[a] = static_cast<Index>(task.to[a]);
  }
  const size_t shared_entries = from.ranges == nullptr ? static_cast<size_t>(positions) : 0;
  const size_t shared = kThreads * (sizeof(Range<C>) + sizeof(C)) + shared_entries * sizeof(C);
  launch(cam_finish_kernel<T, Index>, matrices * blocks, kThreads, shared, finish);
}

template <class T, class Index, class Launch>
void run_cam_pool(const CamTask& task, void* scratch, const Launch& launch) {
  using C = Compute<T>;
  const CamScratch counts = scratch_of(task, sizeof(C));
  // The ranges come first because they need the alignment of a pair.
  C* next = static_cast<C*>(scratch);
  Range<C>* ranges = keeps_map(task, sizeof(C)) ? nullptr : reinterpret_cast<Range<C>*>(next);
  C* sums = counts.sums > 0 ? next + counts.ranges : static_cast<C*>(task.weights);
  C* maps = counts.maps > 0 ? next + counts.ranges + counts.sums : static_cast<C*>(task.maps);
  const CamMapLayout<C, Index> layout{static_cast<Index>(task.batch), maps, ranges, task.relu};
  if (multiplies(task.method)) {
    run_cam_products<T, Index>(task, layout, launch);
  } else {
    if (task.method == CamMethod::kGradCam)
      run_cam_means<T, Index>(task, sums, launch);
    else if (task.method != CamMethod::kWeightsGiven)
      run_cam_ratios<T, Index>(task, launch);
    run_cam_maps<T, Index>(task, task.method == CamMethod::kWeightsGiven ? static_cast<const C*>(task.given) : sums,
                           layout, launch);
  }
  run_cam_finish<T, Index>(task, layout, launch);
}

}  // namespace torchext
