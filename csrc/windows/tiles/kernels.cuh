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

template <class Index>
struct WindowRange {
  Index begin, end;
};

// The positions of windows.
template <class Index>
struct DeviceLayout {
  DeviceLayout(const TileLayout& tiles, int64_t samples_)
      : grid(tiles.axes[1].grid, tiles.axes[2].grid),
        offsets(tiles.offsets),
        count(static_cast<Index>(tiles.windows)),
        offset_columns(static_cast<Index>(tiles.offset_columns)),
        samples(static_cast<Index>(samples_)),
        on_grid(tiles.on_grid),
        own_sample(tiles.own_sample),
        mode(tiles.mode) {
    for (int a = 0; a < kSpatial; ++a) {
      axes[a] = narrowed<Index>(tiles.axes[a]);
      padding[a] = std::max(axes[a].before(), axes[a].after());
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

  // The tap of a window at a distance from its start along an axis, or -1 if there is none.
  TORCHEXT_HD Index tap(int a, Index distance) const {
    using Unsigned = std::make_unsigned_t<Index>;
    const TileAxis<Index>& axis = axes[a];
    Index tap = distance;
    if (axis.dilation != 1 && distance >= 0) {
      tap = dilations[a].quotient(distance);
      if (tap * axis.dilation != distance) return -1;
    }
    return static_cast<Unsigned>(tap) < static_cast<Unsigned>(axis.size) ? tap : Index{-1};
  }

  // The windows along an axis of a grid that reach one of `count` positions from `at` on.
  TORCHEXT_HD WindowRange<Index> windows_at(int a, Index at, Index count) const {
    const TileAxis<Index>& axis = axes[a];
    return {axis.windows_until(at - axis.reach(), strides[a]), axis.windows_until(at + count - 1, strides[a])};
  }

  // Calls body(window, taps) for each window of `range`, which is windows_at, that reads one of `count` positions from
  // `position` on; taps[i] is the tap that reads position + i, or -1. With kCopiesPadding, there is one position, and
  // windows that read a copy of it in the padding follow.
  template <bool kCopiesPadding, int kMost, class Body>
  TORCHEXT_HD void each_window(int a, WindowRange<Index> range, Index position, Index count, const Body& body) const {
    const PaddingMode copied = kCopiesPadding ? mode : PaddingMode::kConstant;
    const PaddingCopies<Index> copies = padding_copies(copied, position, axes[a].image, padding[a]);
    for (Index copy = -1; copy < copies.count(); ++copy) {
      const Index at = copy < 0 ? position : copies.position(copy);
      if (kCopiesPadding) range = windows_at(a, at, 1);
      for (Index window = range.begin; window < range.end; ++window) {
        const Index distance = at - axes[a].start(window);
        Index taps[kMost];
        bool reads = false;
#pragma unroll
        for (int i = 0; i < kMost; ++i) {
          taps[i] = i < count ? tap(a, distance + i) : Index{-1};
          reads = reads || taps[i] >= 0;
        }
        if (reads) body(window, taps);
      }
    }
  }

  TileAxis<Index> axes[kSpatial];
  Index padding[kSpatial];  // the positions of the padding that windows reach, on the side with more of them
  Divisor<Index> strides[kSpatial], dilations[kSpatial];
  Grid3<Index> grid;
  const int64_t* offsets;
  Index count, offset_columns, samples;  // count: of windows
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

// Products are rounded before they are added, as in the references. Otherwise the compiler would decide for each kernel
// and architecture whether to round them. Means of integers are often half way between two integers.
template <class T>
TORCHEXT_HD T add_product(T sum, T a, T b) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, float>)
    return __fadd_rn(sum, __fmul_rn(a, b));
  else
    return __dadd_rn(sum, __dmul_rn(a, b));
#else
  return sum + a * b;
#endif
}

// How the elements of a dtype are added with weights.
template <class T>
struct FloatElements {
  using Element = T;
  using Sum = Compute<T>;
  using Weight = Compute<T>;
  static TORCHEXT_HD void add(Sum& sum, T value, Weight weight) {
    sum = add_product(sum, weight, static_cast<Sum>(value));
  }
  static TORCHEXT_HD T mean(Sum sum, Weight total) { return static_cast<T>(sum / total); }
  static TORCHEXT_HD T result(Sum sum) { return static_cast<T>(sum); }
};

template <class T>
struct ComplexElements {
  using Element = Complex<T>;
  using Sum = Complex<T>;
  using Weight = T;
  static TORCHEXT_HD void add(Sum& sum, const Element& value, Weight weight) {
    sum = {add_product(sum.real, weight, value.real), add_product(sum.imaginary, weight, value.imaginary)};
  }
  static TORCHEXT_HD Element mean(const Sum& sum, Weight total) { return {sum.real / total, sum.imaginary / total}; }
  static TORCHEXT_HD Element result(const Sum& sum) { return sum; }
};

template <class T>
struct PlainElements {
  using Element = T;
  using Sum = SumOf<T>;
  using Weight = float;
  static TORCHEXT_HD void add(Sum& sum, T value, Weight) { sum += static_cast<Sum>(value); }
  static TORCHEXT_HD T mean(Sum sum, Weight) { return static_cast<T>(sum); }
  static TORCHEXT_HD T result(Sum sum) { return static_cast<T>(sum); }
};

// Weighted integers are added in float64.
template <class T>
struct IntegerElements {
  using Element = T;
  using Sum = double;
  using Weight = double;
  static TORCHEXT_HD void add(Sum& sum, T value, Weight weight) {
    sum = add_product(sum, weight, static_cast<double>(value));
  }
  static TORCHEXT_HD T mean(Sum sum, Weight total) { return result(sum / total); }
  static TORCHEXT_HD T result(Sum sum) { return integer_of<T>(rint(sum)); }
};

// The size of an image or of a window.
using Extent = int64_t TileAxis<int64_t>::*;

// The size of the tile of a block, each thread of which handles neighbouring rows of one column.
struct TileSizes {
  int64_t threads[kSpatial], size[kSpatial];

