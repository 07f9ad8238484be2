// Three kernels: the gradients' sums over positions, the weighted activations' sums over channels, and the
// finished map. Each sums in an order that follows from shapes and strides alone: the same bits in every run,
// on every GPU.
#pragma once

#include <cstdint>
#include <limits>

#include "cam/geometry.h"
#include "cam/task.h"
#include "common/kernel.cuh"
#include "common/strided.h"

namespace torchext {

constexpr int kCamRank = 3;
constexpr int kLoads = 8;  // under way at once in a thread

// As many blocks keep any GPU busy. Not its own number of processors: that would shape the sums.
constexpr int64_t kEnoughBlocks = 1024;

// Every block that finishes a map adds all of it up, so a map comes in no more parts than this, counted in
// entries.
constexpr int64_t kMostParts = 32768;
constexpr int64_t kMostMapBytes = 32768;  // kept in shared memory; a larger map comes whole and is read in place
constexpr int64_t kMostWeights = 2048;    // kept in shared memory; of more, sums come whole and are read in place
constexpr int64_t kOutputsABlock = 2048;

// Activations or gradients, (B, C, positions).
struct CamInput {
  const void* data;
  int64_t sample_stride, channel_stride, positions;
  int axes;
  Axis axis[kCamRank];  // of the positions
  bool by_channel;      // neighbouring channels are nearer than neighbouring positions
};

template <class T, class Index>
struct CamSource {
  explicit CamSource(const CamInput& input)
      : data(static_cast<const T*>(input.data)),
        sample_stride(static_cast<Index>(input.sample_stride)),
        channel_stride(static_cast<Index>(input.channel_stride)),
        place(input.axis, input.axes) {}

  TORCHEXT_HD const T* at(Index sample, Index channel, Index position) const {
    return data + (sample * sample_stride + channel * channel_stride + place.offset(position));
  }

  const T* data;
  Index sample_stride, channel_stride;
  Strided<Index, kCamRank> place;
};

// What one block sums.
template <class Index>
struct CamPiece {
  Index sample, channel_piece, position_piece;
  Index first_channel, channels, first_position, positions;
};

// (B, C, positions), cut into pieces.
template <class Index>
struct CamPieces {
  CamPieces(int64_t channels, int64_t positions, int64_t channels_a_piece, int64_t positions_a_piece)
      : channels(static_cast<Index>(channels)),
        positions(static_cast<Index>(positions)),
        channels_a_piece(static_cast<Index>(channels_a_piece)),
        positions_a_piece(static_cast<Index>(positions_a_piece)),
        channel_pieces(ceil_div(channels, channels_a_piece)),
        position_pieces(ceil_div(positions, positions_a_piece)) {}

  TORCHEXT_HD CamPiece<Index> operator[](unsigned block) const {
    CamPiece<Index> piece;
    piece.position_piece = static_cast<Index>(block);
    piece.channel_piece = position_pieces.split(piece.position_piece);
    piece.sample = channel_pieces.split(piece.channel_piece);
    piece.first_channel = piece.channel_piece * channels_a_piece;
    piece.channels = least(channels_a_piece, channels - piece.first_channel);
    piece.first_position = piece.position_piece * positions_a_piece;
    piece.positions = least(positions_a_piece, positions - piece.first_position);
    return piece;
  }

  int64_t count(int64_t batch) const { return batch * channel_pieces.divisor * position_pieces.divisor; }

