// At most three kernels compute the weights of the channels (sums over positions), the maps (sums over channels) and
// the finished maps. The order of each sum depends on shapes and strides alone, so the result has the same bits in
// every run and on every GPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "cam/pool/geometry.h"
#include "cam/pool/plan.cuh"
#include "common/strided.h"

namespace torchext {

template <class T, class Index>
struct CamSource {
  explicit CamSource(const CamInput& input)
      : data(static_cast<const T*>(input.data)),
        target_stride(static_cast<Index>(input.target_stride)),
        sample_stride(static_cast<Index>(input.sample_stride)),
        channel_stride(static_cast<Index>(input.channel_stride)),
        position_axes(input.axes) {}

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
  CamPieces(int64_t targets, int64_t channels, int64_t positions, const CamSplit& split)
      : channels(static_cast<Index>(channels)),
        positions(static_cast<Index>(positions)),
        channels_a_piece(static_cast<Index>(split.channels_a_piece)),
        positions_a_piece(static_cast<Index>(split.positions_a_piece)),
        targets(targets),
        channel_pieces(ceil_div(channels, split.channels_a_piece)),
        position_pieces(ceil_div(positions, split.positions_a_piece)),
        width(static_cast<int>(split.width)),
        sums_adjacent(split.sums_adjacent) {}

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
  int width;  // as in CamSplit
  bool sums_adjacent;
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

// Calls store(i, sums of terms_of(i)) for i < sums, each over `count` terms.
template <int kSums, class C, class Index, class TermsOf, class Store>
__device__ __forceinline__ void sum_piece(const CamPieces<Index>& pieces, Index sums, Index count, C* scratch,
                                          const TermsOf& terms_of, const Store& store) {
  if (pieces.sums_adjacent)
    sum_columns<kSums>(count, sums, pieces.width, scratch, terms_of, store);
  else
    sum_rows<kSums, C>(sums, count, pieces.width, terms_of, store);
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
  sum_piece<1>(task.pieces, piece.channels, piece.positions, reinterpret_cast<C*>(torchext_shared), entries, store);
}

template <class T, class Index>
struct CamRatios {
  CamSource<T, Index> activations, gradients;
  CamPieces<Index> pieces;  // of channels; a piece has all positions and targets
  bool plus_plus;
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
    sum_piece<1>(task.pieces, piece.channels, piece.positions, scratch, entries, store);
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
    sum_piece<kTargets>(task.pieces, piece.positions, piece.channels, sum_scratch, entries, store);
    for (Index target = first; target < least(first + kTargets, task.targets); ++target)
      task.out.store_range(task.pieces, piece, target, map_entries + (target - first) * kThreads, range_scratch);
    __syncthreads();  // before the weights of the next targets overwrite these
  }
}

template <class T, class Index>
struct CamProducts {
  CamSource<T, Index> activations, gradients;
  CamPieces<Index> pieces;
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
  sum_piece<1>(task.pieces, piece.positions, piece.channels, sum_scratch, entries, store);
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

template <class T, class Index, class Launch>
void run_cam_means(const CamTask& task, const CamPlan& plan, const CamWeightLayout<Index>& layout, Compute<T>* sums,
                   const Launch& launch) {
  const CamMeans<T, Index> means{
      .gradients = CamSource<T, Index>(task.gradients),
      .pieces = CamPieces<Index>(task.targets, task.channels, task.gradients.positions, plan.means),
      .layout = layout,
      .sums = sums};
  const auto kernel =
      task.gradients.axes.count <= 1 ? cam_means_kernel<T, Index, true> : cam_means_kernel<T, Index, false>;
  launch(kernel, means.pieces.count(task.batch), kThreads, kThreads * sizeof(Compute<T>), means);
}

template <class T, class Index, class Launch>
void run_cam_ratios(const CamTask& task, const CamPlan& plan, const CamWeightLayout<Index>& layout,
                    const Launch& launch) {
  const CamRatios<T, Index> ratios{
      .activations = CamSource<T, Index>(task.activations),
      .gradients = CamSource<T, Index>(task.gradients),
      .pieces = CamPieces<Index>(1, task.channels, task.activations.positions, plan.ratios),
      .plus_plus = task.method == CamMethod::kPlusPlus,
      .targets = static_cast<Index>(task.targets),
      .layout = layout,
      .weights = static_cast<Compute<T>*>(task.weights)};
  const size_t shared = static_cast<size_t>(kThreads + plan.ratios.channels_a_piece) * sizeof(Compute<T>);
  launch(cam_ratios_kernel<T, Index>, ratios.pieces.count(task.batch), kThreads, shared, ratios);
}

template <class T, class Index, class Launch>
void run_cam_maps(const CamTask& task, const CamPlan& plan, const CamWeightLayout<Index>& layout,
                  const Compute<T>* sums, const CamMapLayout<Compute<T>, Index>& out, const Launch& launch) {
  using C = Compute<T>;
  const CamMaps<T, Index> maps{.activations = CamSource<T, Index>(task.activations),
                               .pieces = CamPieces<Index>(1, task.channels, task.activations.positions, plan.maps),
                               .targets = static_cast<Index>(task.targets),
                               .layout = layout,
                               .sums = sums,
                               .kept_weights = static_cast<Index>(plan.kept_weights),
                               .weights = plan.weight_pieces > 1 ? static_cast<C*>(task.weights) : nullptr,
                               .out = out};
  const int64_t kept = plan.targets_at_once * (kThreads + plan.kept_weights);
  const size_t shared = kThreads * (sizeof(Range<C>) + sizeof(C)) + static_cast<size_t>(kept) * sizeof(C);
  const auto kernel =
      plan.targets_at_once == 1 ? cam_maps_kernel<1, T, Index> : cam_maps_kernel<kTargetsAtOnce, T, Index>;
  launch(kernel, maps.pieces.count(task.batch), kThreads, shared, maps);
}

template <class T, class Index, class Launch>
void run_cam_products(const CamTask& task, const CamPlan& plan, const CamMapLayout<Compute<T>, Index>& out,
                      const Launch& launch) {
  using C = Compute<T>;
  const CamProducts<T, Index> products{
      .activations = CamSource<T, Index>(task.activations),
      .gradients = CamSource<T, Index>(task.gradients),
      .pieces = CamPieces<Index>(task.targets, task.channels, task.activations.positions, plan.maps),
      .method = task.method,
      .out = out};
  const size_t shared = kThreads * (sizeof(Range<C>) + 2 * sizeof(C));
  launch(cam_products_kernel<T, Index>, products.pieces.count(task.batch), kThreads, shared, products);
}

template <class T, class Index, class Launch>
void run_cam_finish(const CamTask& task, const CamPlan& plan, const CamMapLayout<Compute<T>, Index>& from,
                    const Launch& launch) {
  using C = Compute<T>;
  const int64_t positions = task.activations.positions, outputs = task.outputs();
  int64_t outputs_a_block = kOutputsABlock;
  while (outputs_a_block > kThreads && task.matrices() * ceil_div(outputs, outputs_a_block) < kEnoughBlocks)
    outputs_a_block /= 2;
  const int64_t blocks = ceil_div(outputs, outputs_a_block);
  CamFinish<T, Index> finish{
      .maps = from.maps,
      .whole_maps = plan.map_parts > 1 ? static_cast<C*>(task.maps) : nullptr,
      .parts = static_cast<Index>(plan.map_parts),
      .positions = static_cast<Index>(positions),
      .ranges = from.ranges,
      .range_count = static_cast<Index>(plan.map_pieces),
      .relu = task.relu,
      .normalize = task.normalize,
      .width = static_cast<int>(std::clamp<int64_t>(power_of_two_from(positions), kWarp, kThreads)),
      .resizes = task.resizes,
      .sizes = {{}, {}, Divisor<Index>(task.to[1]), Divisor<Index>(task.to[2])},
      .out = static_cast<T*>(task.out),
      .outputs = static_cast<Index>(outputs),
      .outputs_a_block = static_cast<Index>(outputs_a_block),
      .blocks_a_matrix = Divisor<Index>(blocks)};
  std::copy_n(task.from, kCamRank, finish.sizes.from);
  std::copy_n(task.to, kCamRank, finish.sizes.to);
  const size_t shared_entries = plan.keeps_map ? static_cast<size_t>(positions) : 0;
  const size_t shared = kThreads * (sizeof(Range<C>) + sizeof(C)) + shared_entries * sizeof(C);
  launch(cam_finish_kernel<T, Index>, task.matrices() * blocks, kThreads, shared, finish);
}

template <class T, class Index, class Launch>
void run_cam_pool(const CamTask& task, const CamPlan& plan, void* scratch, const Launch& launch) {
  using C = Compute<T>;
  // The ranges come first because they need the alignment of a pair.
  C* next = static_cast<C*>(scratch);
  Range<C>* ranges = plan.keeps_map ? nullptr : reinterpret_cast<Range<C>*>(next);
  C* sums = plan.sums > 0 ? next + plan.ranges : static_cast<C*>(task.weights);
  C* maps = plan.partial_maps > 0 ? next + plan.ranges + plan.sums : static_cast<C*>(task.maps);
  const CamWeightLayout<Index> weights{static_cast<Index>(task.batch), static_cast<Index>(plan.weight_pieces),
                                       static_cast<Index>(task.channels)};
  const CamMapLayout<C, Index> layout{static_cast<Index>(task.batch), maps, ranges, task.relu};
  if (multiplies(task.method)) {
    run_cam_products<T, Index>(task, plan, layout, launch);
  } else {
    if (task.method == CamMethod::kGradCam)
      run_cam_means<T, Index>(task, plan, weights, sums, launch);
    else if (task.method != CamMethod::kWeightsGiven)
      run_cam_ratios<T, Index>(task, plan, weights, launch);
    const C* given = static_cast<const C*>(task.given);
    run_cam_maps<T, Index>(task, plan, weights, task.method == CamMethod::kWeightsGiven ? given : sums, layout, launch);
  }
  run_cam_finish<T, Index>(task, plan, layout, launch);
}

}  // namespace torchext
