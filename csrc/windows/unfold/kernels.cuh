#pragma once

#include <cstdint>
#include <numeric>
#include <utility>

#include "common/kernel.cuh"
#include "windows/planes.cuh"
#include "windows/unfold/task.h"

namespace torchext {

// Taps that one thread of unfold copies: neighbouring taps read the same cache lines.
constexpr int64_t kTapsAnItem = 16;

template <class Index>
WindowGeometry<Index> narrowed(const WindowGeometry<int64_t>& wide) {
  WindowGeometry<Index> g;
  for (int a = 0; a < kSpatial; ++a) {
    g.image[a] = static_cast<Index>(wide.image[a]);
    g.kernel[a] = static_cast<Index>(wide.kernel[a]);
    g.dilation[a] = static_cast<Index>(wide.dilation[a]);
    g.padding[a] = static_cast<Index>(wide.padding[a]);
    g.stride[a] = static_cast<Index>(wide.stride[a]);
    g.grid[a] = static_cast<Index>(wide.grid[a]);
  }
  return g;
}

// Where the planes (n, c) of a strided tensor start.
template <class Index>
struct Planes {
  Planes(int64_t batch, int64_t channels, int64_t sample_stride, int64_t channel_stride)
      : count(static_cast<Index>(batch * channels)),
        channels(channels),
        sample_stride(static_cast<Index>(sample_stride)),
        channel_stride(static_cast<Index>(channel_stride)) {}

  TORCHEXT_HD Index offset(Index plane) const {
    const Index sample = channels.split(plane);
    return sample * sample_stride + plane * channel_stride;
  }

  Index count;
  Divisor<Index> channels;
  Index sample_stride, channel_stride;
};

// One item is a window of up to kPlanes planes, and a few of its taps. Neighbouring threads have neighbouring windows,
// so that their stores are contiguous and their loads are no farther apart than the stride. If a thread handled a
// vector of elements, it would need fewer instructions, but its loads, which are as many as its stores, would touch
// more cache lines, which costs more.
template <class U, class Index>
struct Unfold {
  WindowGeometry<Index> geometry;
  Planes<Index> planes;
  const U* image;
  Index strides[kSpatial];
  U* out;
  PaddingMode mode;
  U value;
  Index windows, taps, taps_an_item, planes_an_item, items;
  Divisor<Index> by_windows, by_tap_groups;
  Grid3<Index> grid, kernel;
};

// kCopiesPadding is true for every padding mode except the constant one. That is a separate kernel because it needs
// more registers.
template <class U, class Index, bool kCopiesPadding>
__global__ void __launch_bounds__(kThreads) unfold_kernel(const __grid_constant__ Unfold<U, Index> task) {
  const WindowGeometry<Index>& g = task.geometry;
  each_item(task.items, [&](Index window) {
    Index tap_group = task.by_windows.split(window);
    const Index plane = task.by_tap_groups.split(tap_group) * task.planes_an_item;
    const Index planes = least(task.planes_an_item, task.planes.count - plane);
    const U* image[kPlanes];
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) image[p] = task.image + task.planes.offset(p < planes ? plane + p : plane);
    Index at[kSpatial], tap[kSpatial];
    task.grid.coordinates(window, at);
    const Index first = tap_group * task.taps_an_item;
    const Index last = least(first + task.taps_an_item, task.taps);
    task.kernel.coordinates(first, tap);
    U* out = task.out + (plane * task.taps + first) * task.windows + window;
    for (Index t = first; t < last; ++t, out += task.windows) {
      bool inside = true;
      Index offset = 0;  // also inside the image for padding, so that no load waits for a branch
#pragma unroll
      for (int a = 0; a < kSpatial; ++a) {
        Index position = image_position(g, a, at[a], tap[a]);
        if constexpr (kCopiesPadding) position = padding_source(task.mode, position, g.image[a]);
        inside = inside && position >= 0 && position < g.image[a];
        offset += inside ? position * task.strides[a] : 0;
      }
      U values[kPlanes];
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) values[p] = image[p][offset];
#pragma unroll
      for (int p = 0; p < kPlanes; ++p)
        if (p < planes) out[p * task.taps * task.windows] = inside ? values[p] : task.value;
      if (++tap[2] == g.kernel[2]) {
        tap[2] = 0;
        if (++tap[1] == g.kernel[1]) {
          tap[1] = 0;
          ++tap[0];
        }
      }
    }
  });
}

