// Calls code with the C++ type of a dtype.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>

#include "common/host_device.h"
#include "common/truth.h"

namespace torchext {

using torch::headeronly::ScalarType;

template <class T>
struct Complex {
  T real, imaginary;

  TORCHEXT_HD Complex& operator+=(const Complex& other) {
    real += other.real;
    imaginary += other.imaginary;
    return *this;
  }
};

template <class T>
constexpr bool kIsComplex = requires(T number) { number.imaginary; };

// The type in which a float dtype is computed, its dtype, and the bytes of its elements.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

constexpr ScalarType compute_type(ScalarType dtype) {
  return dtype == ScalarType::Double ? dtype : ScalarType::Float;
}

constexpr int64_t compute_size(ScalarType dtype) {
  return dtype == ScalarType::Double ? 8 : 4;
}

// The dtype of a C++ type. Elements of bool memory are of type Truth.
template <class T>
constexpr ScalarType kDtype = c10::CppTypeToScalarType<T>::value;
template <>
inline constexpr ScalarType kDtype<Truth> = ScalarType::Bool;
template <>
inline constexpr ScalarType kDtype<Complex<c10::Half>> = ScalarType::ComplexHalf;
template <>
inline constexpr ScalarType kDtype<Complex<float>> = ScalarType::ComplexFloat;
template <>
inline constexpr ScalarType kDtype<Complex<double>> = ScalarType::ComplexDouble;

// Calls body with a value of that one of the types First and Others whose dtype is `dtype`, or of the last type if none
// of the others has that dtype.
TORCHEXT_CALLS_ANY template <class First, class... Others, class Body>
TORCHEXT_HD auto with_type(ScalarType dtype, const Body& body) {
  if constexpr (sizeof...(Others) > 0)
    if (dtype != kDtype<First>) return with_type<Others...>(dtype, body);
  return body(First{});
}

TORCHEXT_CALLS_ANY template <class Body>
TORCHEXT_HD auto with_float_type(ScalarType dtype, const Body& body) {
  return with_type<c10::Half, c10::BFloat16, float, double>(dtype, body);
}

// The same for the types of bool, integers and floats.
TORCHEXT_CALLS_ANY template <class Body>
TORCHEXT_HD auto with_number_type(ScalarType dtype, const Body& body) {
  return with_type<Truth, uint8_t, int8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t, uint64_t, c10::Half,
                   c10::BFloat16, float, double>(dtype, body);
}

// The same for these types and complex numbers.
template <class Body>
auto with_added_type(ScalarType dtype, const Body& body) {
  if (dtype == ScalarType::ComplexFloat) return body(Complex<float>{});
  if (dtype == ScalarType::ComplexDouble) return body(Complex<double>{});
  return with_number_type(dtype, body);
}

}  // namespace torchext
