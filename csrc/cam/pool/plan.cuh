// How the CUDA kernels split a call into blocks of threads, and which values they pass to each other.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cam/pool/task.h"
#include "common/kernel.cuh"

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
  Axes axes;        // of the positions
  bool by_channel;  // neighbouring channels are closer in memory than neighbouring positions
};

struct CamTask {
  CamInput activations, gradients;  // gradients are not used if weights are given
  const void* given;                // (T, B, C) in the compute type
  CamMethod method;
  int64_t targets, batch, channels;
  bool relu, resizes;
  CamNormalize normalize;
  int64_t from[kCamRank], to[kCamRank];  // depth, height, width; `to` is the output's size, resized or not
  void *out, *maps, *weights;

  int64_t matrices() const { return targets * batch; }
  int64_t outputs() const { return to[0] * to[1] * to[2]; }
};

inline int64_t power_of_two_from(int64_t count) {
  int64_t power = 1;
  while (power < count) power *= 2;
  return power;
}

inline int64_t pieces_of(int64_t count, int64_t wanted, int64_t least_in_one) {
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, count / least_in_one));
}

// How a kernel splits its input, and how the threads of a block share the sums of a piece.
struct CamSplit {
  int64_t channels_a_piece, positions_a_piece;
  int64_t width;       // threads that read neighbouring elements
  bool sums_adjacent;  // neighbouring elements belong to neighbouring sums, otherwise to the same sum
};

struct CamPlan {
  CamSplit means, ratios;  // of sums over positions: Grad-CAM's, and those of Grad-CAM++ and XGrad-CAM
  CamSplit maps;           // of sums over channels
  int64_t weight_pieces;   // of each sum over positions; the next kernel adds them up
  int64_t map_parts;       // of each sum over channels; the last kernel adds them up
  int64_t map_pieces;      // pieces of the positions of a map
  int64_t targets_at_once, kept_weights;
  bool keeps_map;  // the last kernel keeps a complete map in shared memory; only then may the map be in parts
  // The values that one kernel passes to the next and that are not results are in one block of memory: ranges, sums,
  // maps. These are their counts, in the compute type.
  int64_t ranges, sums, partial_maps;
};

inline CamSplit split_by_channels(const CamInput& input, int64_t channels) {
  const int64_t width =
      input.by_channel ? std::min<int64_t>(64, power_of_two_from(channels))
                       : std::clamp<int64_t>(power_of_two_from(ceil_div(input.positions, kLoads<int32_t>)), 4, kWarp);
  return {input.by_channel ? width : kThreads / width, input.positions, width, input.by_channel};
}

// Only means are split into pieces of positions.
inline CamSplit split_gradients(const CamTask& task, int64_t most_weights) {
  const CamInput& input = task.gradients;
  CamSplit split = split_by_channels(input, task.channels);
  if (task.channels > most_weights) return split;
  const int64_t wanted = ceil_div(kEnoughBlocks, task.matrices() * ceil_div(task.channels, split.channels_a_piece));
  split.positions_a_piece = ceil_div(input.positions, pieces_of(input.positions, wanted, input.by_channel ? 32 : 512));
  return split;
}

inline CamSplit split_activations(const CamTask& task, bool keeps_map) {
  const bool by_channel = task.activations.by_channel;
  const int64_t positions = task.activations.positions;
  const int64_t width = by_channel
                            ? std::clamp<int64_t>(power_of_two_from(ceil_div(task.channels, kLoads<int32_t>)), 4, kWarp)
                            : std::clamp<int64_t>(power_of_two_from(positions), kWarp, kThreads);
  const int64_t positions_a_piece = by_channel ? kThreads / width : width;
  const int64_t matrices = multiplies(task.method) ? task.matrices() : task.batch;
  const int64_t wanted = ceil_div(kEnoughBlocks, matrices * ceil_div(positions, positions_a_piece));
  const int64_t most = keeps_map ? std::max<int64_t>(1, kMostParts / positions) : 1;
  const int64_t parts = pieces_of(task.channels, std::min(wanted, most), by_channel ? kWarp * kLoads<int32_t> : kWarp);
  return {ceil_div(task.channels, parts), positions_a_piece, width, !by_channel};
}

inline CamPlan plan_of(const CamTask& task, int64_t compute_size) {
  const int64_t matrices = task.matrices(), positions = task.activations.positions;
  CamPlan plan{};
  plan.targets_at_once = task.targets > 1 ? kTargetsAtOnce : 1;
  const int64_t most_weights = kMostWeights / plan.targets_at_once;
  plan.keeps_map = positions * compute_size <= kMostMapBytes;
  plan.maps = split_activations(task, plan.keeps_map);
  plan.kept_weights = std::min(plan.maps.channels_a_piece, most_weights);
  plan.map_parts = ceil_div(task.channels, plan.maps.channels_a_piece);
  plan.map_pieces = ceil_div(positions, plan.maps.positions_a_piece);
  plan.ratios = split_by_channels(task.activations, task.channels);
  plan.weight_pieces = 1;
  if (task.method == CamMethod::kGradCam) {
    plan.means = split_gradients(task, most_weights);
    plan.weight_pieces = ceil_div(task.gradients.positions, plan.means.positions_a_piece);
  }
  plan.ranges = 2 * matrices * plan.map_pieces;
  plan.sums = plan.weight_pieces > 1 ? matrices * plan.weight_pieces * task.channels : 0;
  plan.partial_maps = plan.map_parts > 1 ? matrices * plan.map_parts * positions : 0;
  return plan;
}

inline int64_t last_offset(const CamTask& task, const CamInput& input) {
  return (task.targets - 1) * input.target_stride + (task.batch - 1) * input.sample_stride +
         (task.channels - 1) * input.channel_stride + input.axes.last_offset();
}

inline bool fits_32(const CamTask& task, const CamPlan& plan) {
  const int64_t gradients = task.method == CamMethod::kWeightsGiven ? 0 : last_offset(task, task.gradients);
  return std::max({last_offset(task, task.activations), gradients, plan.sums, plan.partial_maps, plan.ranges,
                   task.matrices() * task.channels, task.matrices() * task.activations.positions,
                   task.matrices() * task.outputs()}) <= kMost32;
}

}  // namespace torchext