  TileSizes(const TileLayout& tiles, Extent extent, int64_t rows) {
    constexpr int64_t kColumns = 64;  // a wider tile is reached by more windows
    int64_t groups = 1, columns = 1;
    const auto grow = [&](int64_t& threads, int64_t most) {
      while (threads < most && groups * columns < kThreads) threads *= 2;
    };
    grow(columns, std::min(tiles.axes[2].*extent, kColumns));
    grow(groups, ceil_div(tiles.axes[1].*extent, rows));
    grow(columns, tiles.axes[2].*extent);
    threads[0] = size[0] = kThreads / (groups * columns);
    threads[1] = groups;
    size[1] = groups * rows;
    threads[2] = size[2] = columns;
  }
};

// Numbers the tiles of an image in groups of channels of samples.
template <class Index>
struct TileNumbers {
  TileNumbers(const TileLayout& layout, Extent extent, const int64_t (&size)[kSpatial], int64_t groups, int64_t samples)
      : tiles(ceil_div(layout.axes[1].*extent, size[1]), ceil_div(layout.axes[2].*extent, size[2])),
        by_depths(ceil_div(layout.axes[0].*extent, size[0])),
        by_groups(groups),
        count(static_cast<Index>(samples * groups) * by_depths.divisor * tiles.height.divisor * tiles.width.divisor) {
    for (int a = 0; a < kSpatial; ++a) sizes[a] = static_cast<Index>(size[a]);
  }

  TORCHEXT_HD void locate(Index tile, Index& sample, Index& group, Index (&first)[kSpatial]) const {
    tiles.coordinates(tile, first);
    group = by_depths.split(first[0]);
    sample = by_groups.split(group);
#pragma unroll
    for (int a = 0; a < kSpatial; ++a) first[a] *= sizes[a];
  }

  Grid3<Index> tiles;
  Divisor<Index> by_depths, by_groups;
  Index count, sizes[kSpatial];
};

// The elements of windows that are added up.
template <class Type, class Index>
struct AddedElements {
  template <class Task>
  AddedElements(const Task& task, int64_t planes)
      : elements(static_cast<const typename Type::Element*>(task.windows)),
        channel_stride(static_cast<Index>(task.channel_stride)),
        weight(static_cast<const typename Type::Weight*>(task.weight)),
        channels(static_cast<Index>(task.channels)),
        planes_an_item(static_cast<Index>(planes)) {
    for (int a = 0; a < kSpatial; ++a) strides[a] = static_cast<Index>(task.tap_strides[a]);
  }

