#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Float8_e4m3fn.h>
#include <torch/headeronly/util/Float8_e4m3fnuz.h>
#include <torch/headeronly/util/Float8_e5m2.h>
#include <torch/headeronly/util/Float8_e5m2fnuz.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>

namespace torchext {

namespace detail {

template <class T>
void store(T value, char* bytes) {
  std::memcpy(bytes, &value, sizeof(T));
}

template <class T>
void store_integer(double value, char* bytes) {
  // The cast goes through int64: a cast of a negative double to an unsigned type is undefined, while PyTorch wraps.
  store(value >= 9223372036854775808.0 ? static_cast<T>(static_cast<uint64_t>(value))
                                       : static_cast<T>(static_cast<int64_t>(value)),
        bytes);
}

template <class T>
void store_complex(double value, char* bytes) {
  store(static_cast<T>(static_cast<float>(value)), bytes);
  store(static_cast<T>(0.0f), bytes + sizeof(T));
}

}  // namespace detail

// Writes the bytes of one element of `dtype` with this value to the 16 bytes at `bytes`; any further bytes are
// unchanged.
inline void encode(double value, torch::headeronly::ScalarType dtype, char* bytes) {
  using namespace detail;
  namespace c = c10;
  using torch::headeronly::ScalarType;
  const float single = static_cast<float>(value);
  switch (dtype) {
    case ScalarType::Bool:
      return store(static_cast<uint8_t>(value != 0), bytes);
    case ScalarType::Byte:
      return store_integer<uint8_t>(value, bytes);
    case ScalarType::Char:
      return store_integer<int8_t>(value, bytes);
    case ScalarType::Short:
      return store_integer<int16_t>(value, bytes);
    case ScalarType::UInt16:
      return store_integer<uint16_t>(value, bytes);
    case ScalarType::Int:
      return store_integer<int32_t>(value, bytes);
    case ScalarType::UInt32:
      return store_integer<uint32_t>(value, bytes);
    case ScalarType::Long:
      return store_integer<int64_t>(value, bytes);
    case ScalarType::UInt64:
      return store_integer<uint64_t>(value, bytes);
    case ScalarType::Float:
      return store(single, bytes);
    case ScalarType::Double:
      return store(value, bytes);
    case ScalarType::Half:
      return store(c::Half(single), bytes);
    case ScalarType::BFloat16:
      return store(c::BFloat16(single), bytes);
    case ScalarType::Float8_e4m3fn:
      return store(c::Float8_e4m3fn(single), bytes);
    case ScalarType::Float8_e5m2:
      return store(c::Float8_e5m2(single), bytes);
    case ScalarType::Float8_e4m3fnuz:
      return store(c::Float8_e4m3fnuz(single), bytes);
    case ScalarType::Float8_e5m2fnuz:
      return store(c::Float8_e5m2fnuz(single), bytes);
    case ScalarType::ComplexHalf:
      return store_complex<c::Half>(value, bytes);
    case ScalarType::ComplexFloat:
      return store_complex<float>(value, bytes);
    case ScalarType::ComplexDouble:
      store(value, bytes);
      return store(0.0, bytes + sizeof(double));
    default:
      STD_TORCH_CHECK(false, "torchext: no encoding for this dtype");
  }
}

}  // namespace torchext
