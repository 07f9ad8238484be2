#include <cmath>
#include <vector>

#include "common/bits.h"
#include "common/dtypes.h"
#include "common/isa.h"
#include "common/runs.h"
#include "common/scratch.h"
#include "common/simd.h"
#include "common/transpose.h"
#include "windows/elements.h"
#include "windows/tiles/task.h"

namespace torchext::TORCHEXT_ISA {

// Extracts rows of a window's taps. `inside` are the taps of a row that are inside the image; the others read padding.
template <class U>
struct RowExtractor {
  const ExtractTask& task;
  TilePosition position;
  TapRange inside;
  U value;

  // The position is constructed in place. A copy would load all of it as one vector, and that load would wait for the
  // separate stores to it.
  RowExtractor(const ExtractTask& task_, int64_t sample, int64_t window)
      : task(task_),
        position(tile_position(task.tiles, sample, task.samples, window)),
        inside(taps_within(task.tiles.axes[2], position.start[2], 0, task.tiles.axes[2].image)),
        value(bits_of<U>(task.value)) {}

  int64_t source(int axis, int64_t tap) const {
    const TileAxis<int64_t>& a = task.tiles.axes[axis];
    return padding_source(task.tiles.mode, position.start[axis] + tap * a.dilation, a.image);
  }

  // The row of the image that these taps read in the first channel, or null for constant padding.
  const U* row(int64_t depth_tap, int64_t row_tap) const {
    if (position.sample < 0) return nullptr;
    const int64_t z = source(0, depth_tap), y = source(1, row_tap);
    if (z < 0 || y < 0) return nullptr;
    return static_cast<const U*>(task.image) + position.sample * task.sample_stride + z * task.strides[0] +
           y * task.strides[1];
  }

  // Calls body(tap, element or null) for each tap outside the image.
  template <class Body>
  void each_outside(const U* row, const Body& body) const {
    const auto taps = [&](int64_t tap, int64_t end) {
      for (; tap < end; ++tap) {
        const int64_t x = source(2, tap);
        body(tap, x < 0 ? nullptr : row + x * task.strides[2]);
      }
    };
    taps(0, inside.first);
    taps(inside.end, task.tiles.axes[2].size);
  }

  const U* first_inside(const U* row) const {
    return row + (position.start[2] + inside.first * task.tiles.axes[2].dilation) * task.strides[2];
  }

  int64_t step() const { return task.tiles.axes[2].dilation * task.strides[2]; }

  void extract(const U* row, U* out) const {
    if (row == nullptr) return fill(out, task.tiles.axes[2].size, value);
    each_outside(row, [&](int64_t tap, const U* element) { out[tap] = element == nullptr ? value : *element; });
    const U* from = first_inside(row);
    const int64_t count = inside.end - inside.first, by = step();
    if (by == 1)
      copy_run(from, count, out + inside.first);
    else
      for (int64_t i = 0; i < count; ++i) out[inside.first + i] = from[i * by];
  }

  void extract_rows(int64_t channel, int64_t first, int64_t end, U* out) const {
    const int64_t rows = task.tiles.axes[1].size;
    for (int64_t i = first; i < end; ++i, out += task.tiles.axes[2].size) {
      const U* from = row(i / rows, i % rows);
      extract(from == nullptr ? from : from + channel * task.channel_stride, out);
    }
  }

  // Whether the window is inside the image and its rows are runs of memory. Such a window is called whole.
  bool whole() const {
    for (int a = 0; a < kSpatial; ++a) {
      const TileAxis<int64_t>& axis = task.tiles.axes[a];
      if (position.start[a] < 0 || position.start[a] + axis.reach() > axis.image) return false;
    }
    return position.sample >= 0 && step() == 1;
  }

  // Copies rows [first, end) of a whole window.
  void copy_rows(int64_t channel, int64_t first, int64_t end, U* out) const {
    const TileAxis<int64_t>* axes = task.tiles.axes;
    const int64_t rows = axes[1].size, taps = axes[2].size;
    const int64_t row_step = axes[1].dilation * task.strides[1];
    const U* from = first_row(channel);
    // the hardware prefetcher does not follow to the next row
    const bool long_rows = taps * int64_t{sizeof(U)} >= 1024;
    int64_t depth = first == 0 ? 0 : first / rows, h = first - depth * rows;
    for (int64_t i = first; i < end; ++depth, h = 0) {
      const U* line = from + depth * depth_step() + h * row_step;
      const int64_t stop = std::min(end, (depth + 1) * rows);
      if (long_rows) {
        for (; i < stop; ++i, line += row_step, out += taps) {
          prefetch<0>(line + row_step, i + 1 < stop ? taps : 0);
          copy_run(line, taps, out);
        }
      } else {
        TORCHEXT_ISA::copy_rows(line, row_step, stop - i, taps, out, taps);
        out += (stop - i) * taps;
        i = stop;
      }
    }
  }

