// Computes the task of a call from its tensors, for the launchers of the CPU and of CUDA.
#pragma once

#include <array>
#include <vector>

#include "common/check.h"
#include "common/tensor.h"
#include "windows/patches/task.h"

namespace torchext {

// The default factor and offset: x·1 + (-0) is bit for bit x, also if x is -0.
constexpr double kNoFactor = 1.0, kNoOffset = -0.0;

struct PatchLayout {
  bool channels_last;    // of images
  bool channels_inside;  // of a token
};

inline PatchStrides image_strides(const PatchTask& task, int64_t sample, int64_t channel, int64_t row, int64_t column) {
  return {sample, {task.size[0] * row, task.size[1] * column}, {row, column}, channel};
}

inline PatchStrides token_strides(const PatchTask& task, bool channels_inside, int64_t sample, int64_t token,
                                  int64_t value) {
  const int64_t pixels = task.size[0] * task.size[1];
  const int64_t column = value * (channels_inside ? task.channels : 1);
  return {
      sample, {token * task.grid[1], token}, {column * task.size[1], column}, channels_inside ? value : value * pixels};
}

inline void describe(PatchTask& task, const Tensor& in, ScalarType dtype, const std::vector<double>& factors,
                     const std::vector<double>& offsets) {
  task.in = in.const_data_ptr();
  task.in_type = in.scalar_type();
  task.out_type = dtype;
  task.in_size = static_cast<int>(in.element_size());
  task.factors = factors.empty() ? &kNoFactor : factors.data();
  task.offsets = offsets.empty() ? &kNoOffset : offsets.data();
  task.factor_step = factors.size() > 1;
  task.offset_step = offsets.size() > 1;
}

constexpr Dtypes kPatchTypes = kLabelTypes | kFloatTypes;

inline void check_patches(const char* operation, const char* name, const Tensor& in, int64_t dims, ScalarType dtype,
                          const std::vector<int64_t>& size) {
  check_dims({operation, name}, in, dims, dims);
  check_dtype({operation, name}, in, kPatchTypes);
  check_dtype({operation, "dtype"}, dtype,
              kPatchTypes & ~dtypes({ScalarType::Bool, ScalarType::Long, ScalarType::UInt64}));
  check_count({operation, "size"}, size.size(), 2);
  check_all_within({operation, "size"}, size, 1, kMostElements);
  product_of({operation, "size"}, size);
}

// The call may give no coefficient, one, or one per channel.
inline void check_coefficients(const char* operation, const PatchTask& task, size_t factors, size_t offsets) {
  if (factors > 1) check_count({operation, "factors"}, factors, static_cast<size_t>(task.channels));
  if (offsets > 1) check_count({operation, "offsets"}, offsets, static_cast<size_t>(task.channels));
}

inline std::vector<int64_t> token_sizes(const PatchTask& task) {
  return {task.batch, product_of({"patchify", "images"}, task.grid),
          product_of({"patchify", "images"}, std::array{task.channels, task.size[0], task.size[1]})};
}

inline std::vector<int64_t> image_sizes(const PatchTask& task, bool channels_last) {
  const int64_t height = task.grid[0] * task.size[0], width = task.grid[1] * task.size[1];
  if (channels_last) return {task.batch, height, width, task.channels};
  return {task.batch, task.channels, height, width};
}

inline void describe_patchify(PatchTask& task, const Tensor& images, ScalarType dtype, const std::vector<int64_t>& size,
                              const std::vector<double>& factors, const std::vector<double>& offsets,
                              PatchLayout layout) {
  const int channel = layout.channels_last ? 3 : 1, row = layout.channels_last ? 1 : 2;
  describe(task, images, dtype, factors, offsets);
  check_patches("patchify", "images", images, 4, dtype, size);
  task.batch = images.size(0);
  task.channels = images.size(channel);
  check_coefficients("patchify", task, factors.size(), offsets.size());
  for (int a = 0; a < 2; ++a) {
    task.size[a] = size[static_cast<size_t>(a)];
    task.grid[a] = images.size(row + a) / task.size[a];
    check_within({"patchify", "the rest of the images after whole patches"}, images.size(row + a) % task.size[a], 0, 0);
  }
  task.from = image_strides(task, images.stride(0), images.stride(channel), images.stride(row), images.stride(row + 1));
  const auto sizes = token_sizes(task);
  task.to = token_strides(task, layout.channels_inside, sizes[1] * sizes[2], sizes[2], 1);
}

inline void describe_unpatchify(PatchTask& task, const Tensor& tokens, ScalarType dtype,
                                const std::vector<int64_t>& size, const std::vector<int64_t>& grid,
                                const std::vector<double>& factors, const std::vector<double>& offsets,
                                PatchLayout layout) {
  describe(task, tokens, dtype, factors, offsets);
  check_patches("unpatchify", "tokens", tokens, 3, dtype, size);
  check_count({"unpatchify", "grid"}, grid.size(), 2);
  check_all_within({"unpatchify", "grid"}, grid, 1, kMostElements);
  const int64_t values = size[0] * size[1];
  check_sizes({"unpatchify", "tokens"}, tokens, 1,
              std::array{product_of({"unpatchify", "grid"}, grid), tokens.size(2) / values * values});
  task.batch = tokens.size(0);
  task.channels = tokens.size(2) / values;
  check_coefficients("unpatchify", task, factors.size(), offsets.size());
  for (size_t a = 0; a < 2; ++a) {
    product_of({"unpatchify", "size"}, std::array{size[a], grid[a]});
    task.size[a] = size[a];
    task.grid[a] = grid[a];
  }
  task.from = token_strides(task, layout.channels_inside, tokens.stride(0), tokens.stride(1), tokens.stride(2));
  const int64_t width = task.grid[1] * task.size[1], pixels = task.grid[0] * task.size[0] * width;
  const int64_t sample = pixels * task.channels;
  task.to = layout.channels_last ? image_strides(task, sample, 1, width * task.channels, task.channels)
                                 : image_strides(task, sample, pixels, width, 1);
}

}  // namespace torchext
