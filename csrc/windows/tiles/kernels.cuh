// Bodies of the kernels that extract windows of a tensor and merge them.
#pragma once

#include "common/kernel.cuh"
#include "windows/padding.h"
#include "windows/planes.cuh"
#include "windows/tiles/task.h"

namespace torchext {

template <class Index>
TileAxis<Index> narrowed(const TileAxis<int64_t>& wide) {
  const auto narrow = [](int64_t value) { return static_cast<Index>(value); };
  return {narrow(wide.image),  narrow(wide.size),  narrow(wide.dilation), narrow(wide.grid),
          narrow(wide.stride), narrow(wide.first), narrow(wide.last)};
}

// The positions of windows.
template <class Index>
struct DeviceLayout {
  DeviceLayout(const TileLayout& tiles, int64_t samples_)
      : grid(tiles.axes[1].grid, tiles.axes[2].grid),
        offsets(tiles.offsets),
        offset_columns(static_cast<Index>(tiles.offset_columns)),
        samples(static_cast<Index>(samples_)),
        on_grid(tiles.on_grid),
        own_sample(tiles.own_sample),
        mode(tiles.mode) {
    for (int a = 0; a < kSpatial; ++a) {
      axes[a] = narrowed<Index>(tiles.axes[a]);
      strides[a] = Divisor<Index>(tiles.axes[a].stride);
      dilations[a] = Divisor<Index>(tiles.axes[a].dilation);
      column[a] = tiles.column[a];
    }
  }

  // Returns the window's sample, or -1 if the window belongs to no sample.
  TORCHEXT_HD Index locate(Index sample, Index window, Index (&start)[kSpatial]) const {
    if (on_grid) {
      grid.coordinates(window, start);
#pragma unroll
      for (int a = 0; a < kSpatial; ++a) start[a] = axes[a].start(start[a]);
      return sample;
    }
    const int64_t* row = offsets + static_cast<int64_t>(window) * offset_columns;
#pragma unroll
    for (int a = 0; a < kSpatial; ++a)
      start[a] = column[a] < 0 ? 0 : near_start(row[column[a]], axes[a].size, axes[a].image);
    if (!own_sample) return sample;
    return row[0] >= 0 && row[0] < static_cast<int64_t>(samples) ? static_cast<Index>(row[0]) : Index{-1};
  }

  // Calls body(window, tap) for each tap along an axis of a grid that reads a position of the image or a copy of it in
  // the padding.
  template <class Body>
  TORCHEXT_HD void each_tap(int a, Index position, const Body& body) const {
    const TileAxis<Index>& axis = axes[a];
    const Index padding = axis.before() > axis.after() ? axis.before() : axis.after();
    const PaddingCopies<Index> copies = padding_copies(mode, position, axis.image, padding);
    for (Index copy = -1; copy < copies.count(); ++copy) {
      const Index at = copy < 0 ? position : copies.position(copy);
      const Index end = axis.windows_until(at, strides[a]);
      for (Index window = axis.windows_until(at - axis.reach(), strides[a]); window < end; ++window) {
        const Index distance = at - axis.start(window), tap = dilations[a].quotient(distance);
        if (tap * axis.dilation == distance) body(window, tap);
      }
    }
  }