  // The first row of a whole window.
  const U* first_row(int64_t channel) const { return row(0, 0) + position.start[2] + channel * task.channel_stride; }
  int64_t depth_step() const { return task.tiles.axes[0].dilation * task.strides[0]; }

  // Extracts a row in all channels, which are next to each other in memory.
  void extract_channels(const U* row, U* out, int64_t pitch) const {
    const int64_t channels = task.channels, count = inside.end - inside.first;
    if (row == nullptr) {
      for (int64_t c = 0; c < channels; ++c) fill(out + c * pitch, task.tiles.axes[2].size, value);
      return;
    }
    each_outside(row, [&](int64_t tap, const U* element) {
      for (int64_t c = 0; c < channels; ++c) out[c * pitch + tap] = element == nullptr ? value : element[c];
    });
    if (count > 0) transpose(first_inside(row), step(), count, channels, out + inside.first, pitch);
  }
};

// Extracts items [first, end) of one window.
template <class U>
void extract_window(const RowExtractor<U>& extractor, int64_t first, int64_t end, U* out) {
  const ExtractTask& task = extractor.task;
  const int64_t rows = task.tiles.axes[1].size, row_taps = task.tiles.axes[2].size;
  const int64_t all_rows = task.tiles.axes[0].size * rows;
  if (task.channels_last) {
    for (int64_t item = first; item < end; ++item)
      extractor.extract_channels(extractor.row(item / rows, item % rows), out + item * row_taps, all_rows * row_taps);
    return;
  }
  const bool whole = extractor.whole();
  const int64_t parts = task.parts;
  for (int64_t item = first; item < end; ++item) {
    // For a small window, a division would take longer than the copy.
    const int64_t channel = parts == 1 ? item : item / parts, part = item - channel * parts;
    const int64_t row = part == 0 ? 0 : part * all_rows / parts;
    const int64_t last = part + 1 == parts ? all_rows : (part + 1) * all_rows / parts;
    U* to = out + (channel * all_rows + row) * row_taps;
    if (whole)
      extractor.copy_rows(channel, row, last, to);
    else
      extractor.extract_rows(channel, row, last, to);
  }
}

// Copies whole windows next to each other, one channel after another. A row of the image is then read once, not in
// pieces at different times. If the task streams, each is first written to `buffer`.
template <class U>
void copy_strip(const RowExtractor<U>& leftmost, int64_t window, int64_t count, int64_t first, int64_t end, U* out,
                U* buffer) {
  const ExtractTask& task = leftmost.task;
  const TileAxis<int64_t>* axes = task.tiles.axes;
  const int64_t rows = axes[1].size, taps = axes[2].size, all_taps = task.tiles.taps();
  const int64_t row_step = axes[1].dilation * task.strides[1], depth_step = leftmost.depth_step();
  const int64_t elements = task.channels * all_taps;
  for (int64_t channel = first; channel < end; ++channel) {
    const U* from = leftmost.first_row(channel) - leftmost.position.start[2];
    U* to = out + channel * all_taps;
    for (int64_t i = 0; i < count; ++i, to += elements) {
      const U* line = from + axes[2].start(window + i);
      U* const run = task.streams ? buffer : to;
      for (int64_t depth = 0; depth < axes[0].size; ++depth)
        copy_rows(line + depth * depth_step, row_step, rows, taps, run + depth * rows * taps, taps);
      if (task.streams) stream(run, all_taps, to);
    }
  }
}

// Extracts items [begin, end). Each strip of windows has the items of one window. The loop has no divisions, because
// for a small window a division would take longer than the copy.
template <class U>
void extract_strips(const ExtractTask& task, int64_t begin, int64_t end) {
  const TileLayout& tiles = task.tiles;
  const int64_t items = items_a_strip(task), elements = task.channels * tiles.taps(), in_row = tiles.in_row();
  const int64_t strips = strips_a_row(task), strip = begin / items, row = strip / strips;
  int64_t first = begin - strip * items, column = (strip - row * strips) * task.strip;
  int64_t sample = row * in_row / tiles.windows, window = row * in_row + column - sample * tiles.windows;
  U* out = static_cast<U*>(task.out) + (sample * tiles.windows + window) * elements;
  const auto buffer = scratch<U>("extract_windows", task.streams ? tiles.taps() : 0);
  while (begin < end) {
    const int64_t last = std::min(items, first + end - begin), count = std::min(task.strip, in_row - column);
    const auto extractor = [&](int64_t i) { return RowExtractor<U>(task, sample, window + i); };
    const RowExtractor<U> leftmost = extractor(0);
    if (count > 1 && leftmost.whole() && extractor(count - 1).whole()) {
      copy_strip(leftmost, column, count, first, last, out, buffer.get());
    } else {
      extract_window(leftmost, first, last, out);
      for (int64_t i = 1; i < count; ++i) extract_window(extractor(i), first, last, out + i * elements);
    }
    begin += last - first;
    first = 0;
    out += count * elements;
    window += count;
    column += count;
    if (column == in_row) column = 0;
    if (window == tiles.windows) {
      window = 0;
      ++sample;
    }
  }
}

static void extract(const ExtractTask& task, int64_t begin, int64_t end) {
  with_bits(task.element_size, [&](auto bits) { extract_strips<decltype(bits)>(task, begin, end); });
}

// A share is a window's weight divided by the sum of all weights at its position. It is exactly 1 if there is no other
// weight, so that the element is then unchanged.
template <class Weight>
void find_shares(const Weight* weights, const Weight* totals, const Weight* inverses, int64_t count, Weight* shares,
                 bool divides) {
  if (divides)
    return each_vector<Weight>(count, [&](auto lanes, int64_t i) {
      using V = Vec<Weight, lanes>;
      store<lanes>(shares + i,
                   load<lanes>(inverses + i) == 0 ? V{} : load<lanes>(weights + i) / load<lanes>(totals + i));
    });
  each_vector<Weight>(count, [&](auto lanes, int64_t i) {
    const Vec<Weight, lanes> weight = load<lanes>(weights + i);
    store<lanes>(shares + i, weight == load<lanes>(totals + i) ? Vec<Weight, lanes>{} + Weight(1)
                                                               : weight * load<lanes>(inverses + i));
  });
}

// Weighted integers are added in float64, which does not represent all 64-bit integers. So an element that only one
// window covers, where `windows` is 1, is written to the output directly.
template <class T>
struct IntegerElements {
  using Element = T;
  using Sum = double;
  using Weight = double;
  static constexpr bool kBlends = true;
  static constexpr bool kShares = false;

