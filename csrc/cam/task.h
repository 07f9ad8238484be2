#pragma once

#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

namespace torchext {

// A batch of matrices with contiguous columns, each summed along one axis. Where spatial positions are
// contiguous the rows are channels; where channels are (channels-last maps, tokens) the rows are positions.
// So the mean of the gradients over positions and the sum of the activations over channels are the same two
// loops, one of each.
struct CamSum {
  torch::headeronly::ScalarType type;
  const void* data;
  int64_t batch, batch_stride, rows, row_stride, columns;
  bool along_rows;      // one sum a row; else one a column
  const void* factors;  // of the summed entries, in the compute type; null: a plain sum
  int64_t factor_batch_stride;
  // (batch, blocks of the summed axis, entries of the other) in the compute type. The blocks follow from the
  // shape alone and are added up in order, hence the same bits for any number of threads.
  void* out;
  int64_t row_blocks, column_blocks;
};

// The blocks' sums (batch, blocks, count), added up into the first block of each sample.
struct CamBlocks {
  torch::headeronly::ScalarType type;
  void* sums;
  int64_t batch, blocks, count;
};

struct CamMeans {
  CamBlocks blocks;
  int64_t positions;
};

enum class CamNormalize : int64_t { kNone, kMax, kMinMax };

struct CamMap {
  CamBlocks blocks;
  bool relu;
  CamNormalize normalize;
  void* out;  // (batch, count) in the output's dtype; null: the finished map stays in the first block
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
