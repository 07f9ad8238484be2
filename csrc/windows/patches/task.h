#pragma once

#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

namespace torchext {

// Where the pixels of patches lie, in elements: the axes are (sample, grid, inside a patch, channel). Images and tokens
// are the same pixels with other strides.
struct PatchStrides {
  int64_t sample;
  int64_t grid[2], inside[2];
  int64_t channel;
};

// Each pixel x of `in` becomes x·factor + offset in `out`, which is row-major: of images or of tokens, with the
// channels innermost or outside of the pixels.
struct PatchTask {
  int64_t batch, channels;
  int64_t grid[2], size[2];
  const void* in;
  void* out;
  torch::headeronly::ScalarType in_type, out_type;
  int in_size, out_size;  // bytes of an element
  PatchStrides from, to;
  const double *factors, *offsets;  // one, or one a channel
  int64_t factor_step, offset_step;

  // A row of patches is split into blocks of so many; one item of the task is one block.
  int64_t columns, column_blocks;
  int64_t staged;  // elements of a block that cannot be read in place

  bool interleaved() const { return channels > 1 && to.channel == 1; }
  double factor(int64_t channel) const { return factors[channel * factor_step]; }
  double offset(int64_t channel) const { return offsets[channel * offset_step]; }
};

}  // namespace torchext