  static void add(const T* from, int64_t count, Sum* sums) {
    for (int64_t i = 0; i < count; ++i) sums[i] += static_cast<double>(from[i]);
  }

  // Calls body(i, product) for each element. Means are often half way between two integers. To give the same result on
  // every processor, products are rounded before they are added; two separate loops keep the compiler from fusing them
  // with the sum.
  template <class Body>
  static void each_product(const T* from, const Weight* weights, int64_t count, const Body& body) {
    constexpr int64_t kRun = 256;
    double products[kRun];
    for (int64_t done = 0; done < count; done += kRun) {
      const int64_t length = std::min(kRun, count - done);
      for (int64_t i = 0; i < length; ++i) products[i] = weights[done + i] * static_cast<double>(from[done + i]);
      for (int64_t i = 0; i < length; ++i) body(done + i, products[i]);
    }
  }

  static void add_weighted(const T* from, const Weight* weights, int64_t count, Sum* sums) {
    each_product(from, weights, count, [&](int64_t i, double product) { sums[i] += product; });
  }

  static void add_or_move(const T* from, const Weight* weights, const uint8_t* windows, int64_t count, Sum* sums,
                          T* out) {
    each_product(from, weights, count, [&](int64_t i, double product) {
      if (windows[i] == 1 && weights[i] != 0) out[i] = from[i];
      sums[i] += product;
    });
  }

  static void write(const Sum* sums, const Weight* totals, const uint8_t* windows, int64_t count, T* to) {
    for (int64_t i = 0; i < count; ++i) {
      if (windows != nullptr && windows[i] == 1) continue;
      // A total of 0 is stored as a NaN.
      const double mean = totals == nullptr ? sums[i] : std::isnan(totals[i]) ? 0 : sums[i] / totals[i];
      to[i] = integer_of<T>(std::nearbyint(mean));
    }
  }
};

// Elements that are never weighted: integers, whose sums wrap around, bools, which are merged by a logical or, and
// elements that are only moved. Windows of any dtype that do not overlap are moved as integers of the same size.
template <class T>
struct PlainElements {
  using Element = T;
  using Sum = T;
  using Weight = float;  // not used
  static constexpr bool kBlends = false;
  static constexpr bool kShares = false;

  static void add(const T* from, int64_t count, T* sums) {
    if constexpr (std::is_integral_v<T>)
      for (int64_t i = 0; i < count; ++i) sums[i] = static_cast<T>(sums[i] + from[i]);
  }
  static void write(const T* sums, const Weight*, const uint8_t*, int64_t count, T* to) { copy_run(sums, count, to); }
};

struct BoolElements : PlainElements<uint8_t> {
  static void add(const uint8_t* from, int64_t count, uint8_t* sums) {
    for (int64_t i = 0; i < count; ++i) sums[i] |= from[i] != 0;  // any byte but 0 is true
  }
};

// The windows of one axis that reach a block, as ranges in ascending order: the windows that cover it, and in every
// padding mode except the constant one those that reach into the padding on either side, where copies of its elements
// may be.
struct WindowRanges {
  TapRange at[3];

