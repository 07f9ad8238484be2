#pragma once

#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

namespace torchext {

// The strides of the pixels of patches, in elements, for the axes (sample, grid, inside a patch, channel). Images and
// tokens have the same pixels with different strides.
struct PatchStrides {
  int64_t sample;
  int64_t grid[2], inside[2];
  int64_t channel;
};

// Each pixel x of `in` becomes x·factor + offset in `out`. `out` is row-major and holds images or tokens. Its channels
// are the innermost axis or an axis outside the pixels.
struct PatchTask {
  int64_t batch, channels;
  int64_t grid[2], size[2];
  const void* in;
  void* out;
  torch::headeronly::ScalarType in_type, out_type;
  int in_size, out_size;  // bytes of an element
  PatchStrides from, to;
  const double *factors, *offsets;  // one value, or one per channel
  int64_t factor_step, offset_step;

  // A row of patches is split into blocks of so many patches; one item of the task is one block.
  int64_t columns, column_blocks;
  int64_t staged;  // the number of elements of a block that have to be staged; 0 if the input is read in place

  bool interleaved() const { return channels > 1 && to.channel == 1; }
  double factor(int64_t channel) const { return factors[channel * factor_step]; }
  double offset(int64_t channel) const { return offsets[channel * offset_step]; }
};

}  // namespace torchext