// x with a·x = 1 (mod m), for a and m without a common divisor, by Euclid's algorithm; 0 if m is 1.
inline int64_t inverse_modulo(int64_t a, int64_t m) {
  int64_t x = 0, next = 1, remainder = m;
  for (a %= m; a > 0;) {
    const int64_t times = remainder / a;
    x = std::exchange(next, x - times * next);
    remainder = std::exchange(a, remainder - times * a);
  }
  return m == 1 ? 0 : (x % m + m) % m;
}

// The pairs of a tap and a window that read one position along an axis: `count` pairs from (tap, window) on, in steps
// of FoldAxis.
template <class Index>
struct TapRun {
  Index tap, window, count;
};

// Tap t of window w reads a position if t·dilation + w·stride = position + padding. So t is fixed modulo tap_step, and
// if (t, w) is such a pair, so is (t + tap_step, w - window_step).
template <class Index>
struct FoldAxis {
  FoldAxis() = default;
  FoldAxis(const WindowGeometry<int64_t>& g, int axis) {
    const int64_t divisor = std::gcd(g.stride[axis], g.dilation[axis]);
    const int64_t taps = g.stride[axis] / divisor, windows = g.dilation[axis] / divisor;
    common = Divisor<Index>(divisor);
    tap_step = Divisor<Index>(taps);
    window_step = Divisor<Index>(windows);
    stride = Divisor<Index>(g.stride[axis]);
    inverse = static_cast<Index>(inverse_modulo(windows, taps));
    dilation = static_cast<Index>(g.dilation[axis]);
    padding = static_cast<Index>(g.padding[axis]);
    kernel = static_cast<Index>(g.kernel[axis]);
    grid = static_cast<Index>(g.grid[axis]);
    image = static_cast<Index>(g.image[axis]);
  }

  // `position` may be a position of the padding.
  TORCHEXT_HD TapRun<Index> taps_at(Index position) const {
    const TapRun<Index> none{0, 0, 0};
    const Index start = position + padding;
    Index remainder = start;
    Index residue = common.split(remainder);
    if (remainder != 0) return none;
    tap_step.split(residue);
    Index tap = residue * inverse;
    tap_step.split(tap);
    if (tap >= kernel || tap * dilation > start) return none;
    Index window = stride.quotient(start - tap * dilation);
    if (window >= grid) {
      const Index skipped = window_step.quotient(window - grid) + 1;
      tap += skipped * tap_step.divisor;
      window -= skipped * window_step.divisor;
      if (tap >= kernel || window < 0) return none;
    }
    const Index taps_left = tap_step.quotient(kernel - 1 - tap), windows_left = window_step.quotient(window);
    return {tap, window, least(taps_left, windows_left) + 1};
  }

  Divisor<Index> common, tap_step, window_step, stride;
  Index inverse, dilation, padding, kernel, grid, image;
};

// One item is a pixel of up to kPlanes planes. It adds up the values that windows hold of the pixel, in the order of
// the taps, and those that they hold of each position of the padding that is a copy of the pixel.
template <class T, class Sum, class Index>
struct Fold {
  FoldAxis<Index> axes[kSpatial];
  Planes<Index> planes;
  const T* columns;
  Index tap_stride, window_stride;
  Index steps[kSpatial];  // from one pair of a TapRun to the next, along each axis; not used for runs of one pair
  PaddingMode mode;
  T* out;
  Index pixels, planes_an_item, items;
  Divisor<Index> by_pixels;
  Grid3<Index> image;
};

// Adds the values that windows hold of one position of the padded image to the sums of each plane.
template <class T, class Sum, class Index>
__device__ __forceinline__ void add_taps(const Fold<T, Sum, Index>& task, const TapRun<Index>& depths,
                                         const TapRun<Index>& rows, const TapRun<Index>& cells,
                                         const T* const (&columns)[kPlanes], Sum (&sums)[kPlanes]) {
  const Index tap = (depths.tap * task.axes[1].kernel + rows.tap) * task.axes[2].kernel + cells.tap;
  const Index window = (depths.window * task.axes[1].grid + rows.window) * task.axes[2].grid + cells.window;
  const Index first = tap * task.tap_stride + window * task.window_stride;
  for (Index d = 0; d < depths.count; ++d) {
    for (Index h = 0; h < rows.count; ++h) {
      const Index row = first + d * task.steps[0] + h * task.steps[1];
      for (Index w = 0; w < cells.count; ++w) {
        const Index entry = row + w * task.steps[2];
        T values[kPlanes];
#pragma unroll
        for (int p = 0; p < kPlanes; ++p) values[p] = columns[p][entry];
#pragma unroll
        for (int p = 0; p < kPlanes; ++p) sums[p] += static_cast<Sum>(values[p]);
      }
    }
  }
}

