// One kernel for patchify and unpatchify. The stores of neighbouring threads are contiguous for all layouts, and their
// loads are a few runs of memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/kernel.cuh"
#include "common/strided.h"
#include "windows/patches/task.h"

namespace torchext {

constexpr int kPixelsAnItem = 4;
constexpr int kPatchAxes = 6;
constexpr int kChannelsInside = 16;  // the most channels whose coefficients fit into the arguments of the kernel

// An element whose dtype is only known when the kernel is launched. Dtypes that are rare for images share one kernel,
// which is also used for 64-bit indices and for float64.
struct AnyNumber {};

template <class In, class Out>
using PixelCompute = std::conditional_t<std::is_same_v<In, AnyNumber>, double, float>;

template <class T>
TORCHEXT_HD T read_as(const void* data, int64_t index) {
  return static_cast<const T*>(data)[index];
}

template <class C, class T, class Index>
TORCHEXT_HD C read_pixel(const T* data, torch::headeronly::ScalarType, Index index) {
  return static_cast<C>(data[index]);
}

template <class C, class Index>
TORCHEXT_HD C read_pixel(const AnyNumber* data, torch::headeronly::ScalarType type, Index index) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Bool:  // any byte but 0 is true
      return static_cast<C>(read_as<uint8_t>(data, index) != 0);
    case ScalarType::Byte:
      return static_cast<C>(read_as<uint8_t>(data, index));
    case ScalarType::Char:
      return static_cast<C>(read_as<int8_t>(data, index));
    case ScalarType::Short:
      return static_cast<C>(read_as<int16_t>(data, index));
    case ScalarType::UInt16:
      return static_cast<C>(read_as<uint16_t>(data, index));
    case ScalarType::Int:
      return static_cast<C>(read_as<int32_t>(data, index));
    case ScalarType::UInt32:
      return static_cast<C>(read_as<uint32_t>(data, index));
    case ScalarType::Long:
      return static_cast<C>(read_as<int64_t>(data, index));
    case ScalarType::UInt64:
      return static_cast<C>(read_as<uint64_t>(data, index));
    case ScalarType::Half:
      return static_cast<C>(static_cast<float>(read_as<c10::Half>(data, index)));
    case ScalarType::BFloat16:
      return static_cast<C>(static_cast<float>(read_as<c10::BFloat16>(data, index)));
    case ScalarType::Float:
      return static_cast<C>(read_as<float>(data, index));
    default:
      return static_cast<C>(read_as<double>(data, index));
  }
}

// Integers are rounded half to even and saturated; a NaN becomes 0.
template <class T, class C>
TORCHEXT_HD T number_from(C value) {
  if constexpr (std::is_integral_v<T>) {
    constexpr int kBits = 8 * static_cast<int>(sizeof(T)) - (std::is_signed_v<T> ? 1 : 0);
    constexpr C kEnd = static_cast<C>(int64_t{1} << kBits);  // the highest value plus 1
    constexpr C kLow = std::is_signed_v<T> ? -kEnd : C(0);
    const C whole = std::rint(value);
    if (!(whole > kLow)) return static_cast<T>(value == value ? kLow : C(0));
    return static_cast<T>(whole < kEnd ? whole : kEnd - C(1));
  } else {
    return static_cast<T>(value);
  }
}

template <class T, class C>
TORCHEXT_HD void write_as(void* data, int64_t index, C value) {
  static_cast<T*>(data)[index] = number_from<T>(value);
}

template <class C>
TORCHEXT_HD void write_pixel(void* data, torch::headeronly::ScalarType type, int64_t index, C value) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Byte:
      return write_as<uint8_t>(data, index, value);
    case ScalarType::Char:
      return write_as<int8_t>(data, index, value);
    case ScalarType::Short:
      return write_as<int16_t>(data, index, value);
    case ScalarType::UInt16:
      return write_as<uint16_t>(data, index, value);
    case ScalarType::Int:
      return write_as<int32_t>(data, index, value);
    case ScalarType::UInt32:
      return write_as<uint32_t>(data, index, value);
    case ScalarType::Half:
      return write_as<c10::Half>(data, index, static_cast<float>(value));
    case ScalarType::BFloat16:
      return write_as<c10::BFloat16>(data, index, static_cast<float>(value));
    case ScalarType::Float:
      return write_as<float>(data, index, value);
    default:
      return write_as<double>(data, index, value);
  }
}

template <class T>
struct alignas(kPixelsAnItem * sizeof(T)) Pixels {
  T at[kPixelsAnItem];
};