  Index channels, positions, channels_a_piece, positions_a_piece;
  Divisor<Index> channel_pieces, position_pieces;
};

// The sum of entry(i) over i = first, first + step, … below count, in kLoads strands. Behind the end an entry is read
// that is not used: without a branch between them, the loads are all under way at once.
template <class C, class Index, class Entry>
__device__ __forceinline__ C strided_sum(Index first, Index step, Index count, const Entry& entry) {
  C sums[kLoads] = {};
#pragma unroll 1
  for (Index i = first; i < count; i += step * kLoads) {
    C values[kLoads];
#pragma unroll
    for (int u = 0; u < kLoads; ++u) values[u] = entry(least(i + u * step, count - 1));
#pragma unroll
    for (int u = 0; u < kLoads; ++u) sums[u] += i + u * step < count ? values[u] : C(0);
  }
#pragma unroll
  for (int half = kLoads / 2; half > 0; half /= 2)
#pragma unroll
    for (int u = 0; u < half; ++u) sums[u] += sums[u + half];
  return sums[0];
}

// store(row, Σ entries(row)(column)): where a row's entries are neighbours, `width` threads of a warp share it.
template <class C, class Index, class Entries, class Store>
__device__ __forceinline__ void sum_rows(Index rows, Index columns, int width, const Entries& entries,
                                         const Store& store) {
  const Index lane = static_cast<Index>(threadIdx.x) % width, mine = static_cast<Index>(threadIdx.x) / width;
  for (Index first = 0; first < rows; first += kThreads / width) {  // all lanes meet at the shuffles
    const Index row = first + mine;
    C sum{};
    if (row < rows) sum = strided_sum<C, Index>(lane, width, columns, entries(row));
    for (int bits = width / 2; bits > 0; bits /= 2) sum += __shfl_xor_sync(~0u, sum, bits);
    if (lane == 0 && row < rows) store(row, sum);
  }
}

// store(column, Σ entries(column)(row)): where a column's neighbours are those of the next column, `width` threads
// stand side by side and the other threads share the rows. `scratch` holds kThreads values.
template <class C, class Index, class Entries, class Store>
__device__ __forceinline__ void sum_columns(Index rows, Index columns, int width, C* scratch, const Entries& entries,
                                            const Store& store) {
  const int groups = kThreads / width, group = static_cast<int>(threadIdx.x) / width;
  for (Index first = 0; first < columns; first += width) {
    const Index column = first + static_cast<Index>(threadIdx.x) % width;
    C sum{};
    if (column < columns) sum = strided_sum<C, Index>(group, groups, rows, entries(column));
    scratch[threadIdx.x] = sum;
    __syncthreads();
    for (int half = groups / 2; half > 0; half /= 2) {
      if (group < half) scratch[threadIdx.x] += scratch[threadIdx.x + half * width];
      __syncthreads();
    }
    if (group == 0 && column < columns) store(column, scratch[threadIdx.x]);
  }
}

// Both are NaN where a value is, as torch.amin and torch.amax have it.
template <class C>
struct Range {
  C low, high;
};

template <class C>
TORCHEXT_HD Range<C> merged(const Range<C>& a, const Range<C>& b) {
  return {b.low < a.low || b.low != b.low ? b.low : a.low, b.high > a.high || b.high != b.high ? b.high : a.high};
}

// The range of at(0) … at(count - 1), known to every thread. `scratch` holds kThreads ranges.
template <class C, class Index, class At>
__device__ __forceinline__ Range<C> block_range(Index count, Range<C>* scratch, const At& at) {
  constexpr C kInfinity = std::numeric_limits<C>::infinity();
  Range<C> range{kInfinity, -kInfinity};
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
  return relu && value < 0 ? C(0) : value;  // NaN stays
}

template <class T, class Index>
struct CamWeights {
  CamSource<T, Index> gradients;
  CamPieces<Index> pieces;
  bool by_channel;
  int width;
  Compute<T>* sums;  // (B, position pieces, C), divided by the number of positions
};

// kFlat: the positions are a single axis.
template <class T, class Index, bool kFlat>
__global__ void __launch_bounds__(kThreads) cam_weights_kernel(const __grid_constant__ CamWeights<T, Index> task) {
  using C = Compute<T>;
  const CamPiece<Index> piece = task.pieces[blockIdx.x];
  C* sums = task.sums +
            (piece.sample * task.pieces.position_pieces.divisor + piece.position_piece) * task.pieces.channels +
            piece.first_channel;
  const auto entries = [&](Index channel) {
    const T* data = task.gradients.at(piece.sample, piece.first_channel + channel, 0);
    return [&task, data, first = piece.first_position](Index position) {
      const auto& place = task.gradients.place;
      return static_cast<C>(data[kFlat ? (first + position) * place.stride[0] : place.offset(first + position)]);
    };
  };
  const auto store = [&](Index channel, C sum) { sums[channel] = sum / static_cast<C>(task.pieces.positions); };
  if (task.by_channel)
    sum_columns(piece.positions, piece.channels, task.width, reinterpret_cast<C*>(torchext_shared), entries, store);
  else
    sum_rows<C>(piece.channels, piece.positions, task.width, entries, store);
}

template <class T, class Index>
struct CamMaps {
  CamSource<T, Index> activations;
  CamPieces<Index> pieces;
  bool by_channel;
  int width;
  const Compute<T>* sums;
  Index sum_pieces;  // of which a weight is the sum
  Index kept_weights;
  bool relu;
  Compute<T>* maps;           // (B, channel pieces, positions)
  Range<Compute<T>>* ranges;  // (B, position pieces) of whole maps; null: the maps come in parts
};

template <class T, class Index>
__global__ void __launch_bounds__(kThreads) cam_maps_kernel(const __grid_constant__ CamMaps<T, Index> task) {
  using C = Compute<T>;
  const CamPiece<Index> piece = task.pieces[blockIdx.x];
  Range<C>* range_scratch = reinterpret_cast<Range<C>*>(torchext_shared);
  C* sum_scratch = reinterpret_cast<C*>(range_scratch + kThreads);
  C* map_entries = sum_scratch + kThreads;
  C* kept_weights = map_entries + kThreads;
  const C* sums = task.sums + piece.sample * task.sum_pieces * task.pieces.channels + piece.first_channel;
  const Index kept = least(task.kept_weights, piece.channels);
  for (Index c = static_cast<Index>(threadIdx.x); c < kept; c += kThreads) {
    C sum{};
    for (Index p = 0; p < task.sum_pieces; ++p) sum += sums[p * task.pieces.channels + c];
    kept_weights[c] = sum;
  }
  __syncthreads();
  const C* weights = kept == piece.channels ? kept_weights : sums;
  C* map = task.maps +
           (piece.sample * task.pieces.channel_pieces.divisor + piece.channel_piece) * task.pieces.positions +
           piece.first_position;
  const auto entries = [&](Index position) {
    const T* data = task.activations.at(piece.sample, piece.first_channel, piece.first_position + position);
    return [weights, data, stride = task.activations.channel_stride](Index channel) {
      return weights[channel] * static_cast<C>(data[channel * stride]);
    };
  };
  const auto store = [&](Index position, C sum) { map_entries[position] = map[position] = rectified(sum, task.relu); };
  if (task.by_channel)
    sum_rows<C>(piece.positions, piece.channels, task.width, entries, store);
  else
    sum_columns(piece.channels, piece.positions, task.width, sum_scratch, entries, store);
  if (task.ranges == nullptr) return;
  __syncthreads();
  const Range<C> range =
      block_range(piece.positions, range_scratch, [&](Index i) { return Range<C>{map_entries[i], map_entries[i]}; });
  if (threadIdx.x == 0) task.ranges[piece.sample * task.pieces.position_pieces.divisor + piece.position_piece] = range;
}

template <class Index>
struct CamSizes {
  Index from[kCamRank], to[kCamRank];
  Divisor<Index> height, width;  // of the output
};

template <class T, class Index>
struct CamFinish {
  const Compute<T>* maps;
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
  Divisor<Index> blocks_a_sample;
};

// Linear interpolation of value(position) at one place of the output.
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

// Interpolation and normalisation commute: a linear map of all entries, and weights that sum to 1.
template <class T, class Index>
__global__ void __launch_bounds__(kThreads) cam_finish_kernel(const __grid_constant__ CamFinish<T, Index> task) {
  using C = Compute<T>;
  Index block = static_cast<Index>(blockIdx.x);
  const Index sample = task.blocks_a_sample.split(block);
  Range<C>* range_scratch = reinterpret_cast<Range<C>*>(torchext_shared);
  C* sum_scratch = reinterpret_cast<C*>(range_scratch + kThreads);
  C* kept = sum_scratch + kThreads;
  const C* maps = task.maps + sample * task.parts * task.positions;
  const bool whole = task.ranges != nullptr;
  if (!whole) {
    sum_columns(
        task.parts, task.positions, task.width, sum_scratch,
        [&](Index position) { return [&, position](Index part) { return maps[part * task.positions + position]; }; },
        [&](Index position, C sum) { kept[position] = rectified(sum, task.relu); });
    __syncthreads();
  }
  const C* map = whole ? maps : kept;
  const auto value = [&](Index position) { return map[position]; };
  C offset = 0, span = 1;
  if (task.normalize != CamNormalize::kNone) {
    const Range<C> range =
        whole ? block_range(task.range_count, range_scratch,
                            [&](Index i) { return task.ranges[sample * task.range_count + i]; })
              : block_range(task.positions, range_scratch, [&](Index i) { return Range<C>{map[i], map[i]}; });
    const bool stretch = task.normalize == CamNormalize::kMinMax;
    offset = stretch ? range.low : C(0);
    span = stretch ? range.high - range.low : -range.low > range.high ? -range.low : range.high;
  }
  const Index first = block * task.outputs_a_block;
  const Index last = least(first + task.outputs_a_block, task.outputs);
  for (Index o = first + static_cast<Index>(threadIdx.x); o < last; o += kThreads) {
    const C entry = task.resizes ? resized<C>(task.sizes, o, value) : value(o);
    task.out[sample * task.outputs + o] = static_cast<T>(span == 0 ? C(0) : (entry - offset) / span);
  }
}

struct CamTask {
  CamInput activations, gradients;
  int64_t batch, channels;
  bool relu, resizes;
  CamNormalize normalize;
  int64_t from[kCamRank], to[kCamRank];  // depth, height, width; `to` of the output, resized or not
  void* out;
};

inline int64_t power_of_two_from(int64_t count) {
  int64_t power = 1;
  while (power < count) power *= 2;
  return power;
}

inline int64_t pieces_of(int64_t count, int64_t wanted, int64_t least_in_one) {
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, count / least_in_one));
}

