#pragma once

#include <torch/headeronly/util/Float8_e4m3fn.h>
#include <torch/headeronly/util/Float8_e4m3fnuz.h>
#include <torch/headeronly/util/Float8_e5m2.h>
#include <torch/headeronly/util/Float8_e5m2fnuz.h>

#include <cstdint>
#include <cstring>

#include "common/check.h"
#include "common/dtypes.h"

namespace torchext {

// The element of a type that PyTorch converts a double to.
template <class T>
T element_of(double value) {
  if constexpr (std::is_same_v<T, Truth>) {
    return {static_cast<uint8_t>(value != 0)};
  } else if constexpr (kIsComplex<T>) {
    return {element_of<decltype(T::real)>(value), element_of<decltype(T::real)>(0)};
  } else if constexpr (std::is_integral_v<T>) {
    // The cast goes through int64: a cast of a negative double to an unsigned type is undefined, while PyTorch wraps.
    return value >= 9223372036854775808.0 ? static_cast<T>(static_cast<uint64_t>(value))
                                          : static_cast<T>(static_cast<int64_t>(value));
  } else {
    return static_cast<T>(static_cast<Compute<T>>(value));
  }
}

// Writes the bytes of one element of `dtype`, one of kEncodedTypes, with this value to the 16 bytes at `bytes`; any
// further bytes are unchanged.
inline void encode(double value, ScalarType dtype, char* bytes) {
  const auto write = [&](auto type) {
    const auto element = element_of<decltype(type)>(value);
    std::memcpy(bytes, &element, sizeof element);
  };
  if ((kAddedTypes >> static_cast<int>(dtype) & 1) != 0) return with_added_type(dtype, write);
  with_type<c10::Float8_e4m3fn, c10::Float8_e5m2, c10::Float8_e4m3fnuz, c10::Float8_e5m2fnuz, Complex<c10::Half>>(
      dtype, write);
}

}  // namespace torchext