  WindowRanges() = default;
  WindowRanges(const TileAxis<int64_t>& axis, PaddingMode mode, int64_t begin, int64_t end) {
    const bool pads = mode != PaddingMode::kConstant;
    at[0] = {0, pads ? axis.windows_until(-1) : 0};
    at[1] = {axis.windows_until(begin - axis.reach()), axis.windows_until(end - 1)};
    at[2] = {pads ? axis.windows_until(axis.image - axis.reach()) : axis.grid, axis.grid};
    int64_t next = 0;
    for (TapRange& range : at) {
      range.first = std::max(range.first, next);
      next = range.end = std::max(range.end, range.first);
    }
  }

  template <class Body>
  void each(const Body& body) const {
    for (const TapRange& range : at)
      for (int64_t window = range.first; window < range.end; ++window) body(window);
  }
};

// The overlap of a window with a block along an axis: consecutive taps, and the position of the first of them in the
// block.
struct AxisOverlap {
  int64_t window, tap, count, position;
};

// Lists the overlaps of windows with positions [begin, end) of an axis, in the order of the windows.
inline void list_overlaps(const TileAxis<int64_t>& axis, PaddingMode mode, int64_t begin, int64_t end,
                          std::vector<AxisOverlap>& overlaps) {
  overlaps.clear();
  WindowRanges(axis, mode, begin, end).each([&](int64_t window) {
    const int64_t start = axis.start(window);
    const TapRange taps = taps_within(axis, start, begin, end);
    if (axis.dilation == 1 && taps.first < taps.end)
      overlaps.push_back({window, taps.first, taps.end - taps.first, start + taps.first - begin});
    for (int64_t tap = taps.first; axis.dilation > 1 && tap < taps.end; ++tap)
      overlaps.push_back({window, tap, 1, start + tap * axis.dilation - begin});
    if (mode == PaddingMode::kConstant) return;
    for (int64_t tap = 0; tap < axis.size; ++tap) {
      const int64_t position = start + tap * axis.dilation;
      if (position >= 0 && position < axis.image) continue;
      const int64_t source = padding_source(mode, position, axis.image);
      if (source >= begin && source < end) overlaps.push_back({window, tap, 1, source - begin});
    }
  });
}

// A block of the output and its overlaps with windows.
struct TileBlock {
  // A run of positions along an axis, from the end of the previous run on. `single`: only one window covers each of
  // them.
  struct Run {
    int64_t end;
    bool single;
  };

  // The overlap of a window with the block: consecutive taps of consecutive rows, and their position in the block.
  struct Overlap {
    int64_t tap[kSpatial], rows, count, row, column;
  };

  explicit TileBlock(const MergeTask& task) : task_(task), axes_(task.tiles.axes) {}

  void start(int64_t bin) {
    bin_ = bin;
    int64_t remaining = bin;
    column_ = remaining % task_.column_blocks * task_.columns;
    remaining /= task_.column_blocks;
    row_ = remaining % task_.row_blocks * task_.rows;
    remaining /= task_.row_blocks;
    depth_ = remaining % axes_[0].image;
    group_ = remaining / axes_[0].image;
    rows_ = std::min(task_.rows, axes_[1].image - row_);
    columns_ = std::min(task_.columns, axes_[2].image - column_);
    if (task_.tiles.on_grid) {
      const PaddingMode mode = task_.tiles.mode;
      list_overlaps(axes_[0], mode, depth_, depth_ + 1, overlaps_[0]);
      list_overlaps(axes_[1], mode, row_, row_ + rows_, overlaps_[1]);
      list_overlaps(axes_[2], mode, column_, column_ + columns_, overlaps_[2]);
      count_repeats();
      if (task_.copies_single) find_single_positions();
    }
  }

  bool is_empty() const { return !task_.tiles.on_grid && task_.bin_starts[bin_] == task_.bin_starts[bin_ + 1]; }

  // Calls body(offset of the window, overlap) for all overlaps, in the order of the windows.
  template <class Body>
  void each_overlap(const Body& body) const {
    const int64_t* stride = task_.window_strides;
    if (!task_.tiles.on_grid) {
      for (int64_t i = task_.bin_starts[bin_]; i < task_.bin_starts[bin_ + 1]; ++i)
        body(task_.bins[i] * stride[2], overlap_of(tile_position(task_.tiles, 0, task_.samples, task_.bins[i])));
      return;
    }
    for (const AxisOverlap& d : overlaps_[0])
      for (const AxisOverlap& h : overlaps_[1])
        for (const AxisOverlap& w : overlaps_[2])
          body(d.window * stride[0] + h.window * stride[1] + w.window * stride[2],
               Overlap{{d.tap, h.tap, w.tap}, h.count, w.count, h.position, w.position});
  }

