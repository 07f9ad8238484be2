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

// A geometry comes as one list of so many sizes a dimension, all of a kind after the other: every list takes a
// microsecond on its way from Python.
inline std::vector<Sizes> split(const Sizes& geometry, size_t kinds) {
  const size_t rank = geometry.size() / kinds;
  std::vector<Sizes> sizes;
  for (auto begin = geometry.begin(); sizes.size() < kinds; begin += rank) sizes.emplace_back(begin, begin + rank);
  return sizes;
}

// The same, of a number of dimensions that windows may have.
inline std::vector<Sizes> split(const Argument& argument, const Sizes& geometry, size_t kinds, int64_t rank) {
  check_within({argument.operation, "the number of spatial dimensions"}, rank, 1, kSpatial);
  check_count(argument, geometry.size(), kinds * static_cast<size_t>(rank));
  return split(geometry, kinds);
}

// Sums of a few of these, and the product of two less their taps, stay far from 2^63.
constexpr int64_t kLargestSize = int64_t{1} << 40, kFarthest = int64_t{1} << 60;

// How many positions a window spans along each axis, which follows from taps and dilation.
inline void check_spans(const Argument& argument, const Sizes& kernel, const Sizes& dilation) {
  check_all_within(argument, kernel, 1, kLargestSize);
  check_all_within(argument, dilation, 1, kLargestSize);
  for (size_t d = 0; d < kernel.size(); ++d) product_of(argument, std::array{kernel[d], dilation[d]});
}

inline Sizes concatenated(Sizes sizes, const Sizes& more) {
  sizes.insert(sizes.end(), more.begin(), more.end());
  return sizes;
}

// In another mode than the constant: a position outside copies an element at most one period away.
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