  TileAxis<Index> axes[kSpatial];
  Divisor<Index> strides[kSpatial], dilations[kSpatial];
  Grid3<Index> grid;
  const int64_t* offsets;
  Index offset_columns, samples;
  int column[kSpatial];
  bool on_grid, own_sample;
  PaddingMode mode;
};

// One item is a tap of a window in up to kPlanes channels. Neighbouring threads have neighbouring taps, so that their
// stores are contiguous.
template <class U, class Index>
struct Extract {
  DeviceLayout<Index> tiles;
  const U* image;
  Index sample_stride, channel_stride, strides[kSpatial];
  U* out;
  U value;
  Index taps, channels, planes_an_item, items;
  Divisor<Index> by_taps, by_groups, by_windows;
  Grid3<Index> size;
};

template <class U, class Index>
__global__ void __launch_bounds__(kThreads) extract_kernel(const __grid_constant__ Extract<U, Index> task) {
  each_item(task.items, [&](Index tap) {
    Index group = task.by_taps.split(tap);
    const Index window = task.by_groups.split(group);
    const Index channel = group * task.planes_an_item;
    const Index planes = least(task.planes_an_item, task.channels - channel);
    Index window_of_sample = window, start[kSpatial], at[kSpatial];
    const Index first_sample = task.by_windows.split(window_of_sample);
    const Index sample = task.tiles.locate(first_sample, window_of_sample, start);
    task.size.coordinates(tap, at);
    bool inside = sample >= 0;
    Index offset = channel * task.channel_stride + (inside ? sample * task.sample_stride : 0);
#pragma unroll
    for (int a = 0; a < kSpatial; ++a) {
      const TileAxis<Index>& axis = task.tiles.axes[a];
      const Index position = padding_source(task.tiles.mode, start[a] + at[a] * axis.dilation, axis.image);
      inside = inside && position >= 0;
      offset += inside ? position * task.strides[a] : 0;
    }
    U* out = task.out + (window * task.channels + channel) * task.taps + tap;
    U values[kPlanes];
#pragma unroll
    for (int p = 0; p < kPlanes; ++p)
      values[p] = inside && p < planes ? task.image[offset + p * task.channel_stride] : task.value;
#pragma unroll
    for (int p = 0; p < kPlanes; ++p)
      if (p < planes) out[p * task.taps] = values[p];
  });
}

inline int64_t most_of(const TileLayout& tiles) {
  int64_t most = tiles.windows;
  for (const TileAxis<int64_t>& axis : tiles.axes)
    most = std::max({most, axis.image + 2 * axis.reach() + axis.stride, axis.first < 0 ? -axis.first : axis.first,
                     axis.first + axis.grid * axis.stride + axis.reach(), axis.before() + axis.after() + axis.image});
  return most;
}

inline int64_t last_offset(const ExtractTask& task) {
  int64_t offset =
      std::max<int64_t>(0, task.samples - 1) * task.sample_stride + (task.channels - 1 + kPlanes) * task.channel_stride;
  for (int a = 0; a < kSpatial; ++a) offset += (task.tiles.axes[a].image - 1) * task.strides[a];
  return offset;
}

inline bool fits_32(const ExtractTask& task) {
  const int64_t out = task.outer * task.tiles.windows * task.channels * task.tiles.taps();
  return std::max({out, last_offset(task), most_of(task.tiles)}) <= kMost32;
}

template <class Index, class Launch>
void run_extract(const ExtractTask& task, const Launch& launch) {
  const int64_t taps = task.tiles.taps(), windows = task.outer * task.tiles.windows;
  if (windows * task.channels == 0) return;
  const int64_t shared = planes_an_item(task.channels, windows * taps, launch);
  const int64_t groups = ceil_div(task.channels, shared), items = windows * groups * taps;
  with_bits(task.element_size, [&](auto bits) {
    using U = decltype(bits);
    const Extract<U, Index> extract{
        .tiles = DeviceLayout<Index>(task.tiles, task.samples),
        .image = static_cast<const U*>(task.image),
        .sample_stride = static_cast<Index>(task.sample_stride),
        .channel_stride = static_cast<Index>(task.channel_stride),
        .strides = {static_cast<Index>(task.strides[0]), static_cast<Index>(task.strides[1]),
                    static_cast<Index>(task.strides[2])},
        .out = static_cast<U*>(task.out),
        .value = bits_of<U>(task.value),
        .taps = static_cast<Index>(taps),
        .channels = static_cast<Index>(task.channels),
        .planes_an_item = static_cast<Index>(shared),
        .items = static_cast<Index>(items),
        .by_taps = Divisor<Index>(taps),
        .by_groups = Divisor<Index>(groups),
        .by_windows = Divisor<Index>(task.tiles.windows),
        .size = Grid3<Index>(task.tiles.axes[1].size, task.tiles.axes[2].size)};
    launch(extract_kernel<U, Index>, blocks_for(items, launch), kThreads, 0, extract);
  });
}

// How the elements of a dtype are added, plainly and weighted.
template <class T>
struct FloatElements {
  using Element = T;
  using Sum = Compute<T>;
  using Weight = Compute<T>;
  static TORCHEXT_HD void add(Sum& sum, T value) { sum += static_cast<Sum>(value); }
  static TORCHEXT_HD void add(Sum& sum, T value, Weight weight) { sum += weight * static_cast<Sum>(value); }
  static TORCHEXT_HD T mean(Sum sum, Weight total) { return static_cast<T>(sum / total); }
  static TORCHEXT_HD T result(Sum sum) { return static_cast<T>(sum); }
};

template <class T>
struct ComplexElements {
  using Element = Complex<T>;
  using Sum = Complex<T>;
  using Weight = T;
  static TORCHEXT_HD void add(Sum& sum, const Element& value) { sum += value; }
  static TORCHEXT_HD void add(Sum& sum, const Element& value, Weight weight) {
    sum += Element{weight * value.real, weight * value.imaginary};
  }
  static TORCHEXT_HD Element mean(const Sum& sum, Weight total) { return {sum.real / total, sum.imaginary / total}; }
  static TORCHEXT_HD Element result(const Sum& sum) { return sum; }
};

template <class T>
struct PlainElements {
  using Element = T;
  using Sum = SumOf<T>;
  using Weight = float;
  static TORCHEXT_HD void add(Sum& sum, T value) { sum += static_cast<Sum>(value); }
  static TORCHEXT_HD void add(Sum& sum, T value, Weight) { add(sum, value); }
  static TORCHEXT_HD T mean(Sum sum, Weight) { return static_cast<T>(sum); }
  static TORCHEXT_HD T result(Sum sum) { return static_cast<T>(sum); }
};

// Means of integers are often half way between two integers. Products are rounded before they are added, so that the
// result is the same on every device.
TORCHEXT_HD double add_product(double sum, double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(sum, __dmul_rn(a, b));
#else
  return sum + a * b;
#endif
}

// Weighted integers are added in float64.
template <class T>
struct IntegerElements {
  using Element = T;
  using Sum = double;
  using Weight = double;
  static TORCHEXT_HD void add(Sum& sum, T value) { sum += static_cast<double>(value); }
  static TORCHEXT_HD void add(Sum& sum, T value, Weight weight) {
    sum = add_product(sum, weight, static_cast<double>(value));
  }
  static TORCHEXT_HD T mean(Sum sum, Weight total) { return result(sum / total); }
  static TORCHEXT_HD T result(Sum sum) { return integer_of<T>(rint(sum)); }
};

// Windows at any position are sorted by the tiles of the output that they reach. A tile is at least as large as a
// window, so a window reaches at most two tiles along each axis.
struct BinLayout {
  int64_t tile[kSpatial], tiles[kSpatial], bins, capacity;