  // Whether the elements of a row that only one window covers are copied.
  bool copies_in_row(int64_t row) const {
    return task_.copies_single && depth_is_single_ && row_is_single_[static_cast<size_t>(row)] != 0;
  }

  // The taps of an overlap's rows that are copied. Other windows cover the columns before and after them too.
  TapRange copied_taps(const Overlap& overlap) const {
    if (!task_.copies_single) return {0, 0};
    const int64_t begin = overlap.column, end = begin + overlap.count;
    auto run = std::partition_point(runs_.begin(), runs_.end(), [&](const Run& one) { return one.end <= begin; });
    int64_t first = begin;
    if (!run->single) first = std::min(end, run++->end);
    return {first - begin, (first < end ? std::min(end, run->end) : end) - begin};
  }

  // Calls body(row, x, count) for all runs of the block that are summed, not copied.
  template <class Body>
  void each_summed_run(const Body& body) const {
    for (int64_t row = 0; row < rows_; ++row) {
      if (!copies_in_row(row)) {
        body(row, int64_t{0}, columns_);
        continue;
      }
      int64_t x = 0;
      for (const Run& run : runs_) {
        if (!run.single) body(row, x, run.end - x);
        x = run.end;
      }
    }
  }

  int64_t at(int64_t row, int64_t x) const { return row * task_.columns + x; }

  const MergeTask& task_;
  const TileAxis<int64_t>* axes_;
  int64_t bin_, group_, depth_, row_, column_, rows_, columns_;
  std::vector<AxisOverlap> overlaps_[kSpatial];  // if windows are on a grid
  // For each overlap of a row: how many overlaps, from it on, are one stride apart and have the same taps.
  std::vector<int64_t> repeats_;
  // In a block where elements are copied: only one window covers a position whose depth, row and column are all single.
  bool depth_is_single_ = false;
  std::vector<uint8_t> row_is_single_;
  std::vector<Run> runs_;  // of columns

 private:
  // Returns the overlap with a window that reaches the block.
  Overlap overlap_of(const TilePosition& position) const {
    const int64_t* start = position.start;
    const TapRange rows = taps_within(axes_[1], start[1], row_, row_ + rows_);
    const TapRange columns = taps_within(axes_[2], start[2], column_, column_ + columns_);
    return {{depth_ - start[0], rows.first, columns.first},
            rows.end - rows.first,
            columns.end - columns.first,
            start[1] + rows.first - row_,
            start[2] + columns.first - column_};
  }

  void count_repeats() {
    const std::vector<AxisOverlap>& overlaps = overlaps_[2];
    repeats_.assign(overlaps.size(), 1);
    for (size_t i = overlaps.size(); i-- > 1;)
      if (overlaps[i - 1].tap == overlaps[i].tap && overlaps[i - 1].count == overlaps[i].count &&
          overlaps[i].position - overlaps[i - 1].position == axes_[2].stride)
        repeats_[i - 1] += repeats_[i];
  }

  // Finds the positions of the block that only one window covers.
  void find_single_positions() {
    depth_is_single_ = overlaps_[0].size() == 1;
    find_runs(overlaps_[1], rows_);
    row_is_single_.resize(static_cast<size_t>(rows_));
    int64_t row = 0;
    for (const Run& run : runs_)
      for (; row < run.end; ++row) row_is_single_[static_cast<size_t>(row)] = run.single;
    find_runs(overlaps_[2], columns_);
  }

  // The overlaps are sorted by their begin and by their end.
  void find_runs(const std::vector<AxisOverlap>& overlaps, int64_t positions) {
    runs_.clear();
    size_t begun = 0, ended = 0;
    for (int64_t at = 0; at < positions;) {
      while (begun < overlaps.size() && overlaps[begun].position <= at) ++begun;
      while (ended < begun && overlaps[ended].position + overlaps[ended].count <= at) ++ended;
      const bool single = begun - ended == 1;
      at = begun < overlaps.size() ? overlaps[begun].position : positions;
      if (ended < begun) at = std::min(at, overlaps[ended].position + overlaps[ended].count);
      if (runs_.empty() || runs_.back().single != single) runs_.push_back({at, single});
      runs_.back().end = at;
    }
  }
};

// Takes an array from the beginning of memory that several arrays share.
template <class T>
void take_array(char*& memory, int64_t count, T*& array) {
  array = reinterpret_cast<T*>(memory);
  memory += (count * int64_t{sizeof(T)} + 15) / 16 * 16;
}

// The weights of a block's positions, added up over its windows.
template <class Weight, bool kCountsWindows>
class TileWeights {
 public:
  using Overlap = TileBlock::Overlap;