// Adds the values that windows hold of a pixel and of all positions of the padding that are copies of it.
template <class T, class Sum, class Index>
__device__ __forceinline__ void add_all_copies(const Fold<T, Sum, Index>& task, const Index (&at)[kSpatial],
                                               const T* const (&columns)[kPlanes], Sum (&sums)[kPlanes]) {
  PaddingCopies<Index> copies[kSpatial];
#pragma unroll
  for (int a = 0; a < kSpatial; ++a)
    copies[a] = padding_copies(task.mode, at[a], task.axes[a].image, task.axes[a].padding);
#pragma unroll 1
  for (Index z = -1; z < copies[0].count(); ++z) {
    const TapRun<Index> depths = task.axes[0].taps_at(z < 0 ? at[0] : copies[0].position(z));
#pragma unroll 1
    for (Index y = -1; y < copies[1].count(); ++y) {
      const TapRun<Index> rows = task.axes[1].taps_at(y < 0 ? at[1] : copies[1].position(y));
#pragma unroll 1
      for (Index x = -1; x < copies[2].count(); ++x)
        add_taps(task, depths, rows, task.axes[2].taps_at(x < 0 ? at[2] : copies[2].position(x)), columns, sums);
    }
  }
}

// kAddsBack is true for every padding mode except the constant one. That is a separate kernel because its loops need
// registers that the other one does not.
template <class T, class Sum, class Index, bool kAddsBack>
__global__ void __launch_bounds__(kThreads) fold_kernel(const __grid_constant__ Fold<T, Sum, Index> task) {
  each_item(task.items, [&](Index pixel) {
    const Index plane = task.by_pixels.split(pixel) * task.planes_an_item;
    const Index planes = least(task.planes_an_item, task.planes.count - plane);
    const T* columns[kPlanes];
    Sum sums[kPlanes];
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      columns[p] = task.columns + task.planes.offset(p < planes ? plane + p : plane);
      sums[p] = Sum{};
    }
    Index at[kSpatial];
    task.image.coordinates(pixel, at);
    if constexpr (kAddsBack)
      add_all_copies(task, at, columns, sums);
    else
      add_taps(task, task.axes[0].taps_at(at[0]), task.axes[1].taps_at(at[1]), task.axes[2].taps_at(at[2]), columns,
               sums);
#pragma unroll
    for (int p = 0; p < kPlanes; ++p)
      if (p < planes) task.out[(plane + p) * task.pixels + pixel] = static_cast<T>(sums[p]);
  });
}

inline int64_t last_offset(const UnfoldTask& task) {
  int64_t offset = (task.batch - 1) * task.batch_stride + (task.channels - 1) * task.channel_stride;
  for (int a = 0; a < kSpatial; ++a) offset += (task.windows.image[a] - 1) * task.strides[a];
  return offset;
}

inline int64_t last_offset(const FoldTask& task) {
  const int64_t taps = product(task.windows.kernel), windows = product(task.windows.grid);
  return (task.batch - 1) * task.batch_stride + (task.channels - 1) * task.channel_stride +
         (taps - 1) * task.tap_stride + (windows - 1) * task.window_stride;
}

inline bool geometry_fits_32(const WindowGeometry<int64_t>& g) {
  int64_t most = 0;
  for (int a = 0; a < kSpatial; ++a)
    most = std::max({most, g.image[a] + 2 * g.padding[a] + g.dilation[a] + g.stride[a],
                     g.stride[a] > kMost32 ? g.stride[a] : g.stride[a] * g.stride[a]});
  return most <= kMost32;
}

inline bool fits_32(const UnfoldTask& task) {
  const int64_t out = task.batch * task.channels * product(task.windows.kernel) * product(task.windows.grid);
  return geometry_fits_32(task.windows) && std::max(out, last_offset(task)) <= kMost32;
}

inline bool fits_32(const FoldTask& task) {
  const int64_t out = task.batch * task.channels * product(task.windows.image);
  const int64_t columns = task.batch * task.channels * product(task.windows.kernel) * product(task.windows.grid);
  return geometry_fits_32(task.windows) && std::max({out, columns, last_offset(task)}) <= kMost32;
}