  explicit BinLayout(const MergeTask& task) : bins(task.groups()), capacity(task.tiles.windows) {
    const int64_t smallest[kSpatial] = {1, 8, 32};
    for (int a = 0; a < kSpatial; ++a) {
      const TileAxis<int64_t>& axis = task.tiles.axes[a];
      tile[a] = std::min(axis.image, std::max(axis.size, smallest[a]));
      tiles[a] = ceil_div(axis.image, tile[a]);
      bins *= tiles[a];
      capacity *= std::min<int64_t>(2, tiles[a]);
    }
  }

  // The number of indices in memory: where each bin starts, where it ends while the bins are filled, and the windows of
  // the bins.
  int64_t entries() const { return 2 * bins + 1 + capacity; }
};

template <class Index>
struct BinTask {
  DeviceLayout<Index> windows;
  Index count;  // of windows
  Divisor<Index> tile[kSpatial];
  Index tiles[kSpatial], bins;
  Index *starts, *next, *entries;

  TORCHEXT_HD Index bin_of(Index sample, const Index (&tile_at)[kSpatial]) const {
    return ((sample * tiles[0] + tile_at[0]) * tiles[1] + tile_at[1]) * tiles[2] + tile_at[2];
  }

  // Calls body(bin) for each tile that a window reaches.
  template <class Body>
  TORCHEXT_HD void each_bin(Index window, const Body& body) const {
    Index start[kSpatial], first[kSpatial], last[kSpatial], at[kSpatial];
    const Index sample = windows.locate(0, window, start);
    bool inside = sample >= 0;
#pragma unroll
    for (int a = 0; a < kSpatial; ++a) {
      const TileAxis<Index>& axis = windows.axes[a];
      const Index begin = start[a] < 0 ? 0 : start[a], end = least(axis.image, start[a] + axis.size);
      inside = inside && begin < end;
      first[a] = inside ? tile[a].quotient(begin) : 0;
      last[a] = inside ? tile[a].quotient(end - 1) : -1;
    }
    for (at[0] = first[0]; at[0] <= last[0]; ++at[0])
      for (at[1] = first[1]; at[1] <= last[1]; ++at[1])
        for (at[2] = first[2]; at[2] <= last[2]; ++at[2])
          if (inside) body(bin_of(sample, at));
  }
};

// Counts the windows of bin b in starts[b + 1], which is initially 0.
template <class Index>
__global__ void __launch_bounds__(kThreads) count_bins_kernel(const __grid_constant__ BinTask<Index> task) {
  each_item(task.count,
            [&](Index window) { task.each_bin(window, [&](Index bin) { increment(&task.starts[bin + 1]); }); });
}

// Turns counts into starts, in a single block. Each thread handles several consecutive bins.
template <class Index>
__global__ void __launch_bounds__(kThreads) start_bins_kernel(const __grid_constant__ BinTask<Index> task) {
  Index* sums = reinterpret_cast<Index*>(torchext_shared);
  const Index thread = static_cast<Index>(threadIdx.x), share = (task.bins + kThreads - 1) / kThreads;
  const Index begin = least(task.bins, thread * share), end = least(task.bins, begin + share);
  Index sum = 0;
  for (Index bin = begin; bin < end; ++bin) sum += task.starts[bin + 1];
  sums[thread] = sum;
  __syncthreads();
  Index before = 0;
  for (Index other = 0; other < thread; ++other) before += sums[other];
  for (Index bin = begin; bin < end; ++bin) {
    const Index count = task.starts[bin + 1];
    task.next[bin] = before;
    before += count;
    task.starts[bin + 1] = before;
  }
}

// If offsets have changed since windows were counted, by another stream's work, some windows are in no bin and some
// entries of bins are not written.
template <class Index>
__global__ void __launch_bounds__(kThreads) fill_bins_kernel(const __grid_constant__ BinTask<Index> task) {
  each_item(task.count, [&](Index window) {
    task.each_bin(window, [&](Index bin) {
      const Index position = increment(&task.next[bin]);
      if (position < task.starts[bin + 1]) task.entries[position] = window;
    });
  });
}

// Sorts the windows of each bin, which are written in any order. In this bitonic sort all exchanges ascend, so that a
// count that is not a power of two can be treated as if larger elements followed it.
template <class Index>
__global__ void __launch_bounds__(kThreads) sort_bins_kernel(const __grid_constant__ BinTask<Index> task) {
  const Index thread = static_cast<Index>(threadIdx.x);
  for (Index bin = static_cast<Index>(blockIdx.x); bin < task.bins; bin += static_cast<Index>(gridDim.x)) {
    Index* windows = task.entries + task.starts[bin];
    const Index count = task.starts[bin + 1] - task.starts[bin];
    const auto exchange = [&](Index mask) {
      for (Index i = thread; i < count; i += kThreads) {
        const Index j = i ^ mask;
        if (j <= i || j >= count || windows[i] <= windows[j]) continue;
        const Index other = windows[i];
        windows[i] = windows[j];
        windows[j] = other;
      }
      __syncthreads();
    };
    for (int64_t length = 2; length / 2 < count; length *= 2) {
      exchange(static_cast<Index>(length - 1));
      for (Index mask = static_cast<Index>(length / 4); mask > 0; mask /= 2) exchange(mask);
    }
  }
}

// One item is a position of the output in up to kPlanes channels of a sample.
template <class Type, class Index>
struct Merge {
  BinTask<Index> bins;  // has the positions of the windows too; has no bins for a grid
  const typename Type::Element* windows;
  Index sample_stride, channel_stride, window_strides[kSpatial], tap_strides[kSpatial];
  const typename Type::Weight* weight;
  bool normalize;
  typename Type::Element* out;
  Index positions, channels, planes_an_item, items;
  Divisor<Index> by_positions, by_groups;
  Grid3<Index> image;
};

// The sums of the values that windows hold of one position, in some channels.
template <class Type>
struct PositionSums {
  using Element = typename Type::Element;
  using Weight = typename Type::Weight;