template <class C>
struct PatchCoefficients {
  TORCHEXT_HD C factor(int channel) const { return many != nullptr ? many[2 * channel] : few[2 * channel]; }
  TORCHEXT_HD C offset(int channel) const { return many != nullptr ? many[2 * channel + 1] : few[2 * channel + 1]; }

  C few[2 * kChannelsInside];  // factor and offset of each channel in turn
  const C* many;               // on the device, if there are more channels
};

// An item is kPixelsAnItem neighbouring pixels of the output.
template <class In, class Out, class Index>
struct Patches {
  using C = PixelCompute<In, Out>;

  const In* in;
  Out* out;
  torch::headeronly::ScalarType in_type, out_type;
  Strided<Index, kPatchAxes> from;  // in the order of the output
  Index count, items;
  Index step;  // from one pixel of a group to the next, in the input
  // A group is a power of two of neighbours along the innermost axis that divides kPixelsAnItem. The mask is its size
  // minus 1.
  int group_mask;
  bool channel_a_step;  // the innermost axis is the channels
  Divisor<Index> below_channel, channels;
  PatchCoefficients<C> coefficients;

  TORCHEXT_HD int channel_of(Index position) const {
    Index channel = below_channel.quotient(position);
    channels.split(channel);
    return static_cast<int>(channel);
  }
};

template <class In, class Out, class Index>
__global__ void __launch_bounds__(kThreads) patches_kernel(const __grid_constant__ Patches<In, Out, Index> task) {
  using C = typename Patches<In, Out, Index>::C;
  each_item(task.items, [&](Index item) {
    const Index first = item * kPixelsAnItem;
    Index offset = 0;
    int channel = 0;
    C values[kPixelsAnItem];
#pragma unroll
    for (int k = 0; k < kPixelsAnItem; ++k) {
      if ((k & task.group_mask) == 0) {
        // Past the end, the last group, which is complete, is read again.
        const Index position = least<Index>(first + k, task.count - 1 - task.group_mask);
        offset = task.from.offset(position);
        channel = task.channel_of(position);
      } else {
        offset += task.step;
        if (task.channel_a_step && ++channel == static_cast<int>(task.channels.divisor)) channel = 0;
      }
      const C pixel = read_pixel<C>(task.in, task.in_type, offset);
      values[k] = std::fma(pixel, task.coefficients.factor(channel), task.coefficients.offset(channel));
    }
    if constexpr (std::is_same_v<Out, AnyNumber>) {
      for (int k = 0; k < kPixelsAnItem && first + k < task.count; ++k)
        write_pixel(task.out, task.out_type, first + k, values[k]);
    } else if (first + kPixelsAnItem <= task.count) {
      Pixels<Out> pixels;
#pragma unroll
      for (int k = 0; k < kPixelsAnItem; ++k) pixels.at[k] = number_from<Out>(values[k]);
      reinterpret_cast<Pixels<Out>*>(task.out)[item] = pixels;
    } else {
      for (int k = 0; k < kPixelsAnItem && first + k < task.count; ++k)
        task.out[first + k] = number_from<Out>(values[k]);
    }
  });
}

// The coefficients of many channels are sent to the device in parts, as arguments of a kernel: a copy from the host
// could not be captured into a CUDA graph.
constexpr int kCoefficientsAPart = 128;

template <class C>
struct CoefficientsPart {
  C values[kCoefficientsAPart];
  C* to;
  int count;
};

template <class C>
__global__ void __launch_bounds__(kThreads)
    store_coefficients_kernel(const __grid_constant__ CoefficientsPart<C> part) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < part.count) part.to[i] = part.values[i];
}

// Writes the output's axes, outermost first, with the strides of the input. Returns the number of axes.
inline int patch_axes(const PatchTask& task, Axis (&merged)[kPatchAxes]) {
  struct Pair {
    int64_t size, from, to;
  };
  const Pair all[kPatchAxes] = {
      {task.batch, task.from.sample, task.to.sample},         {task.grid[0], task.from.grid[0], task.to.grid[0]},
      {task.grid[1], task.from.grid[1], task.to.grid[1]},     {task.size[0], task.from.inside[0], task.to.inside[0]},
      {task.size[1], task.from.inside[1], task.to.inside[1]}, {task.channels, task.from.channel, task.to.channel}};
  Pair axes[kPatchAxes];
  int kept = 0;
  for (const Pair& axis : all) {
    if (axis.size == 1) continue;  // the stride of such an axis has no meaning
    int at = kept++;
    // The operands are in this order because nvcc 13.0 parses `axes[at - 1].to <` as the start of template arguments.
    for (; at > 0 && axis.to > axes[at - 1].to; --at) axes[at] = axes[at - 1];
    axes[at] = axis;
  }
  int count = 0;
  for (int a = 0; a < kept; ++a) append_axis(merged, count, {axes[a].size, axes[a].from});
  return count;
}

