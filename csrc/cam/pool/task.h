#pragma once

#include <cstdint>

#include "common/dtypes.h"
namespace torchext {

// As in torchext/cam/methods.py.
enum class CamMethod : int64_t { kGradCam, kPlusPlus, kXGradCam, kLayerCam, kHiResCam, kElementwise, kWeightsGiven };

// Methods that multiply gradients and activations elementwise. In the other methods each channel has one weight.
constexpr bool multiplies(CamMethod method) {
  return method == CamMethod::kLayerCam || method == CamMethod::kHiResCam || method == CamMethod::kElementwise;
}

// Methods whose weights depend on the sums of the channels' activations.
constexpr bool needs_activation_sums(CamMethod method) {
  return method == CamMethod::kPlusPlus || method == CamMethod::kXGradCam;
}

// The value that is summed for each entry x of the data: x itself; weight·x; x·y with the entry y of other data; or x /
// (2 + sum·x), where sum is the channel's sum of activations, and 0 where x <= 0.
enum class CamEntry { kPlain, kWeighted, kProduct, kPlusPlus };

// Matrices with contiguous columns: the gradients of a target, or the activations, which all targets share. If spatial
// positions are contiguous, the rows are channels. If channels are contiguous (channels-last maps, tokens), the rows
// are positions.
struct CamMatrices {
  const void* data;
  int64_t target_stride, batch_stride, row_stride;
};

// Matrices, each summed along one axis: over the entries of each row (along_rows) or over those of each column. The
// mean of the gradients over positions and the sum of the activations over channels are such sums, one along rows and
// the other along columns.
struct CamSum {
  ScalarType type;
  CamEntry entry;
  CamMatrices matrices, others;
  int64_t targets, batch, rows, columns;
  bool along_rows;      // one sum per row, otherwise one per column
  const void* factors;  // (targets or 1, batch, channels) in the compute type: kWeighted, kPlusPlus
  int64_t factor_target_stride, factor_batch_stride;
  bool rectify_data, rectify_product;  // kProduct
  // (targets, batch, blocks of the summed axis, entries of the other axis) in the compute type. The blocks depend on
  // the shape alone and are added up in order, so the result has the same bits for any number of threads.
  void* out;
  int64_t row_blocks, column_blocks;
};

// The sums of blocks, of shape (targets, batch, blocks, count).
struct CamBlocks {
  ScalarType type;
  void* sums;
  int64_t targets, batch, blocks, count;
};

// Adds up the sums of blocks and computes the weights of the channels from them.
struct CamWeightSums {
  CamBlocks blocks;
  CamMethod method;
  int64_t positions;
  const void* activation_sums;  // (batch, channels), if the method needs them
  void* out;                    // (targets, batch, channels)
};

constexpr int64_t kCamMostChunk = 512;  // the most channels that CamChannels processes at once

// Processes each channel completely, from its weight to its part of the map, while its activations are in the cache.
// The rows are channels. One item is one block of a sample's channels.
struct CamChannels {
  ScalarType type;
  CamMethod method;
  CamMatrices activations, gradients;
  int64_t targets, batch, channels, positions;
  int64_t blocks;  // of channels
  int64_t chunk;   // channels whose activations fit into the cache
  void* weights;   // (targets, batch, channels) in the compute type
  void* out;       // (targets, batch, blocks, positions) in the compute type
};

enum class CamNormalize : int64_t { kNone, kMax, kMinMax };

struct CamMap {
  CamBlocks blocks;
  bool relu;
  CamNormalize normalize;
  void* maps;  // (targets, batch, count) in the compute type, before relu and normalize
  void* out;   // (targets, batch, count) in the output's dtype; if null, the finished map is stored in the first block
};

// One item is one row of the output.
struct CamResize {
  ScalarType type;
  const void* maps;  // in the compute type
  int64_t map_stride;
  int64_t from[3], to[3];  // depth, height, width
  void* out;               // (batch, *to)
};

// Bytes of scratch that cam_resize needs. For each column of the output: two rows, two source columns and a weight. For
// each column of the source: one row.
constexpr int64_t cam_resize_scratch(int64_t width, int64_t out_width, int64_t compute_size) {
  return width * compute_size + out_width * (3 * compute_size + 2 * static_cast<int64_t>(sizeof(int64_t)));
}

}  // namespace torchext