  template <class Index>
  TORCHEXT_HD void add(const Element* from, Index channel_stride, Index planes, const Weight* weight) {
    // a weight of 0 contributes nothing; infinity times 0 would be a NaN
    if (weight != nullptr && *weight == 0) return;
    Element values[kPlanes];
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) values[p] = from[p < planes ? p * channel_stride : 0];
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      if (count == 0) first[p] = values[p];
      if (weight == nullptr)
        Type::add(sums[p], values[p]);
      else
        Type::add(sums[p], values[p], *weight);
    }
    total += weight == nullptr ? Weight{1} : *weight;
    ++count;
  }

  // An element that only one window covers is returned unchanged.
  TORCHEXT_HD Element result(int p, bool normalize) const {
    if (!normalize) return Type::result(sums[p]);
    if (total == 0) return Type::result(typename Type::Sum{});
    return count == 1 ? first[p] : Type::mean(sums[p], total);
  }

  typename Type::Sum sums[kPlanes] = {};
  Element first[kPlanes] = {};
  Weight total = 0;
  int64_t count = 0;
};

template <class Type, class Index>
__global__ void __launch_bounds__(kThreads) merge_kernel(const __grid_constant__ Merge<Type, Index> task) {
  const DeviceLayout<Index>& tiles = task.bins.windows;
  each_item(task.items, [&](Index position) {
    Index group = task.by_positions.split(position);
    const Index sample = task.by_groups.split(group), channel = group * task.planes_an_item;
    const Index planes = least(task.planes_an_item, task.channels - channel);
    const auto* windows = task.windows + sample * task.sample_stride + channel * task.channel_stride;
    Index at[kSpatial], tile[kSpatial];
    task.image.coordinates(position, at);
    PositionSums<Type> sums;
    const auto add = [&](Index window, const Index(&tap)[kSpatial]) {
      const Index entry =
          window + tap[0] * task.tap_strides[0] + tap[1] * task.tap_strides[1] + tap[2] * task.tap_strides[2];
      const Index weight = (tap[0] * tiles.axes[1].size + tap[1]) * tiles.axes[2].size + tap[2];
      sums.add(windows + entry, task.channel_stride, planes, task.weight == nullptr ? nullptr : task.weight + weight);
    };
    Index tap[kSpatial];
    if (tiles.on_grid) {
      tiles.each_tap(0, at[0], [&](Index d, Index tap_d) {
        tiles.each_tap(1, at[1], [&](Index h, Index tap_h) {
          tiles.each_tap(2, at[2], [&](Index w, Index tap_w) {
            tap[0] = tap_d, tap[1] = tap_h, tap[2] = tap_w;
            add(d * task.window_strides[0] + h * task.window_strides[1] + w * task.window_strides[2], tap);
          });
        });
      });
    } else {
      for (int a = 0; a < kSpatial; ++a) tile[a] = task.bins.tile[a].quotient(at[a]);
      const Index bin = task.bins.bin_of(tiles.own_sample ? sample : 0, tile);
      for (Index i = task.bins.starts[bin]; i < task.bins.starts[bin + 1]; ++i) {
        const Index window = task.bins.entries[i];
        if (window < 0 || window >= task.bins.count) continue;  // see fill_bins_kernel
        tiles.locate(0, window, tap);
        bool inside = true;
        for (int a = 0; a < kSpatial; ++a) {
          tap[a] = at[a] - tap[a];
          inside = inside && tap[a] >= 0 && tap[a] < tiles.axes[a].size;
        }
        if (inside) add(window * task.window_strides[2], tap);
      }
    }
    auto* out = task.out + (sample * task.channels + channel) * task.positions + position;
    for (int p = 0; p < kPlanes; ++p)
      if (p < planes) out[p * task.positions] = sums.result(p, task.normalize);
  });
}