// How the first two kernels cut their input, and how many threads stand side by side.
struct CamCut {
  int64_t channels_a_piece, positions_a_piece;
  int width;
};

inline CamCut cut_gradients(const CamTask& task) {
  const int64_t positions = task.gradients.positions;
  const bool by_channel = task.gradients.by_channel;
  const int64_t width = by_channel ? std::min<int64_t>(64, power_of_two_from(task.channels))
                                   : std::clamp<int64_t>(power_of_two_from(ceil_div(positions, kLoads)), 4, kWarp);
  const int64_t channels = by_channel ? width : kThreads / width;
  const int64_t wanted = ceil_div(kEnoughBlocks, task.batch * ceil_div(task.channels, channels));
  const int64_t pieces = task.channels > kMostWeights ? 1 : pieces_of(positions, wanted, by_channel ? 32 : 512);
  return {channels, ceil_div(positions, pieces), static_cast<int>(width)};
}

// Whether the finishing kernel keeps a whole map in shared memory: then it may come in parts.
inline bool keeps_map(const CamTask& task, int64_t compute_size) {
  return task.activations.positions * compute_size <= kMostMapBytes;
}

inline CamCut cut_activations(const CamTask& task, int64_t compute_size) {
  const int64_t positions = task.activations.positions;
  int64_t width, positions_a_piece, channels_at_least;
  if (task.activations.by_channel) {
    width = std::clamp<int64_t>(power_of_two_from(ceil_div(task.channels, kLoads)), 4, kWarp);
    positions_a_piece = kThreads / width;
    channels_at_least = kWarp * kLoads;
  } else {
    width = std::clamp<int64_t>(power_of_two_from(positions), kWarp, kThreads);
    positions_a_piece = width;
    channels_at_least = kWarp;
  }
  const int64_t wanted = ceil_div(kEnoughBlocks, task.batch * ceil_div(positions, positions_a_piece));
  const int64_t most = keeps_map(task, compute_size) ? std::max<int64_t>(1, kMostParts / positions) : 1;
  const int64_t parts = pieces_of(task.channels, std::min(wanted, most), channels_at_least);
  return {ceil_div(task.channels, parts), positions_a_piece, static_cast<int>(width)};
}

