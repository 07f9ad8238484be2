// Checks of a call's arguments. The public Python functions check the same arguments earlier and in more detail. These
// checks protect direct calls of torch.ops.torchext: no argument may make a kernel read or write out of bounds.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "common/tensor.h"

namespace torchext {

struct Argument {
  const char *operation, *name;
};

// keeps the error texts out of the code that runs in every call
#define TORCHEXT_COLD [[noreturn, gnu::noinline, gnu::cold]]

TORCHEXT_COLD inline void refuse(const Argument& argument, const std::string& expected, const std::string& got) {
  STD_TORCH_CHECK(false, "torchext::", argument.operation, ": ", argument.name, ": expected ", expected, ", got ", got);
  __builtin_unreachable();
}

template <class List>
std::string text_of(const List& sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "(" + text + ")";
}

TORCHEXT_COLD inline void refuse_value(const Argument& argument, int64_t value, int64_t least, int64_t most) {
  refuse(argument, "at least " + std::to_string(least) + " and at most " + std::to_string(most), std::to_string(value));
}

TORCHEXT_COLD inline void refuse_dims(const Argument& argument, const Tensor& tensor, int64_t least, int64_t most) {
  refuse(argument, std::to_string(least) + " to " + std::to_string(most) + " dimensions",
         "shape " + text_of(tensor.sizes()));
}

template <class List>
TORCHEXT_COLD void refuse_sizes(const Argument& argument, const Tensor& tensor, int64_t from, const List& expected) {
  refuse(argument, "sizes " + text_of(expected) + " from dimension " + std::to_string(from) + " on",
         "shape " + text_of(tensor.sizes()));
}

TORCHEXT_COLD inline void refuse_dtype(const Argument& argument, ScalarType dtype) {
  const int code = static_cast<int>(dtype);
  const bool is_one = code >= 0 && code < static_cast<int>(ScalarType::NumOptions);
  refuse(argument, "another dtype", is_one ? torch::headeronly::toString(dtype) : std::to_string(code));
}

template <class List>
TORCHEXT_COLD void refuse_product(const Argument& argument, const List& sizes) {
  refuse(argument, "at most 2^59 elements", text_of(sizes));
}

inline void check_within(const Argument& argument, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) [[unlikely]]
    refuse_value(argument, value, least, most);
}

template <class List>
void check_all_within(const Argument& argument, const List& values, int64_t least, int64_t most) {
  for (const int64_t value : values) check_within(argument, value, least, most);
}

inline void check_count(const Argument& argument, size_t got, size_t expected) {
  if (got != expected) [[unlikely]]
    refuse_value(argument, static_cast<int64_t>(got), static_cast<int64_t>(expected), static_cast<int64_t>(expected));
}

inline void check_dims(const Argument& argument, const Tensor& tensor, int64_t least, int64_t most) {
  const int64_t dims = tensor.dim();
  if (dims < least || dims > most) [[unlikely]]
    refuse_dims(argument, tensor, least, most);
}

// Checks that the sizes from dimension `from` on begin with `expected`.
template <class List>
void check_sizes(const Argument& argument, const Tensor& tensor, int64_t from, const List& expected) {
  const auto sizes = tensor.sizes();
  const size_t first = static_cast<size_t>(from);
  bool same = sizes.size() >= first + expected.size();
  for (size_t d = 0; same && d < expected.size(); ++d) same = sizes[first + d] == expected[d];
  if (!same) [[unlikely]]
    refuse_sizes(argument, tensor, from, expected);
}

template <class List>
void check_shape(const Argument& argument, const Tensor& tensor, const List& expected) {
  check_dims(argument, tensor, static_cast<int64_t>(expected.size()), static_cast<int64_t>(expected.size()));
  check_sizes(argument, tensor, 0, expected);
}

// A set of dtypes, one bit for each dtype.
using Dtypes = uint64_t;

constexpr Dtypes dtypes(std::initializer_list<ScalarType> types) {
  Dtypes set = 0;
  for (const ScalarType type : types) set |= Dtypes{1} << static_cast<int>(type);
  return set;
}

constexpr Dtypes kIntegerTypes = dtypes({ScalarType::Byte, ScalarType::Char, ScalarType::Short, ScalarType::Int,
                                         ScalarType::Long, ScalarType::UInt16, ScalarType::UInt32, ScalarType::UInt64});
constexpr Dtypes kLabelTypes = kIntegerTypes | dtypes({ScalarType::Bool});
constexpr Dtypes kFloatTypes = dtypes({ScalarType::Half, ScalarType::BFloat16, ScalarType::Float, ScalarType::Double});
constexpr Dtypes kComplexTypes = dtypes({ScalarType::ComplexFloat, ScalarType::ComplexDouble});
constexpr Dtypes kAddedTypes = kLabelTypes | kFloatTypes | kComplexTypes;
constexpr Dtypes kEncodedTypes =
    kAddedTypes | dtypes({ScalarType::ComplexHalf, ScalarType::Float8_e4m3fn, ScalarType::Float8_e5m2,
                          ScalarType::Float8_e4m3fnuz, ScalarType::Float8_e5m2fnuz});

inline void check_dtype(const Argument& argument, ScalarType dtype, Dtypes allowed) {
  const int code = static_cast<int>(dtype);
  if (code < 0 || code >= 64 || (allowed >> code & 1) == 0) [[unlikely]]
    refuse_dtype(argument, dtype);
}

inline void check_dtype(const Argument& argument, const Tensor& tensor, Dtypes allowed) {
  check_dtype(argument, tensor.scalar_type(), allowed);
}

TORCHEXT_COLD inline void refuse_device(const Argument& argument) {
  refuse(argument, "the device of the other tensors", "another");
}

inline void check_same_device(const Argument& argument, const Tensor& tensor, const Tensor& like) {
  int32_t type, like_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &like_type));
  if (type != like_type || tensor.get_device_index() != like.get_device_index()) [[unlikely]]
    refuse_device(argument);
}

// Checks a tensor that is passed for the result: it has to be row-major and of the result's shape.
inline void check_out(const char* operation, const Tensor& out, const std::vector<int64_t>& sizes, const Tensor& like) {
  const Argument argument{operation, "out"};
  check_shape(argument, out, sizes);
  check_same_device(argument, out, like);
  if (!out.is_contiguous()) [[unlikely]]
    refuse(argument, "a row-major tensor", "strides " + text_of(out.strides()));
}

// The product of `sizes`. A product that overflows, or that is larger than any tensor, raises an error.
constexpr int64_t kMostElements = int64_t{1} << 59;

template <class List>
int64_t product_of(const Argument& argument, const List& sizes) {
  int64_t product = 1;
  bool fits = true;
  for (const int64_t size : sizes) fits = !__builtin_mul_overflow(product, size, &product) && fits;
  if (!fits || product > kMostElements) [[unlikely]]
    refuse_product(argument, sizes);
  return product;
}

}  // namespace torchext