inline int64_t pixel_count(const PatchTask& task) {
  return task.batch * task.channels * task.grid[0] * task.grid[1] * task.size[0] * task.size[1];
}

inline bool fits_32(const PatchTask& task) {
  Axis axes[kPatchAxes];
  const int count = patch_axes(task, axes);
  return std::max(pixel_count(task), last_offset(axes, count)) <= kMost32;
}

inline bool has_many_channels(const PatchTask& task) {
  return task.channels > kChannelsInside && task.factor_step + task.offset_step > 0;
}

// If has_many_channels, `on_device` holds the factor and the offset of each channel in the type PixelCompute.
template <class In, class Out, class Index, class Launch>
void run_patches(const PatchTask& task, void* on_device, const Launch& launch) {
  using C = PixelCompute<In, Out>;
  const int64_t count = pixel_count(task);
  if (count == 0) return;
  Axis axes[kPatchAxes];
  const int axis_count = patch_axes(task, axes);
  const Axis innermost = axis_count > 0 ? axes[axis_count - 1] : Axis{1, 0};
  // The pixels of a group are all of one channel, or step through the channels.
  const int64_t channel_run = task.interleaved() || task.channels == 1 ? kPixelsAnItem : task.to.channel;
  int group = kPixelsAnItem;
  while (innermost.size % group != 0 || channel_run % group != 0) group /= 2;

  Patches<In, Out, Index> patches{};
  patches.in = static_cast<const In*>(task.in);
  patches.out = static_cast<Out*>(task.out);
  patches.in_type = task.in_type;
  patches.out_type = task.out_type;
  patches.from = {axes, axis_count};
  patches.count = static_cast<Index>(count);
  patches.items = static_cast<Index>(ceil_div(count, kPixelsAnItem));
  patches.step = static_cast<Index>(innermost.stride);
  patches.group_mask = group - 1;
  patches.channel_a_step = task.interleaved();
  patches.below_channel = Divisor<Index>(task.channels == 1 ? count : task.to.channel);
  patches.channels = Divisor<Index>(task.channels);
  const auto coefficient = [&](int64_t i) {
    return static_cast<C>(i % 2 == 0 ? task.factor(i / 2) : task.offset(i / 2));
  };
  const int64_t coefficients = 2 * task.channels;
  if (has_many_channels(task)) {
    patches.coefficients.many = static_cast<const C*>(on_device);
    for (int64_t first = 0; first < coefficients; first += kCoefficientsAPart) {
      CoefficientsPart<C> part;
      part.to = static_cast<C*>(on_device) + first;
      part.count = static_cast<int>(std::min<int64_t>(kCoefficientsAPart, coefficients - first));
      for (int i = 0; i < part.count; ++i) part.values[i] = coefficient(first + i);
      launch(store_coefficients_kernel<C>, 1, kThreads, 0, part);
    }
  } else if (task.factor_step + task.offset_step > 0) {
    for (int i = 0; i < coefficients; ++i) patches.coefficients.few[i] = coefficient(i);
  } else {
    // All channels have the same coefficients, so all pixels are treated as pixels of one channel.
    patches.below_channel = Divisor<Index>(count);
    patches.channel_a_step = false;
    for (int i = 0; i < 2; ++i) patches.coefficients.few[i] = coefficient(i);
  }
  launch(patches_kernel<In, Out, Index>, blocks_for(ceil_div(count, kPixelsAnItem), launch), kThreads, 0, patches);
}

// Calls body(In, Out, Index) with the types of the kernel for a task.
template <class Body>
void with_patch_types(const PatchTask& task, const Body& body) {
  using torch::headeronly::ScalarType;
  const auto any = [&] { body(AnyNumber{}, AnyNumber{}, int64_t{}); };
  if (!fits_32(task)) return any();
  const auto from = [&](auto in) {
    switch (task.out_type) {
      case ScalarType::Half:
        return body(in, c10::Half{}, int32_t{});
      case ScalarType::BFloat16:
        return body(in, c10::BFloat16{}, int32_t{});
      case ScalarType::Float:
        return body(in, float{}, int32_t{});
      case ScalarType::Byte:
        if constexpr (!std::is_same_v<decltype(in), uint8_t>) return body(in, uint8_t{}, int32_t{});
        return any();
      default:
        return any();
    }
  };
  switch (task.in_type) {
    case ScalarType::Byte:
      return from(uint8_t{});
    case ScalarType::Half:
      return from(c10::Half{});
    case ScalarType::BFloat16:
      return from(c10::BFloat16{});
    case ScalarType::Float:
      return from(float{});
    default:
      return any();
  }
}

}  // namespace torchext