// What the kernels hand on to each other lies in one block of memory: sums, maps, ranges.
struct CamScratch {
  int64_t sums, maps, ranges;  // counts, in the compute type
};

inline CamScratch scratch_of(const CamTask& task, int64_t compute_size) {
  const CamCut gradients = cut_gradients(task), activations = cut_activations(task, compute_size);
  const int64_t positions = task.activations.positions;
  return {task.batch * ceil_div(task.gradients.positions, gradients.positions_a_piece) * task.channels,
          task.batch * ceil_div(task.channels, activations.channels_a_piece) * positions,
          2 * task.batch * ceil_div(positions, activations.positions_a_piece)};
}

inline int64_t last_offset(const CamTask& task, const CamInput& input) {
  return (task.batch - 1) * input.sample_stride + (task.channels - 1) * input.channel_stride +
         last_offset(input.axis, input.axes);
}

inline int64_t outputs_of(const CamTask& task) {
  return task.to[0] * task.to[1] * task.to[2];
}

inline bool fits_32(const CamTask& task, int64_t compute_size) {
  const CamScratch scratch = scratch_of(task, compute_size);
  return std::max({last_offset(task, task.activations), last_offset(task, task.gradients), scratch.sums, scratch.maps,
                   scratch.ranges, task.batch * outputs_of(task)}) <= kMost32;
}

