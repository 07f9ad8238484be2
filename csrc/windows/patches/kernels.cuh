// One kernel for patchify and unpatchify. The stores of neighbouring threads are contiguous for all layouts, and their
// loads are a few runs of memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/kernel.cuh"
#include "common/strided.h"
#include "windows/patches/task.h"

namespace torchext {

constexpr int kPixelsAnItem = 4;
constexpr int kPatchAxes = 6;
constexpr int kChannelsInside = 16;  // the most channels whose coefficients fit into the arguments of the kernel

template <class In, class Out>
using PixelCompute = std::conditional_t<std::is_same_v<In, AnyNumber>, double, float>;

template <class C, class T, class Index>
__device__ __forceinline__ C read_pixel(const T* data, ScalarType type, Index index) {
  if constexpr (std::is_same_v<T, AnyNumber>)
    return with_number_type(
        type, [&](auto number) { return static_cast<C>(reinterpret_cast<const decltype(number)*>(data)[index]); });
  else
    return static_cast<C>(data[index]);
}

template <class C, class T, class Index>
__device__ __forceinline__ void write_pixel(T* data, ScalarType type, Index index, C value) {
  if constexpr (std::is_same_v<T, AnyNumber>)
    with_out_type(type, [&](auto number) {
      using Number = decltype(number);
      reinterpret_cast<Number*>(data)[index] = number_from<Number>(value);
    });
  else
    data[index] = number_from<T>(value);
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
  ScalarType in_type, out_type;
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
    if constexpr (!std::is_same_v<Out, AnyNumber>)
      if (first + kPixelsAnItem <= task.count) {
        Pixels<Out> pixels;
#pragma unroll
        for (int k = 0; k < kPixelsAnItem; ++k) pixels.at[k] = number_from<Out>(values[k]);
        reinterpret_cast<Pixels<Out>*>(task.out)[item] = pixels;
        return;
      }
    for (int k = 0; k < kPixelsAnItem && first + k < task.count; ++k)
      write_pixel(task.out, task.out_type, first + k, values[k]);
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

// The output's axes, outermost first, with the strides of the input.
inline Axes patch_axes(const PatchTask& task) {
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
  Axes merged;
  for (int a = 0; a < kept; ++a) merged.append({axes[a].size, axes[a].from});
  return merged;
}

inline int64_t pixel_count(const PatchTask& task) {
  return task.batch * task.channels * task.grid[0] * task.grid[1] * task.size[0] * task.size[1];
}

inline bool fits_32(const PatchTask& task) {
  return std::max(pixel_count(task), patch_axes(task).last_offset()) <= kMost32;
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
  const Axes axes = patch_axes(task);
  const Axis innermost = axes.count > 0 ? axes[axes.count - 1] : Axis{1, 0};
  // The pixels of a group are all of one channel, or step through the channels.
  const int64_t channel_run = task.interleaved() || task.channels == 1 ? kPixelsAnItem : task.to.channel;
  int group = kPixelsAnItem;
  while (innermost.size % group != 0 || channel_run % group != 0) group /= 2;

  Patches<In, Out, Index> patches{};
  patches.in = static_cast<const In*>(task.in);
  patches.out = static_cast<Out*>(task.out);
  patches.in_type = task.in_type;
  patches.out_type = task.out_type;
  patches.from = Strided<Index, kPatchAxes>(axes);
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
  if (!fits_32(task)) return body(AnyNumber{}, AnyNumber{}, int64_t{});
  with_pixel_types(task, [&](auto in, auto out) {
    body(in, out, std::conditional_t<std::is_same_v<decltype(in), AnyNumber>, int64_t, int32_t>{});
  });
}

}  // namespace torchext