  const typename Type::Element* elements;
  Index channel_stride, strides[kSpatial];
  const typename Type::Weight* weight;
  Index channels, planes_an_item;
};

// The taps of a window at the positions of a thread. A tap that does not exist is -1.
template <class Index, int kRows>
struct RowTaps {
  Index depth, rows[kRows], column;
};

// The rows of a thread: as many as fit into its registers.
template <class Type, class Index>
constexpr int kRowsAThread = std::max<int>(16 / std::max<int>(sizeof(typename Type::Sum), 4) * 4 / sizeof(Index), 1);

// The sums at the positions of a thread, which are neighbouring rows of one column, in up to kPlanes channels.
template <class Type, class Index, int kRows>
struct RowSums {
  using Element = typename Type::Element;
  using Sum = typename Type::Sum;
  using Weight = typename Type::Weight;
  static constexpr Index kNone = -1, kSeveral = -2;
  using Taps = RowTaps<Index, kRows>;

  TORCHEXT_HD RowSums(const DeviceLayout<Index>& tiles_, const AddedElements<Type, Index>& windows_, Index group,
                      Index first)
      : tiles(tiles_),
        windows(windows_),
        channel(group * windows.planes_an_item),
        planes(least(windows.planes_an_item, windows.channels - channel)),
        offset(first + channel * windows.channel_stride) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) single[i] = kNone;
  }

  // The taps of a window at the rows from `at` on.
  TORCHEXT_HD Taps taps(const Index (&start)[kSpatial], const Index (&at)[kSpatial]) const {
    Taps taps{tiles.tap(0, at[0] - start[0]), {}, tiles.tap(2, at[2] - start[2])};
#pragma unroll
    for (int i = 0; i < kRows; ++i) taps.rows[i] = tiles.tap(1, at[1] + i - start[1]);
    return taps;
  }

  // Adds elements of the window that begins at an offset from the first window. All loads come first, so that they run
  // at the same time.
  TORCHEXT_HD void add(Index window, const Taps& taps) {
    Index entries[kRows];
    Weight weights[kRows];
    Element values[kRows][kPlanes];
    window += offset + taps.depth * windows.strides[0] + taps.column * windows.strides[2];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      entries[i] = window + taps.rows[i] * windows.strides[1];
      weights[i] = taps.rows[i] < 0 ? Weight{0} : Weight{1};
    }
    if (windows.weight != nullptr) {
      const TileAxis<Index>* axes = tiles.axes;
      const Index column = taps.depth * axes[1].size * axes[2].size + taps.column;
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        if (taps.rows[i] >= 0) weights[i] = windows.weight[column + taps.rows[i] * axes[2].size];
    }
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      if (p >= planes) break;
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        if (taps.rows[i] >= 0) values[i][p] = windows.elements[entries[i] + p * windows.channel_stride];
    }
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      if (p >= planes) break;
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        if (weights[i] != 0) Type::add(sums[i][p], values[i][p], weights[i]);  // infinity times 0 would be a NaN
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (weights[i] == 0) continue;
      totals[i] += weights[i];
      single[i] = single[i] == kNone ? entries[i] : kSeveral;
    }
  }

  // Calls body(p, result) for each channel of a row. An element that only one window covers is returned unchanged.
  template <class Body>
  TORCHEXT_HD void each_result(int i, bool normalize, const Body& body) const {
    const auto each = [&](const auto& result) {
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        if (p >= planes) break;
        body(p, result(p));
      }
    };
    if (!normalize)
      each([&](int p) { return Type::result(sums[i][p]); });
    else if (totals[i] == 0)
      each([&](int) { return Type::result(Sum{}); });
    else if (single[i] >= 0)
      each([&](int p) { return windows.elements[single[i] + p * windows.channel_stride]; });
    else
      each([&](int p) { return Type::mean(sums[i][p], totals[i]); });
  }

  const DeviceLayout<Index>& tiles;
  const AddedElements<Type, Index>& windows;
  Index channel, planes;  // the first channel, and their number
  Index offset;           // of the first element of the first window
  Sum sums[kRows][kPlanes] = {};
  Weight totals[kRows] = {};
  Index single[kRows];  // the offset of the only element with a nonzero weight, kNone or kSeveral
};

// A window that reaches the tile of a block.
template <class Index>
struct alignas(16) ReachingWindow {
  Index window, start[kSpatial];
};

