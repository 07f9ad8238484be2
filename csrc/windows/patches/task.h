#pragma once

#include <cmath>
#include <cstdint>

#include "common/dtypes.h"

namespace torchext {

// The strides of the pixels of patches, in elements, for the axes (sample, grid, inside a patch, channel). Images and
// tokens have the same pixels with different strides.
struct PatchStrides {
  int64_t sample;
  int64_t grid[2], inside[2];
  int64_t channel;
};

// Each pixel x of `in` becomes x·factor + offset in `out`. `out` is row-major and holds images or tokens. Its channels
// are the innermost axis or an axis outside the pixels.
struct PatchTask {
  int64_t batch, channels;
  int64_t grid[2], size[2];
  const void* in;
  void* out;
  ScalarType in_type, out_type;
  int in_size, out_size;  // bytes of an element
  PatchStrides from, to;
  const double *factors, *offsets;  // one value, or one per channel
  int64_t factor_step, offset_step;

  // A row of patches is split into blocks of so many patches; one item of the task is one block.
  int64_t columns, column_blocks;
  int64_t staged;  // the number of elements of a block that have to be staged; 0 if the input is read in place

  bool interleaved() const { return channels > 1 && to.channel == 1; }
  double factor(int64_t channel) const { return factors[channel * factor_step]; }
  double offset(int64_t channel) const { return offsets[channel * offset_step]; }
};

// A pixel whose dtype is only known when a call runs. Dtypes that are rare for images share one loop and one kernel.
struct AnyNumber {};

// Calls body with values of the types of a task's input and output, both AnyNumber if one of them is rare.
template <class Body>
void with_pixel_types(const PatchTask& task, const Body& body) {
  with_type<uint8_t, c10::Half, c10::BFloat16, float, AnyNumber>(task.in_type, [&](auto in) {
    with_type<uint8_t, c10::Half, c10::BFloat16, float, AnyNumber>(task.out_type, [&](auto out) {
      using In = decltype(in);
      using Out = decltype(out);
      if constexpr (std::is_same_v<In, AnyNumber> || std::is_same_v<Out, AnyNumber> ||
                    (std::is_same_v<In, uint8_t> && std::is_same_v<Out, uint8_t>))
        body(AnyNumber{}, AnyNumber{});
      else
        body(in, out);
    });
  });
}

// Rounds to an integer half to even and saturates; a NaN becomes 0. Floats are rounded to the nearest.
template <class T, class C>
TORCHEXT_HD T number_from(C value) {
  if constexpr (std::is_integral_v<T>) {
    constexpr int kBits = 8 * static_cast<int>(sizeof(T)) - (std::is_signed_v<T> ? 1 : 0);
    constexpr C kHigh = static_cast<C>((int64_t{1} << kBits) - 1), kLow = std::is_signed_v<T> ? -kHigh - C(1) : C(0);
    const C inside = value > kLow ? (value < kHigh ? value : kHigh) : value == value ? kLow : C(0);
    return static_cast<T>(std::nearbyint(inside));
  } else {
    return static_cast<T>(value);
  }
}

// The dtypes of the output.
TORCHEXT_CALLS_ANY template <class Body>
TORCHEXT_HD auto with_out_type(ScalarType dtype, const Body& body) {
  return with_type<uint8_t, int8_t, int16_t, uint16_t, int32_t, uint32_t, c10::Half, c10::BFloat16, float, double>(
      dtype, body);
}

}  // namespace torchext