inline int64_t positions_of(const MergeTask& task) {
  return task.tiles.axes[0].image * task.tiles.axes[1].image * task.tiles.axes[2].image;
}

inline int64_t last_offset(const MergeTask& task) {
  int64_t offset =
      std::max<int64_t>(0, task.samples - 1) * task.sample_stride + (task.channels - 1 + kPlanes) * task.channel_stride;
  const bool grid = task.tiles.on_grid;
  for (int a = 0; a < kSpatial; ++a) {
    const TileAxis<int64_t>& axis = task.tiles.axes[a];
    offset += (axis.size - 1) * task.tap_strides[a] + (grid ? axis.grid - 1 : 0) * task.window_strides[a];
  }
  return grid ? offset : offset + task.tiles.windows * task.window_strides[2];
}

inline bool fits_32(const MergeTask& task) {
  const int64_t out = task.samples * task.channels * positions_of(task);
  return std::max({out, last_offset(task), most_of(task.tiles), BinLayout(task).entries()}) <= kMost32;
}

template <class Index>
BinTask<Index> bin_task(const MergeTask& task, const BinLayout& layout, void* memory) {
  Index* entries = static_cast<Index*>(memory);
  BinTask<Index> bins{.windows = DeviceLayout<Index>(task.tiles, task.samples),
                      .count = static_cast<Index>(task.tiles.windows),
                      .tile = {},
                      .tiles = {},
                      .bins = static_cast<Index>(layout.bins),
                      .starts = entries,
                      .next = entries + layout.bins + 1,
                      .entries = entries + 2 * layout.bins + 1};
  for (int a = 0; a < kSpatial; ++a) {
    bins.tile[a] = Divisor<Index>(layout.tile[a]);
    bins.tiles[a] = static_cast<Index>(layout.tiles[a]);
  }
  return bins;
}