template <class Index>
constexpr size_t kListBytes = kThreads * sizeof(ReachingWindow<Index>) + kThreads / kWarp * sizeof(int);

// Calls body(window) in every thread of a block for each window of a sample that reaches the tile at `first`, in the
// order of the candidates. candidate(i) is a window or, if offsets have changed, any number.
template <class Index, class Candidate, class Body>
__device__ __forceinline__ void each_reaching_window(const DeviceLayout<Index>& tiles, Index sample,
                                                     const Index (&first)[kSpatial], const Index (&size)[kSpatial],
                                                     Index count, const Candidate& candidate, const Body& body) {
  auto* list = reinterpret_cast<ReachingWindow<Index>*>(torchext_shared);
  int* counts = reinterpret_cast<int*>(list + kThreads);  // for each warp
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  for (Index begin = 0; begin < count; begin += kThreads) {
    ReachingWindow<Index> mine{-1, {}};
    if (begin + thread < count) mine.window = candidate(begin + thread);
    bool reaches = mine.window >= 0 && mine.window < tiles.count;
    if (reaches) {
      reaches = tiles.locate(0, mine.window, mine.start) == sample;
#pragma unroll
      for (int a = 0; a < kSpatial; ++a)
        reaches = reaches && mine.start[a] < first[a] + size[a] && first[a] < mine.start[a] + tiles.axes[a].size;
    }
    const unsigned lanes = __ballot_sync(~0u, reaches);
    if (lane == 0) counts[warp] = __popc(lanes);
    __syncthreads();  // the list before this one has been read, too
    int before = __popc(lanes & ((1u << lane) - 1)), listed = 0;
#pragma unroll
    for (int other = 0; other < kThreads / kWarp; ++other) {
      before += other < warp ? counts[other] : 0;
      listed += counts[other];
    }
    if (reaches) list[before] = mine;
    __syncthreads();
    for (int i = 0; i < listed; ++i) body(list[i]);
  }
}

// Many windows at any position are sorted by the bins of the output that they reach. A bin is a number of whole tiles
// and at least as large as a window, so a window reaches at most two bins along each axis.
struct BinLayout {
  int64_t size[kSpatial], counts[kSpatial], bins, capacity;
  bool are_needed;

  BinLayout(const MergeTask& task, int64_t rows)
      : bins(task.groups()),
        capacity(task.tiles.windows),
        // a block lists so many windows at once, in less time than a kernel takes to start
        are_needed(!task.tiles.on_grid && task.tiles.windows > kThreads) {
    const TileSizes tile(task.tiles, &TileAxis<int64_t>::image, rows);
    for (int a = 0; a < kSpatial; ++a) {
      const TileAxis<int64_t>& axis = task.tiles.axes[a];
      size[a] = ceil_div(axis.size, tile.size[a]) * tile.size[a];
      counts[a] = ceil_div(axis.image, size[a]);
      bins *= counts[a];
      capacity *= std::min<int64_t>(2, counts[a]);
    }
  }

  // The number of indices in memory: where each bin starts, where it ends while the bins are filled, and the windows of
  // the bins.
  int64_t entries() const { return 2 * bins + 1 + capacity; }
};

template <class Index>
struct BinTask {
  DeviceLayout<Index> windows;
  Divisor<Index> size[kSpatial];
  Index counts[kSpatial], bins;
  Index *starts, *next, *entries;

  TORCHEXT_HD Index bin_of(Index sample, const Index (&at)[kSpatial]) const {
    return ((sample * counts[0] + at[0]) * counts[1] + at[1]) * counts[2] + at[2];
  }

