#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/check.h"
#include "windows/geometry.h"
#include "windows/padding.h"

namespace torchext {

using Sizes = std::vector<int64_t>;

// Splits a geometry into its `kinds` lists, which all have the same length and come one after another. A geometry is
// passed as a single list because each list takes a microsecond on its way from Python.
inline std::vector<Sizes> split(const Sizes& geometry, size_t kinds) {
  const size_t rank = geometry.size() / kinds;
  std::vector<Sizes> sizes;
  for (auto begin = geometry.begin(); sizes.size() < kinds; begin += rank) sizes.emplace_back(begin, begin + rank);
  return sizes;
}

// Splits a geometry for `rank` spatial dimensions, and checks that windows may have that many.
inline std::vector<Sizes> split(const Argument& argument, const Sizes& geometry, size_t kinds, int64_t rank) {
  check_within({argument.operation, "the number of spatial dimensions"}, rank, 1, kSpatial);
  check_count(argument, geometry.size(), kinds * static_cast<size_t>(rank));
  return split(geometry, kinds);
}

// Sums of a few values within these limits stay far below 2^63. product_of checks the products.
constexpr int64_t kLargestSize = int64_t{1} << 40, kFarthest = int64_t{1} << 60;

// Checks the span of a window along each axis, which follows from its taps and dilation.
inline void check_spans(const Argument& argument, const Sizes& kernel, const Sizes& dilation) {
  check_all_within(argument, kernel, 1, kLargestSize);
  check_all_within(argument, dilation, 1, kLargestSize);
  for (size_t d = 0; d < kernel.size(); ++d) product_of(argument, std::array{kernel[d], dilation[d]});
}

inline Sizes concatenated(Sizes sizes, const Sizes& more) {
  sizes.insert(sizes.end(), more.begin(), more.end());
  return sizes;
}

// Checks the padding of an axis. In every mode except the constant one, a position outside the image is a copy of an
// element at most one period away.
inline void check_padding(const Argument& argument, int64_t mode, int64_t image, int64_t before, int64_t after) {
  check_within({argument.operation, "padding_mode"}, mode, 0, static_cast<int64_t>(PaddingMode::kSymmetric));
  const PaddingMode padding = static_cast<PaddingMode>(mode);
  if (padding == PaddingMode::kConstant || (before <= 0 && after <= 0)) return;
  const int64_t most = padding == PaddingMode::kReplicate ? (image > 0 ? kFarthest : 0)
                       : padding == PaddingMode::kReflect ? image - 1
                                                          : image;
  check_within(argument, before > after ? before : after, 0, most);
}

}  // namespace torchext
