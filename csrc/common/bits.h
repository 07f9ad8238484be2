// Types for elements that are only moved, not computed with: only their size in bytes matters.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace torchext {

struct Bits128 {
  uint64_t low, high;
};

// The unsigned type of so many bytes.
template <int bytes>
using UnsignedOf = std::conditional_t<
    bytes == 1, uint8_t,
    std::conditional_t<bytes == 2, uint16_t,
                       std::conditional_t<bytes == 4, uint32_t, std::conditional_t<bytes == 8, uint64_t, Bits128>>>>;

// Calls body with a value of the unsigned type of `size` bytes: code that only moves elements needs no other type.
template <class Body>
void with_bits(int64_t size, const Body& body) {
  switch (size) {
    case 1:
      return body(uint8_t{});
    case 2:
      return body(uint16_t{});
    case 4:
      return body(uint32_t{});
    case 8:
      return body(uint64_t{});
    default:
      return body(Bits128{});
  }
}

template <class U>
U bits_of(const char* bytes) {
  U value;
  std::memcpy(&value, bytes, sizeof(U));
  return value;
}

}  // namespace torchext