  // Calls body(bin) for each bin that a window reaches.
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
      first[a] = inside ? size[a].quotient(begin) : 0;
      last[a] = inside ? size[a].quotient(end - 1) : -1;
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
  each_item(task.windows.count,
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
  each_item(task.windows.count, [&](Index window) {
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

template <class Type, class Index>
struct Merge {
  BinTask<Index> bins;  // has the positions of the windows too; has no bins for a grid and for few windows
  AddedElements<Type, Index> windows;
  Index sample_stride, window_strides[kSpatial];
  bool normalize;
  typename Type::Element* out;
  Index positions;
  TileNumbers<Index> tiles;
  Grid3<Index> threads;  // of a tile of windows at offsets

  // Writes up to `rows` rows of a thread.
  template <int kRows>
  __device__ __forceinline__ void write(const RowSums<Type, Index, kRows>& sums, Index sample,
                                        const Index (&at)[kSpatial], Index rows) const {
    const TileAxis<Index>* axes = sums.tiles.axes;
    if (at[0] >= axes[0].image || at[2] >= axes[2].image) return;
    const Index plane = sample * windows.channels + sums.channel;
    const Index first = plane * positions + (at[0] * axes[1].image + at[1]) * axes[2].image + at[2];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (i >= rows || at[1] + i >= axes[1].image) break;
      sums.each_result(i, normalize, [&](int p, const typename Type::Element& result) {
        out[first + p * positions + i * axes[2].image] = result;
      });
    }
  }
};

// For windows on a grid. An item is a tile of a few rows of one column; the thread computes which windows cover it.
// With copies in the padding, the tile is one position; that is another kernel because it needs more registers.
template <class Type, class Index, bool kCopiesPadding>
__global__ void __launch_bounds__(kThreads) merge_grid_kernel(const __grid_constant__ Merge<Type, Index> task) {
  constexpr int kRows = kCopiesPadding ? 1 : kRowsAThread<Type, Index>;
  const DeviceLayout<Index>& tiles = task.bins.windows;
  each_item(task.tiles.count, [&](Index tile) {
    Index sample, group, at[kSpatial];
    task.tiles.locate(tile, sample, group, at);
    const Index rows = task.tiles.sizes[1];
    WindowRange<Index> ranges[kSpatial];
#pragma unroll
    for (int a = 0; a < kSpatial; ++a) ranges[a] = tiles.windows_at(a, at[a], a == 1 ? rows : 1);
    RowSums<Type, Index, kRows> sums(tiles, task.windows, group, sample * task.sample_stride);
    tiles.template each_window<kCopiesPadding, 1>(0, ranges[0], at[0], 1, [&](Index d, const auto& tap_d) {
      tiles.template each_window<kCopiesPadding, kRows>(1, ranges[1], at[1], rows, [&](Index h, const auto& taps_h) {
        tiles.template each_window<kCopiesPadding, 1>(2, ranges[2], at[2], 1, [&](Index w, const auto& tap_w) {
          RowTaps<Index, kRows> taps{tap_d[0], {}, tap_w[0]};
#pragma unroll
          for (int i = 0; i < kRows; ++i) taps.rows[i] = taps_h[i];
          sums.add(d * task.window_strides[0] + h * task.window_strides[1] + w * task.window_strides[2], taps);
        });
      });
    });
    task.write(sums, sample, at, rows);
  });
}

// For windows at offsets. A block merges a tile from the list of the windows that reach it.
template <class Type, class Index>
__global__ void __launch_bounds__(kThreads) merge_offsets_kernel(const __grid_constant__ Merge<Type, Index> task) {
  using Sums = RowSums<Type, Index, kRowsAThread<Type, Index>>;
  const BinTask<Index>& bins = task.bins;
  const DeviceLayout<Index>& tiles = bins.windows;
  for (Index tile = static_cast<Index>(blockIdx.x); tile < task.tiles.count; tile += static_cast<Index>(gridDim.x)) {
    Index sample, group, first[kSpatial], at[kSpatial], bin_at[kSpatial];
    task.tiles.locate(tile, sample, group, first);
    task.threads.coordinates(static_cast<Index>(threadIdx.x), at);
    at[1] *= kRowsAThread<Type, Index>;
#pragma unroll
    for (int a = 0; a < kSpatial; ++a) at[a] += first[a];
    const Index own = tiles.own_sample ? sample : 0;
    const Index* candidates = nullptr;
    Index count = tiles.count;
    if (bins.entries != nullptr) {
#pragma unroll
      for (int a = 0; a < kSpatial; ++a) bin_at[a] = bins.size[a].quotient(first[a]);
      const Index bin = bins.bin_of(own, bin_at);
      candidates = bins.entries + bins.starts[bin];
      count = bins.starts[bin + 1] - bins.starts[bin];
    }
    Sums sums(tiles, task.windows, group, sample * task.sample_stride);
    each_reaching_window(
        tiles, own, first, task.tiles.sizes, count, [&](Index i) { return candidates == nullptr ? i : candidates[i]; },
        [&](const ReachingWindow<Index>& window) {
          const typename Sums::Taps taps = sums.taps(window.start, at);
          if (taps.depth >= 0 && taps.column >= 0) sums.add(window.window * task.window_strides[2], taps);
        });
    task.write(sums, sample, at, kRowsAThread<Type, Index>);
  }
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
  const int64_t bins = BinLayout(task, 1).entries();
  return std::max({out, last_offset(task), most_of(task.tiles), bins}) <= kMost32;
}

// `memory` holds layout.entries() indices, of which the first bins + 1 are 0, or is null if there are no bins.
template <class Index>
BinTask<Index> bin_task(const MergeTask& task, const BinLayout& layout, void* memory) {
  BinTask<Index> bins{.windows = DeviceLayout<Index>(task.tiles, task.samples),
                      .size = {},
                      .counts = {},
                      .bins = static_cast<Index>(layout.bins),
                      .starts = static_cast<Index*>(memory),
                      .next = nullptr,
                      .entries = nullptr};
  if (memory != nullptr) {
    bins.next = bins.starts + layout.bins + 1;
    bins.entries = bins.next + layout.bins;
  }
  for (int a = 0; a < kSpatial; ++a) {
    bins.size[a] = Divisor<Index>(layout.size[a]);
    bins.counts[a] = static_cast<Index>(layout.counts[a]);
  }
  return bins;
}

template <class Index, class Launch>
void run_bins(const BinTask<Index>& bins, const Launch& launch) {
  const int64_t blocks = blocks_for(bins.windows.count, launch);
  launch(count_bins_kernel<Index>, blocks, kThreads, 0, bins);
  launch(start_bins_kernel<Index>, 1, kThreads, kThreads * sizeof(Index), bins);
  launch(fill_bins_kernel<Index>, blocks, kThreads, 0, bins);
  launch(sort_bins_kernel<Index>, std::min<int64_t>(bins.bins, launch.processors * kBlocksAProcessor), kThreads, 0,
         bins);
}

template <class Type, class Index, class Launch>
void run_merge(const MergeTask& task, const BinTask<Index>& bins, const Launch& launch) {
  constexpr int kRows = kRowsAThread<Type, Index>;
  constexpr Extent kImage = &TileAxis<int64_t>::image;
  const TileLayout& windows = task.tiles;
  const bool copies = windows.mode != PaddingMode::kConstant;
  const int64_t positions = positions_of(task);
  if (task.samples * task.channels == 0) return;
  const int64_t planes = planes_an_item(task.channels, task.samples * positions, launch);
  const int64_t groups = ceil_div(task.channels, planes);
  TileSizes tile(windows, kImage, kRows);
  if (windows.on_grid) {
    // as many rows as leave enough tiles to fill the multiprocessors
    int64_t rows = copies ? 1 : std::min<int64_t>(kRows, windows.axes[1].image);
    while (rows > 1 && task.samples * groups * positions < rows * launch.processors * kThreadsAProcessor) rows /= 2;
    tile.size[0] = tile.size[2] = 1;
    tile.size[1] = rows;
  }
  Merge<Type, Index> merge{.bins = bins,
                           .windows = AddedElements<Type, Index>(task, planes),
                           .sample_stride = static_cast<Index>(task.sample_stride),
                           .window_strides = {},
                           .normalize = task.normalize,
                           .out = static_cast<typename Type::Element*>(task.out),
                           .positions = static_cast<Index>(positions),
                           .tiles = TileNumbers<Index>(windows, kImage, tile.size, groups, task.samples),
                           .threads = Grid3<Index>(tile.threads[1], tile.threads[2])};
  for (int a = 0; a < kSpatial; ++a) merge.window_strides[a] = static_cast<Index>(task.window_strides[a]);
  const int64_t tiles = merge.tiles.count;
  if (windows.on_grid)
    launch(copies ? merge_grid_kernel<Type, Index, true> : merge_grid_kernel<Type, Index, false>,
           blocks_for(tiles, launch), kThreads, 0, merge);
  else
    launch(merge_offsets_kernel<Type, Index>, std::min(tiles, launch.processors * kBlocksAProcessor), kThreads,
           kListBytes<Index>, merge);
}

}  // namespace torchext