  TileWeights(const TileBlock& block, char*& scratch) : block_(block), task_(block.task_), axes_(block.axes_) {
    const int64_t positions = task_.rows * task_.columns;
    take_array(scratch, positions, totals_);
    take_array(scratch, positions, inverses_);
    take_array(scratch, axes_[2].size, ones_);
    take_array(scratch, axes_[2].size, row_shares_);
    if constexpr (kCountsWindows) take_array(scratch, positions, windows_);
    fill(ones_, axes_[2].size, Weight{1});
  }

  const Weight* weights_of(const Overlap& overlap) const {
    if (task_.weight == nullptr) return ones_;
    const int64_t row = overlap.tap[0] * axes_[1].size + overlap.tap[1];
    return static_cast<const Weight*>(task_.weight) + row * axes_[2].size + overlap.tap[2];
  }

  int64_t pitch() const { return task_.weight == nullptr ? 0 : axes_[2].size; }

  // Returns the shares of a row. Calls have to go through the rows of all overlaps in order.
  const Weight* next_shares(const Weight* weights, int64_t i, int64_t count) {
    if (stores_shares_) return std::exchange(next_share_, next_share_ + count);
    find_shares(weights, totals_ + i, inverses_ + i, count, row_shares_, task_.divides);
    return row_shares_;
  }

  // Adds up the weights of all windows that reach the block.
  void add_up() {
    if (block_.is_empty()) return;
    block_.each_summed_run([&](int64_t row, int64_t x, int64_t count) {
      fill(totals_ + at(row, x), count, Weight{0});
      if constexpr (kCountsWindows) fill(windows_ + at(row, x), count, uint8_t{0});
    });
    block_.each_overlap([&](int64_t, const Overlap& overlap) {
      const Weight* weights = weights_of(overlap);
      const int64_t columns = task_.columns;
      const TapRange copied = block_.copied_taps(overlap);
      Weight* totals = totals_ + at(overlap.row, overlap.column);
      for (int64_t row = 0; row < overlap.rows; ++row, weights += pitch(), totals += columns) {
        const bool copies = block_.copies_in_row(overlap.row + row);
        if constexpr (kCountsWindows)  // also where elements are copied, though these counts are not used
          for (int64_t i = 0; i < overlap.count; ++i) {
            uint8_t& windows = windows_[totals - totals_ + i];
            windows = std::min<uint8_t>(2, static_cast<uint8_t>(windows + (weights[i] != 0)));
          }
        FloatElements<Weight>::add(weights, copies ? copied.first : overlap.count, totals);
        if (copies) FloatElements<Weight>::add(weights + copied.end, overlap.count - copied.end, totals + copied.end);
      }
    });
    block_.each_summed_run(
        [&](int64_t row, int64_t x, int64_t count) { invert(totals_ + at(row, x), count, inverses_ + at(row, x)); });
    if constexpr (!kCountsWindows) store_shares();
  }

  // Starts again with the first overlap.
  void rewind() { next_share_ = shares_.data(); }

  const Weight* totals(int64_t i) const { return totals_ + i; }
  const uint8_t* windows(int64_t i) const { return windows_ + i; }

 private:
  static constexpr int64_t kMostShares = 64 * 1024;  // they stay in the second-level cache
  // with fewer planes, storing shares takes longer than computing them again
  static constexpr int64_t kFewestPlanes = 8;

  // Stores the shares of all overlaps, to use them in one plane after another.
  void store_shares() {
    int64_t count = 0;
    block_.each_overlap([&](int64_t, const Overlap& overlap) { count += overlap.rows * overlap.count; });
    stores_shares_ = task_.planes() >= kFewestPlanes && count <= kMostShares;
    if (!stores_shares_) return;
    shares_.resize(static_cast<size_t>(count));
    Weight* shares = shares_.data();
    block_.each_overlap([&](int64_t, const Overlap& overlap) {
      const Weight* weights = weights_of(overlap);
      for (int64_t row = overlap.row; row < overlap.row + overlap.rows;
           ++row, weights += pitch(), shares += overlap.count) {
        const int64_t i = at(row, overlap.column);
        find_shares(weights, totals_ + i, inverses_ + i, overlap.count, shares, task_.divides);
      }
    });
  }

  // A total of 0 is replaced by a NaN, which no weight equals, and its inverse is 0. So shares are 0 where the weights
  // add up to 0.
  static void invert(Weight* totals, int64_t count, Weight* inverses) {
    each_vector<Weight>(count, [&](auto lanes, int64_t i) {
      using V = Vec<Weight, lanes>;
      const V total = load<lanes>(totals + i);
      store<lanes>(inverses + i, total == V{} ? V{} : 1 / total);
      store<lanes>(totals + i, total == V{} ? V{} + std::numeric_limits<Weight>::quiet_NaN() : total);
    });
  }

