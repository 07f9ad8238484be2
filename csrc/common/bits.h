// Types for elements that are only moved, not computed with: only their size in bytes matters.
#pragma once

#include <cstdint>
#include <cstring>

namespace torchext {

struct Bits128 {
  uint64_t low, high;
};

template <class U>
U bits_of(const char* bytes) {
  U value;
  std::memcpy(&value, bytes, sizeof(U));
  return value;
}

}  // namespace torchext
