#pragma once

#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

namespace torchext {

// As in torchext/cam/methods.py.
enum class CamMethod : int64_t { kGradCam, kPlusPlus, kXGradCam, kLayerCam, kHiResCam, kElementwise, kWeightsGiven };

// Gradients and activations are multiplied place by place; else each channel has one weight.
constexpr bool multiplies(CamMethod method) {
  return method == CamMethod::kLayerCam || method == CamMethod::kHiResCam || method == CamMethod::kElementwise;
}

// The weights depend on the sums of the channels' activations.
constexpr bool needs_activation_sums(CamMethod method) {
  return method == CamMethod::kPlusPlus || method == CamMethod::kXGradCam;
}

// What is summed of each entry x of the data: x itself, weight·x, x·y with y of other data, or, where x > 0,
// x / (2 + sum·x) with the channel's sum of activations.
enum class CamEntry { kPlain, kWeighted, kProduct, kPlusPlus };

// Matrices with contiguous columns, a target's gradients or the activations of all targets. Where spatial positions are
// contiguous the rows are channels; where channels are (channels-last maps, tokens) the rows are positions.
struct CamMatrices {
  const void* data;
  int64_t target_stride, batch_stride, row_stride;
};

// Matrices, each summed along one axis. Over the rows' entries (along_rows) or over the columns', so the mean of the
// gradients over positions and the sum of the activations over channels are the same two loops, one of each.
struct CamSum {
  torch::headeronly::ScalarType type;
  CamEntry entry;
  CamMatrices matrices, others;
  int64_t targets, batch, rows, columns;
  bool along_rows;      // one sum a row; else one a column
  const void* factors;  // (targets or 1, batch, channels) in the compute type: kWeighted, kPlusPlus
  int64_t factor_target_stride, factor_batch_stride;
  bool rectify_data, rectify_product;  // kProduct
  // (targets, batch, blocks of the summed axis, entries of the other) in the compute type. The blocks follow from the
  // shape alone and are added up in order, hence the same bits for any number of threads.
  void* out;
  int64_t row_blocks, column_blocks;
};

// The blocks' sums (targets, batch, blocks, count).
struct CamBlocks {
  torch::headeronly::ScalarType type;
  void* sums;
  int64_t targets, batch, blocks, count;
};

// Added up to what each channel weighs.
struct CamWeightSums {
  CamBlocks blocks;
  CamMethod method;
  int64_t positions;
  const void* activation_sums;  // (batch, channels), where the method needs them
  void* out;                    // (targets, batch, channels)
};

constexpr int64_t kCamMostChunk = 512;  // channels that CamChannels takes at once

// All of a channel at once, from its weight to its part of the map, while its activations are in the cache. Channels
// are rows. One item is one block of a sample's channels.
struct CamChannels {
  torch::headeronly::ScalarType type;
  CamMethod method;
  CamMatrices activations, gradients;
  int64_t targets, batch, channels, positions;
  int64_t blocks;  // of channels
  int64_t chunk;   // channels that fit the cache
  void* weights;   // (targets, batch, channels) in the compute type
  void* out;       // (targets, batch, blocks, positions) in the compute type
};

enum class CamNormalize : int64_t { kNone, kMax, kMinMax };

struct CamMap {
  CamBlocks blocks;
  bool relu;
  CamNormalize normalize;
  void* maps;  // (targets, batch, count) in the compute type, as they are summed
  void* out;   // (targets, batch, count) in the output's dtype; null: the finished map stays in the first block
};

// One item is one row of the output.
struct CamResize {
  torch::headeronly::ScalarType type;
  const void* maps;  // in the compute type
  int64_t map_stride;
  int64_t from[3], to[3];  // depth, height, width
  void* out;               // (batch, *to)
};

// Bytes of scratch that cam_resize needs: two rows of the output's width, where their entries come from, and
// one row of the source.
constexpr int64_t cam_resize_scratch(int64_t width, int64_t out_width, int64_t compute_size) {
  return width * compute_size + out_width * (3 * compute_size + 2 * static_cast<int64_t>(sizeof(int64_t)));
}

}  // namespace torchext