  int64_t at(int64_t row, int64_t x) const { return block_.at(row, x); }

  const TileBlock& block_;
  const MergeTask& task_;
  const TileAxis<int64_t>* axes_;
  Weight *totals_, *inverses_, *ones_, *row_shares_;
  uint8_t* windows_ = nullptr;  // windows with a nonzero weight at each position: 0, 1, or 2 for any more
  std::vector<Weight> shares_;
  const Weight* next_share_ = nullptr;
  bool stores_shares_ = false;
};

// Merges a block of the output in one plane after another. Whatever does not depend on the plane is computed once.
template <class Type>
class TileMerger : TileBlock {
 public:
  using Element = typename Type::Element;
  using Sum = typename Type::Sum;
  using Weight = typename Type::Weight;

  TileMerger(const MergeTask& task, char* scratch) : TileBlock(task), weights_(*this, scratch) {
    take_array(scratch, task.rows * task.columns, sums_);
    take_array(scratch, axes_[2].size, line_);
  }

  void run(int64_t begin, int64_t end) {
    const int64_t planes = task_.planes();
    for (int64_t item = begin; item < end; ++item) {
      if (item == begin || item % planes == 0) {
        start(item / planes);
        if constexpr (Type::kBlends)
          if (task_.normalize && !task_.disjoint) weights_.add_up();
      }
      merge(item % planes);
    }
  }

 private:
  static constexpr bool kMoves = std::is_same_v<Type, PlainElements<Element>>;  // see merge() at the end of this file
  static constexpr bool kAdds = !std::is_same_v<Element, Bits128>;
  static constexpr bool kCounts = Type::kBlends && !Type::kShares;
  void merge(int64_t plane) {
    const int64_t sample = task_.own_sample() ? group_ : plane / task_.channels;
    const int64_t channel = task_.own_sample() ? plane : plane % task_.channels;
    const Element* windows = static_cast<const Element*>(task_.windows) + channel * task_.channel_stride +
                             (task_.own_sample() ? 0 : sample * task_.sample_stride);
    const int64_t first = (sample * task_.channels + channel) * axes_[0].image + depth_;
    Element* out = static_cast<Element*>(task_.out) + (first * axes_[1].image + row_) * axes_[2].image + column_;
    const int64_t pitch = axes_[2].image;
    if (is_empty()) {
      for (int64_t row = 0; row < rows_; ++row) fill(out + row * pitch, columns_, Element{});
      return;
    }
    if constexpr (kMoves)
      if (task_.disjoint) {
        each_summed_run([&](int64_t row, int64_t x, int64_t count) { fill(out + row * pitch + x, count, Element{}); });
        return copy_overlaps(windows, out);
      }
    if constexpr (kAdds) add_overlaps(windows, out);
  }

  void add_overlaps(const Element* windows, Element* out) {
    const int64_t pitch = axes_[2].image;
    weights_.rewind();
    each_summed_run([&](int64_t row, int64_t x, int64_t count) { fill(sums_ + at(row, x), count, Sum{}); });
    each_overlap([&](int64_t window, const Overlap& overlap) { add_overlap(windows + window, overlap, out); });
    each_summed_run([&](int64_t row, int64_t x, int64_t count) {
      const Weight* totals = task_.normalize ? weights_.totals(at(row, x)) : nullptr;
      const uint8_t* covering = nullptr;
      if constexpr (kCounts)
        if (task_.normalize) covering = weights_.windows(at(row, x));
      Type::write(sums_ + at(row, x), totals, covering, count, out + row * pitch + x);
    });
  }

  const Element* first_of(const Element* window, const Overlap& overlap) const {
    for (int a = 0; a < kSpatial; ++a) window += overlap.tap[a] * task_.tap_strides[a];
    return window;
  }

  // For windows that do not overlap: copies rows of the output, each from the windows next to each other that it
  // crosses.
  void copy_overlaps(const Element* windows, Element* out) const {
    const int64_t *stride = task_.window_strides, *step = task_.tap_strides, pitch = axes_[2].image;
    for (const AxisOverlap& d : overlaps_[0])
      for (const AxisOverlap& h : overlaps_[1]) {
        const Element* from = windows + d.window * stride[0] + h.window * stride[1] + d.tap * step[0] + h.tap * step[1];
        prefetch_next(from, h.count);
        for (int64_t row = 0; row < h.count; ++row, from += step[1]) copy_row(from, out + (h.position + row) * pitch);
      }
  }