template <class Index, class Launch>
void run_unfold(const UnfoldTask& task, const Launch& launch) {
  const WindowGeometry<int64_t>& g = task.windows;
  const int64_t planes = task.batch * task.channels, taps = product(g.kernel), windows = product(g.grid);
  if (planes == 0) return;
  // If there are fewer windows than threads in a warp, an item has one tap, so that neighbouring threads still store
  // next to each other.
  int64_t taps_an_item = windows >= kWarp ? std::min(kTapsAnItem, taps) : 1;
  const int64_t shared = planes_an_item(planes, windows * ceil_div(taps, taps_an_item), launch);
  const int64_t groups = ceil_div(planes, shared);
  while (taps_an_item > 1 && groups * windows * ceil_div(taps, taps_an_item) < launch.processors * kThreadsAProcessor)
    taps_an_item = ceil_div(taps_an_item, 2);
  const int64_t tap_groups = ceil_div(taps, taps_an_item), items = groups * windows * tap_groups;
  with_bits(task.element_size, [&](auto bits) {
    using U = decltype(bits);
    const Unfold<U, Index> unfold{
        .geometry = narrowed<Index>(g),
        .planes = Planes<Index>(task.batch, task.channels, task.batch_stride, task.channel_stride),
        .image = static_cast<const U*>(task.image),
        .strides = {static_cast<Index>(task.strides[0]), static_cast<Index>(task.strides[1]),
                    static_cast<Index>(task.strides[2])},
        .out = static_cast<U*>(task.out),
        .mode = task.mode,
        .value = bits_of<U>(task.value),
        .windows = static_cast<Index>(windows),
        .taps = static_cast<Index>(taps),
        .taps_an_item = static_cast<Index>(taps_an_item),
        .planes_an_item = static_cast<Index>(shared),
        .items = static_cast<Index>(items),
        .by_windows = Divisor<Index>(windows),
        .by_tap_groups = Divisor<Index>(tap_groups),
        .grid = Grid3<Index>(g.grid[1], g.grid[2]),
        .kernel = Grid3<Index>(g.kernel[1], g.kernel[2])};
    const auto kernel =
        task.mode == PaddingMode::kConstant ? unfold_kernel<U, Index, false> : unfold_kernel<U, Index, true>;
    launch(kernel, blocks_for(items, launch), kThreads, 0, unfold);
  });
}

template <class T, class Sum, class Index, class Launch>
void run_fold(const FoldTask& task, const Launch& launch) {
  const WindowGeometry<int64_t>& g = task.windows;
  const int64_t planes = task.batch * task.channels, pixels = product(g.image);
  if (planes == 0) return;
  const int64_t shared = planes_an_item(planes, pixels, launch);
  const int64_t items = ceil_div(planes, shared) * pixels;
  Fold<T, Sum, Index> fold{.axes = {FoldAxis<Index>(g, 0), FoldAxis<Index>(g, 1), FoldAxis<Index>(g, 2)},
                           .planes = Planes<Index>(task.batch, task.channels, task.batch_stride, task.channel_stride),
                           .columns = static_cast<const T*>(task.columns),
                           .tap_stride = static_cast<Index>(task.tap_stride),
                           .window_stride = static_cast<Index>(task.window_stride),
                           .steps = {},
                           .mode = task.mode,
                           .out = static_cast<T*>(task.out),
                           .pixels = static_cast<Index>(pixels),
                           .planes_an_item = static_cast<Index>(shared),
                           .items = static_cast<Index>(items),
                           .by_pixels = Divisor<Index>(pixels),
                           .image = Grid3<Index>(g.image[1], g.image[2])};
  int64_t taps = 1, windows = 1;  // in the flattened index, for one step along the axis
  for (int a = kSpatial - 1; a >= 0; --a) {
    fold.steps[a] = static_cast<Index>(fold.axes[a].tap_step.divisor * taps * task.tap_stride -
                                       fold.axes[a].window_step.divisor * windows * task.window_stride);
    taps *= g.kernel[a];
    windows *= g.grid[a];
  }
  const auto kernel =
      task.mode == PaddingMode::kConstant ? fold_kernel<T, Sum, Index, false> : fold_kernel<T, Sum, Index, true>;
  launch(kernel, blocks_for(items, launch), kThreads, 0, fold);
}

}  // namespace torchext
