#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

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

inline Sizes joined(Sizes sizes, const Sizes& more) {
  sizes.insert(sizes.end(), more.begin(), more.end());
  return sizes;
}

}  // namespace torchext