template <class T, class Index, class Launch>
void run_cam_weights(const CamTask& task, Compute<T>* sums, const Launch& launch) {
  const CamCut cut = cut_gradients(task);
  const CamWeights<T, Index> weights{
      CamSource<T, Index>(task.gradients),
      CamPieces<Index>(task.channels, task.gradients.positions, cut.channels_a_piece, cut.positions_a_piece),
      task.gradients.by_channel, cut.width, sums};
  const auto kernel =
      task.gradients.axes <= 1 ? cam_weights_kernel<T, Index, true> : cam_weights_kernel<T, Index, false>;
  launch(kernel, weights.pieces.count(task.batch), kThreads, kThreads * sizeof(Compute<T>), weights);
}

template <class T, class Index, class Launch>
CamPieces<Index> run_cam_maps(const CamTask& task, const Compute<T>* sums, Compute<T>* maps, Range<Compute<T>>* ranges,
                              const Launch& launch) {
  using C = Compute<T>;
  const CamCut cut = cut_activations(task, sizeof(C));
  const int64_t sum_pieces = ceil_div(task.gradients.positions, cut_gradients(task).positions_a_piece);
  const int64_t kept_weights = std::min(cut.channels_a_piece, kMostWeights);
  const CamMaps<T, Index> map{
      CamSource<T, Index>(task.activations),
      CamPieces<Index>(task.channels, task.activations.positions, cut.channels_a_piece, cut.positions_a_piece),
      task.activations.by_channel,
      cut.width,
      sums,
      static_cast<Index>(sum_pieces),
      static_cast<Index>(kept_weights),
      task.relu && ranges != nullptr,
      maps,
      ranges};
  const size_t shared = kThreads * (sizeof(Range<C>) + 2 * sizeof(C)) + static_cast<size_t>(kept_weights) * sizeof(C);
  launch(cam_maps_kernel<T, Index>, map.pieces.count(task.batch), kThreads, shared, map);
  return map.pieces;
}

template <class T, class Index, class Launch>
void run_cam_finish(const CamTask& task, const CamPieces<Index>& pieces, const Compute<T>* maps,
                    const Range<Compute<T>>* ranges, const Launch& launch) {
  using C = Compute<T>;
  const int64_t positions = task.activations.positions, outputs = outputs_of(task);
  int64_t outputs_a_block = kOutputsABlock;
  while (outputs_a_block > kThreads && task.batch * ceil_div(outputs, outputs_a_block) < kEnoughBlocks)
    outputs_a_block /= 2;
  const int64_t blocks = ceil_div(outputs, outputs_a_block);
  CamFinish<T, Index> finish{maps,
                             pieces.channel_pieces.divisor,
                             static_cast<Index>(positions),
                             ranges,
                             pieces.position_pieces.divisor,
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
  const size_t kept = ranges == nullptr ? static_cast<size_t>(positions) : 0;
  const size_t shared = kThreads * (sizeof(Range<C>) + sizeof(C)) + kept * sizeof(C);
  launch(cam_finish_kernel<T, Index>, task.batch * blocks, kThreads, shared, finish);
}

template <class T, class Index, class Launch>
void run_cam_pool(const CamTask& task, void* scratch, const Launch& launch) {
  using C = Compute<T>;
  const CamScratch counts = scratch_of(task, sizeof(C));
  // Ranges first: they are pairs, and aligned as such.
  Range<C>* ranges = static_cast<Range<C>*>(scratch);
  C* sums = static_cast<C*>(scratch) + counts.ranges;
  C* maps = sums + counts.sums;
  if (keeps_map(task, sizeof(C))) ranges = nullptr;
  run_cam_weights<T, Index>(task, sums, launch);
  const CamPieces<Index> pieces = run_cam_maps<T, Index>(task, sums, maps, ranges, launch);
  run_cam_finish<T, Index>(task, pieces, maps, ranges, launch);
}

}  // namespace torchext