  void copy_row(const Element* from, Element* out) const {
    const int64_t stride = task_.window_strides[2], step = task_.tap_strides[2];
    for (size_t i = 0; i < overlaps_[2].size(); i += static_cast<size_t>(repeats_[i])) {
      const AxisOverlap& overlap = overlaps_[2][i];
      const Element* first = from + overlap.window * stride + overlap.tap * step;
      Element* to = out + overlap.position;
      if (step == 1) {
        copy_rows(first, stride, repeats_[i], overlap.count, to, axes_[2].stride);
        continue;
      }
      for (int64_t window = 0; window < repeats_[i]; ++window, first += stride, to += axes_[2].stride)
        for (int64_t tap = 0; tap < overlap.count; ++tap) to[tap] = first[tap * step];
    }
  }

  // Prefetches small windows of the next plane: the hardware prefetcher does not follow so many of them.
  void prefetch_next(const Element* from, int64_t rows) const {
    constexpr int64_t kSmall = 1024;
    const int64_t elements = rows * task_.tap_strides[1];
    if (elements * int64_t{sizeof(Element)} > kSmall) return;
    for (const AxisOverlap& w : overlaps_[2])
      prefetch<0, 3>(from + w.window * task_.window_strides[2] + task_.channel_stride, elements);
  }

  // Rows may be short, so members of the task that do not change between them are read once.
  void add_overlap(const Element* window, const Overlap& overlap, Element* out) {
    const int64_t step = task_.tap_strides[2], pitch = task_.tap_strides[1], out_pitch = axes_[2].image;
    const int64_t count = overlap.count, columns = task_.columns;
    const Element* from = first_of(window, overlap);
    const Weight* weights = weights_.weights_of(overlap);
    const int64_t weight_pitch = weights_.pitch();
    const TapRange copied = copied_taps(overlap);
    const uint8_t* single = task_.copies_single && depth_is_single_ ? row_is_single_.data() : nullptr;
    out += overlap.row * out_pitch + overlap.column;
    int64_t i = at(overlap.row, overlap.column);
    for (int64_t row = overlap.row; row < overlap.row + overlap.rows; ++row) {
      const Element* line = step == 1 || count == 1 ? from : gathered(from, step, count);
      const Weight* factors = weights;
      if constexpr (Type::kShares)
        if (task_.normalize) factors = weights_.next_shares(weights, i, count);
      if (single != nullptr && single[row] != 0) {
        copy_run(line + copied.first, copied.end - copied.first, out + copied.first);
        if (copied.first > 0) add(line, factors, i, copied.first, out);
        if (copied.end < count)
          add(line + copied.end, factors + copied.end, i + copied.end, count - copied.end, out + copied.end);
      } else {
        add(line, factors, i, count, out);
      }
      from += pitch;
      out += out_pitch;
      i += columns;
      weights += weight_pitch;
    }
  }

  const Element* gathered(const Element* from, int64_t step, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) line_[i] = from[i * step];
    return line_;
  }

  // `factors` are shares if the dtype has them, otherwise weights.
  void add(const Element* from, const Weight* factors, int64_t i, int64_t count, Element* out) {
    if constexpr (Type::kShares) {
      if (task_.blends())
        return task_.may_be_zero ? Type::template add_weighted<true>(from, factors, count, sums_ + i)
                                 : Type::template add_weighted<false>(from, factors, count, sums_ + i);
    } else if constexpr (Type::kBlends) {
      if (task_.normalize) return Type::add_or_move(from, factors, weights_.windows(i), count, sums_ + i, out);
      if (task_.weight != nullptr) return Type::add_weighted(from, factors, count, sums_ + i);
    }
    Type::add(from, count, sums_ + i);
  }

  TileWeights<Weight, kCounts> weights_;
  Sum* sums_;
  Element* line_;
};

static void merge(const MergeTask& task, int64_t begin, int64_t end, void* scratch) {
  const auto merge_as = [&](auto type) {
    TileMerger<decltype(type)>(task, static_cast<char*>(scratch)).run(begin, end);
  };
  if (task.disjoint)  // nothing is added, so only the size of an element matters
    return with_bits(task.element_size, [&](auto bits) { merge_as(PlainElements<decltype(bits)>{}); });
  with_added_type(task.dtype, [&](auto number) {
    using T = decltype(number);
    if constexpr (std::is_same_v<T, Truth>)
      merge_as(BoolElements{});
    else if constexpr (std::is_integral_v<T>)
      task.blends() ? merge_as(IntegerElements<T>{}) : merge_as(PlainElements<std::make_unsigned_t<T>>{});
    else if constexpr (kIsComplex<T>)
      merge_as(ComplexElements<decltype(number.real)>{});
    else
      merge_as(FloatElements<T>{});
  });
}

}  // namespace torchext::TORCHEXT_ISA