// `memory` holds layout.entries() indices, of which the first bins + 1 are 0.
template <class Index, class Launch>
void run_bins(const BinTask<Index>& bins, const Launch& launch) {
  if (bins.count == 0) return;  // all bins start and end at 0
  const int64_t blocks = blocks_for(bins.count, launch);
  launch(count_bins_kernel<Index>, blocks, kThreads, 0, bins);
  launch(start_bins_kernel<Index>, 1, kThreads, kThreads * sizeof(Index), bins);
  launch(fill_bins_kernel<Index>, blocks, kThreads, 0, bins);
  launch(sort_bins_kernel<Index>, std::min<int64_t>(bins.bins, launch.processors * kBlocksAProcessor), kThreads, 0,
         bins);
}

template <class Type, class Index, class Launch>
void run_merge(const MergeTask& task, const BinTask<Index>& bins, const Launch& launch) {
  const int64_t positions = positions_of(task);
  if (task.samples * task.channels == 0) return;
  const int64_t shared = planes_an_item(task.channels, task.samples * positions, launch);
  const int64_t groups = ceil_div(task.channels, shared), items = task.samples * groups * positions;
  Merge<Type, Index> merge{.bins = bins,
                           .windows = static_cast<const typename Type::Element*>(task.windows),
                           .sample_stride = static_cast<Index>(task.sample_stride),
                           .channel_stride = static_cast<Index>(task.channel_stride),
                           .window_strides = {},
                           .tap_strides = {},
                           .weight = static_cast<const typename Type::Weight*>(task.weight),
                           .normalize = task.normalize,
                           .out = static_cast<typename Type::Element*>(task.out),
                           .positions = static_cast<Index>(positions),
                           .channels = static_cast<Index>(task.channels),
                           .planes_an_item = static_cast<Index>(shared),
                           .items = static_cast<Index>(items),
                           .by_positions = Divisor<Index>(positions),
                           .by_groups = Divisor<Index>(groups),
                           .image = Grid3<Index>(task.tiles.axes[1].image, task.tiles.axes[2].image)};
  for (int a = 0; a < kSpatial; ++a) {
    merge.window_strides[a] = static_cast<Index>(task.window_strides[a]);
    merge.tap_strides[a] = static_cast<Index>(task.tap_strides[a]);
  }
  launch(merge_kernel<Type, Index>, blocks_for(items, launch), kThreads, 0, merge);
}

}  // namespace torchext
