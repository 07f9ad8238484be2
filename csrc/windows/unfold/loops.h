#include "common/bits.h"
#include "common/dtypes.h"
#include "common/isa.h"
#include "common/runs.h"
#include "common/scratch.h"
#include "common/simd.h"
#include "common/transpose.h"
#include "windows/unfold/task.h"

namespace torchext::TORCHEXT_ISA {

struct Block {
  int64_t n, c, depth, row, rows, column, columns;
};

inline Block block_of(const Blocks& blocks, int64_t channels, int64_t item) {
  const int64_t planes = blocks.channels_inside ? channels : 1;
  int64_t remaining = item / planes;
  Block block;
  block.column = remaining % blocks.column_blocks * blocks.columns;
  remaining /= blocks.column_blocks;
  block.row = remaining % blocks.row_blocks * blocks.rows;
  remaining /= blocks.row_blocks;
  block.depth = remaining % blocks.depth;
  remaining /= blocks.depth;
  block.c = blocks.channels_inside ? item % planes : remaining % channels;
  block.n = blocks.channels_inside ? remaining : remaining / channels;
  block.rows = std::min(blocks.rows, blocks.row_count - block.row);
  block.columns = std::min(blocks.columns, blocks.column_count - block.column);
  return block;
}

// Whether it saves time to prefetch the run that follows each of several runs. The hardware prefetcher does not follow
// a short run to the place where it continues, and the processor waits for few cache lines at a time.
template <class U>
inline bool fetches_runs(int64_t runs, int64_t count) {
  constexpr int64_t kShortestRun = 128, kMostBytes = 2048;
  const int64_t bytes = count * int64_t{sizeof(U)};
  return bytes >= kShortestRun && runs * bytes <= kMostBytes;
}

// Reads rows of a padded plane: positions [first, first + length) of each row.
template <class U>
struct RowReader {
  const UnfoldTask& task;
  const U* plane;
  int64_t first, length;
  const U* outside;  // a row of padding
  bool in_place;     // rows inside the image need no copy

  RowReader(const UnfoldTask& task_, const Block& block, int64_t length_, const U* outside_)
      : task(task_),
        plane(static_cast<const U*>(task.image) + block.n * task.batch_stride + block.c * task.channel_stride),
        first(image_position(task.windows, 2, block.column, int64_t{0})),
        length(length_),
        outside(outside_),
        in_place(task.strides[2] == 1 && first >= 0 && first + length <= task.windows.image[2]) {}

  // The row of the image that row (z, y) of the padded image is a copy of, or null for constant padding.
  const U* row(int64_t z, int64_t y) const {
    z = padding_source(task.mode, z, task.windows.image[0]);
    y = padding_source(task.mode, y, task.windows.image[1]);
    return z < 0 || y < 0 ? nullptr : plane + z * task.strides[0] + y * task.strides[1];
  }

  void pad(const U* row, int64_t begin, int64_t end, U* to) const {
    if (task.mode == PaddingMode::kConstant) return fill(to + begin, end - begin, *outside);
    for (int64_t i = begin; i < end; ++i)
      to[i] = row[padding_source(task.mode, first + i, task.windows.image[2]) * task.strides[2]];
  }

  void copy(const U* row, U* to) const {
    const int64_t left = std::clamp<int64_t>(-first, 0, length);
    const int64_t right = std::clamp<int64_t>(task.windows.image[2] - first, left, length);
    const int64_t step = task.strides[2];
    pad(row, 0, left, to);
    if (step == 1)
      copy_run(row + first + left, right - left, to + left);
    else
      for (int64_t i = left; i < right; ++i) to[i] = row[(first + i) * step];
    pad(row, right, length, to);
  }

  // Returns the row as `length` consecutive elements. They are copied to `buffer` if they cannot be read in place.
  const U* read(int64_t z, int64_t y, U* buffer) const {
    const U* found = row(z, y);
    if (found == nullptr) return outside;
    if (in_place) return found + first;
    copy(found, buffer);
    return buffer;
  }
};

template <class U>
U* unfold_target(const UnfoldTask& task, const Block& block) {
  const auto& g = task.windows;
  return static_cast<U*>(task.out) +
         (((block.n * task.channels + block.c) * product(g.kernel) * g.grid[0] + block.depth) * g.grid[1] + block.row) *
             g.grid[2] +
         block.column;
}

// Transposes each row of the image directly into the output, one row of the kernel after another.
template <class U>
void unfold_direct(const UnfoldTask& task, const Block& block, U* scratch) {
  const auto& g = task.windows;
  const int64_t kernel = g.kernel[2], dilation = g.dilation[2], stride = g.stride[2];
  const int64_t windows = product(g.grid);
  const int64_t length = unfold_row_length(task, block.columns);
  const RowReader<U> reader(task, block, length, scratch);
  // Follows the row of padding, which is as long as a row of the largest block and is used for all blocks.
  U* const staged = scratch + unfold_row_length(task, task.blocks.columns);
  U* out = unfold_target<U>(task, block);
  const bool fetches = fetches_runs<U>(kernel, block.columns);
  // If a row has few windows, only a short part of each row of the image is read before the next row, which is
  // elsewhere in memory.
  const bool fetches_rows = reader.in_place && block.columns * int64_t{sizeof(U)} < 128;
  const int64_t below = g.dilation[1] * task.strides[1];
  for (int64_t kd = 0; kd < g.kernel[0]; ++kd) {
    const int64_t z = image_position(g, 0, block.depth, kd);
    for (int64_t kh = 0; kh < g.kernel[1]; ++kh, out += kernel * windows) {
      for (int64_t row = 0; row < block.rows; ++row) {
        const U* in = reader.read(z, image_position(g, 1, block.row + row, kh), staged);
        U* to = out + row * g.grid[2];
        if (fetches_rows)
          prefetch<0, 3>(in + (kh + 1 < g.kernel[1] ? below : task.channel_stride - kh * below), length);
        if (fetches && row + 1 < block.rows)
          for (int64_t kw = 0; kw < kernel; ++kw) prefetch<1>(to + kw * windows + g.grid[2], block.columns);
        if (dilation == 1)
          transpose(in, stride, block.columns, kernel, to, windows);
        else
          for (int64_t kw = 0; kw < kernel; ++kw, to += windows, in += dilation)
            for (int64_t i = 0; i < block.columns; ++i) to[i] = in[i * stride];
      }
    }
  }
}

// Splits each row once into the phases of the stride, so that the elements of each tap are one run.
template <class U>
struct PhaseRows {
  const RowReader<U>& reader;
  int64_t stride, phase;  // phase: the number of elements of a phase
  U* buffer;              // for one row
  U* next;                // where the next row is kept

  const U* read(int64_t z, int64_t y) {
    if (stride == 1 || reader.row(z, y) == nullptr) {
      const U* row = reader.read(z, y, next);
      if (row == next) next += phase;
      return row;
    }
    transpose(reader.read(z, y, buffer), stride, phase, stride, next, phase);
    next += phase * stride;
    return next - phase * stride;
  }
};

// If the task streams, the elements of each tap are first written to `run`.
template <class U>
void unfold_staged(const UnfoldTask& task, const Block& block, void* scratch, U* run) {
  const auto& g = task.windows;
  const int64_t stride = g.stride[2], dilation = g.dilation[2];
  const int64_t windows = product(g.grid);
  const int64_t length = unfold_row_length(task, block.columns), phase = length / stride;
  const int64_t span = unfold_row_span(g, block.rows), top = image_position(g, 1, block.row, int64_t{0});
  const U** rows = static_cast<const U**>(scratch);
  U* outside = reinterpret_cast<U*>(rows + (span + 1) / 2 * 2);
  fill(outside, length, bits_of<U>(task.value));
  const RowReader<U> reader(task, block, length, outside);
  U* out = unfold_target<U>(task, block);
  for (int64_t kd = 0; kd < g.kernel[0]; ++kd) {
    const int64_t z = image_position(g, 0, block.depth, kd);
    PhaseRows<U> phases{reader, stride, phase, outside + length, outside + 2 * length};
    for (int64_t i = 0; i < span; ++i) rows[i] = nullptr;
    for (int64_t kh = 0; kh < g.kernel[1]; ++kh) {
      const U** from = rows + kh * g.dilation[1];
      for (int64_t i = 0; i < block.rows * g.stride[1]; i += g.stride[1])
        if (from[i] == nullptr) from[i] = phases.read(z, top + kh * g.dilation[1] + i);
      for (int64_t kw = 0; kw < g.kernel[2]; ++kw, out += windows) {
        const int64_t tap = kw * dilation % stride * phase + kw * dilation / stride;
        if (!task.streams && block.rows < g.grid[1]) prefetch<1>(out + windows, block.rows * g.grid[2]);
        U* const to = task.streams ? run : out;
        for (int64_t row = 0; row < block.rows; ++row)
          copy_run(from[row * g.stride[1]] + tap, block.columns, to + row * g.grid[2]);
        if (task.streams) stream(run, block.rows * block.columns, out);
      }
    }
  }
}

// Reads each element on its own, so that the time does not depend on the distances between elements.
template <class U>
void unfold_sparse(const UnfoldTask& task, const Block& block) {
  const auto& g = task.windows;
  const U value = bits_of<U>(task.value);
  const RowReader<U> reader(task, block, 0, nullptr);
  U* out = unfold_target<U>(task, block);
  for (int64_t kd = 0; kd < g.kernel[0]; ++kd)
    for (int64_t kh = 0; kh < g.kernel[1]; ++kh)
      for (int64_t kw = 0; kw < g.kernel[2]; ++kw, out += product(g.grid))
        for (int64_t row = 0; row < block.rows; ++row) {
          const U* in = reader.row(image_position(g, 0, block.depth, kd), image_position(g, 1, block.row + row, kh));
          U* to = out + row * g.grid[2];
          for (int64_t i = 0; i < block.columns; ++i) {
            const int64_t x = padding_source(task.mode, image_position(g, 2, block.column + i, kw), g.image[2]);
            to[i] = in == nullptr || x < 0 ? value : in[x * task.strides[2]];
          }
        }
}

template <class U>
void unfold_blocks(const UnfoldTask& task, int64_t begin, int64_t end, void* scratch) {
  if (!task.sparse && writes_directly(task))
    fill(static_cast<U*>(scratch), unfold_row_length(task, task.blocks.columns), bits_of<U>(task.value));
  const auto run = torchext::scratch<U>("unfold", task.streams ? task.blocks.rows * task.blocks.columns : 0);
  for (int64_t item = begin; item < end; ++item) {
    const Block block = block_of(task.blocks, task.channels, item);
    if (task.sparse)
      unfold_sparse<U>(task, block);
    else if (writes_directly(task))
      unfold_direct(task, block, static_cast<U*>(scratch));
    else
      unfold_staged<U>(task, block, scratch, run.get());
  }
}

static void unfold(const UnfoldTask& task, int64_t begin, int64_t end, void* scratch) {
  with_bits(task.element_size, [&](auto bits) { unfold_blocks<decltype(bits)>(task, begin, end, scratch); });
}

// sum = add(sums[i], from[i]) for each lane. The pointers need not be aligned. The sum is an argument because returning
// a vector would have another ABI where the instruction set is narrower.
template <class Vector, class T, class Add>
inline void add_lanes_at(const T* from, const T* sums, Add add, Vector& sum) {
  Vector value;
  std::memcpy(&value, from, sizeof value);
  std::memcpy(&sum, sums, sizeof sum);
  add(sum, value);
}

// add(sums[i], from[i]) for each i. Runs are short, so the last vector overlaps its neighbour instead of leaving single
// elements. It is therefore computed before anything is stored.
template <class T, class Add>
inline void accumulate(const T* from, int64_t count, T* sums, Add add) {
  using Vector = Vec<T, 64 / sizeof(T)>;
  using Half = Vec<T, 32 / sizeof(T)>;
  constexpr int64_t lanes = 64 / sizeof(T), half = lanes / 2;
  if (count < half) {
    for (int64_t i = 0; i < count; ++i) add(sums[i], from[i]);
    return;
  }
  Vector sum;
  Half last, half_sum;
  add_lanes_at(from + count - half, sums + count - half, add, last);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    add_lanes_at(from + i, sums + i, add, sum);
    std::memcpy(sums + i, &sum, sizeof sum);
  }
  if (i + half < count) {
    add_lanes_at(from + i, sums + i, add, half_sum);
    std::memcpy(sums + i, &half_sum, sizeof half_sum);
  }
  if (i < count) std::memcpy(sums + count - half, &last, sizeof last);
}

// How the elements of a dtype are added: the type of the sums, how a run is added to sums, how sums are written to a
// run, and how sums are added to each other (SumOperations).
template <class T>
struct Plain {
  using Element = T;
  using Sum = T;
  using SumOperations = Plain;
  static void add(const T* from, int64_t count, T* sums) {
    accumulate(from, count, sums, [](auto& sum, const auto& value) { sum += value; });
  }
  static void write(const T* sums, int64_t count, T* to) { copy_run(sums, count, to); }
};

struct Bool : Plain<uint8_t> {
  using SumOperations = Bool;
  static void add(const uint8_t* from, int64_t count, uint8_t* sums) {
    accumulate(from, count, sums, [](auto& sum, const auto& value) { sum |= value; });
  }
  // Any byte but 0 is true.
  static void write(const uint8_t* sums, int64_t count, uint8_t* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = sums[i] != 0;
  }
};

template <class T>
struct Plain<Complex<T>> {
  using Element = Complex<T>;
  using Sum = Complex<T>;
  using SumOperations = Plain;
  static void add(const Sum* from, int64_t count, Sum* sums) { Plain<T>::add(&from->real, 2 * count, &sums->real); }
  static void write(const Sum* sums, int64_t count, Sum* to) { copy_run(sums, count, to); }
};

template <class T>
struct HalfPrecision {
  using Element = T;
  using Sum = float;
  using SumOperations = Plain<float>;
  static void add(const T* from, int64_t count, float* sums) {
    constexpr int64_t kRun = 256;
    float run[kRun];
    for (int64_t done = 0; done < count; done += kRun) {
      const int64_t length = std::min(kRun, count - done);
      to_float(from + done, run, length);
      Plain<float>::add(run, length, sums + done);
    }
  }
  static void write(const float* sums, int64_t count, T* to) { from_float(sums, to, count); }
};

// The rows of a block that a tap reads: every stride-th row from `first` on. `window` is the row of windows that reads
// the first of them.
struct TapRows {
  int64_t first, count, window;
};

inline TapRows tap_rows(const WindowGeometry<int64_t>& g, const Block& block, int64_t tap) {
  // `start` is the first row of the block, counted from the position that the tap reads in window row 0.
  const int64_t stride = g.stride[1], start = block.row - image_position(g, 1, int64_t{0}, tap);
  const int64_t first = start <= 0 ? 0 : (start + stride - 1) / stride;
  const int64_t end = std::min(g.grid[1], start + block.rows <= 0 ? 0 : (start + block.rows - 1) / stride + 1);
  return {first * stride - start, std::max<int64_t>(0, end - first), first};
}

// The columns of a block: positions [begin, end) of a row of the image, and the offset of `begin` from the start of the
// block's first unit.
struct RowPart {
  int64_t begin, end, offset;
};

inline RowPart row_part(const WindowGeometry<int64_t>& g, const Block& block, int64_t first_unit) {
  const int64_t start = (first_unit + block.column) * g.stride[2] - g.padding[2];
  const int64_t begin = std::max<int64_t>(0, start);
  return {begin, std::min(g.image[2], start + block.columns * g.stride[2]), begin - start};
}

template <class T>
const T* fold_source(const FoldTask& task, const Block& block) {
  return static_cast<const T*>(task.columns) + block.n * task.batch_stride + block.c * task.channel_stride;
}

template <class T>
T* fold_target(const FoldTask& task, const Block& block) {
  const int64_t* image = task.windows.image;
  return static_cast<T*>(task.out) +
         (((block.n * task.channels + block.c) * image[0] + block.depth) * image[1] + block.row) * image[2];
}

// The values that a tap of the kernel adds to a row of a block: one run, and its position in the sums.
template <class Type>
struct TapRun {
  const typename Type::Element* from;
  typename Type::Sum* to;
  int64_t count;

  void add(int64_t window_stride) const {
    if (window_stride == 1)
      Type::add(from, count, to);
    else
      for (int64_t w = 0; w < count; ++w) Type::add(from + w * window_stride, 1, to + w);
  }
};

// Where a block is a whole plane, so many taps of a row of the kernel are added alternately, one row of each at a time.
// The processor then fetches ahead from that many addresses at once, which takes 0.7 of the time of one tap after
// another. Where a block is a part of a plane, the next tap is prefetched instead. For each element, values are added
// in the order of the taps in both cases.
constexpr int64_t kInterleavedTaps = 8;

template <class Type>
void add_interleaved(const FoldTask& task, const Block& block, int64_t rows, TapRun<Type>* runs, int64_t taps) {
  const auto& g = task.windows;
  const int64_t next_from = g.grid[2] * task.window_stride, next_to = g.stride[1] * g.stride[2] * block.columns;
  for (int64_t row = 0; row < rows; ++row)
    for (TapRun<Type>* run = runs; run < runs + taps; ++run) {
      run->add(task.window_stride);
      run->from += next_from;
      run->to += next_to;
    }
}

// Adds one row of the kernel. Its taps are read from `from` on and added to `sums`.
template <class Type>
void add_kernel_row(const FoldTask& task, const Block& block, int64_t rows, const typename Type::Element* from,
                    typename Type::Sum* sums) {
  const auto& g = task.windows;
  const int64_t stride = g.stride[2], unit = task.first_unit + block.column;
  const bool whole = block.rows == g.image[1];
  const int64_t taps_at_once = whole ? kInterleavedTaps : 1;
  TapRun<Type> runs[kInterleavedTaps];
  int64_t taps = 0;
  for (int64_t kw = 0; kw < g.kernel[2]; ++kw, from += task.tap_stride) {
    const int64_t shift = kw * g.dilation[2] / stride, phase = kw * g.dilation[2] % stride;
    const int64_t first = std::max<int64_t>(0, unit - shift);
    const int64_t count = std::min(g.grid[2], unit + block.columns - shift) - first;
    if (count <= 0) continue;
    runs[taps++] = {from + first * task.window_stride, sums + phase * block.columns + first + shift - unit, count};
    if (!whole && task.window_stride == 1) prefetch<0>(from + first + task.tap_stride, rows * g.grid[2]);
    if (taps < taps_at_once) continue;
    add_interleaved(task, block, rows, runs, taps);
    taps = 0;
  }
  add_interleaved(task, block, rows, runs, taps);
}

// Adds all taps to the sums of a block. The sums are stored by phases of the stride, so that each tap adds one run to a
// row of them.
template <class Type>
void add_taps(const FoldTask& task, const Block& block, typename Type::Sum* sums) {
  const auto& g = task.windows;
  for (int64_t kd = 0; kd < g.kernel[0]; ++kd) {
    const int64_t depth = window_of(g, 0, block.depth, kd);
    if (depth < 0) continue;
    for (int64_t kh = 0; kh < g.kernel[1]; ++kh) {
      const TapRows rows = tap_rows(g, block, kh);
      if (rows.count == 0) continue;
      const auto* from = fold_source<typename Type::Element>(task, block) +
                         (kd * g.kernel[1] + kh) * g.kernel[2] * task.tap_stride +
                         (depth * g.grid[1] + rows.window) * g.grid[2] * task.window_stride;
      add_kernel_row<Type>(task, block, rows.count, from, sums + rows.first * g.stride[2] * block.columns);
    }
  }
}

// Calls body(row, sums of the row's positions) for the rows of a block, whose columns are whole units.
template <class Type, class Body>
void each_summed_row(const FoldTask& task, const Block& block, void* scratch, const Body& body) {
  using Sum = typename Type::Sum;
  const int64_t stride = task.windows.stride[2], length = stride * block.columns;
  Sum* line = static_cast<Sum*>(scratch);
  Sum* sums = line + length;
  fill(sums, block.rows * length, Sum{});
  add_taps<Type>(task, block, sums);
  for (int64_t row = 0; row < block.rows; ++row, sums += length) {
    if (stride > 1) transpose(sums, block.columns, stride, block.columns, line, stride);
    body(row, stride > 1 ? line : sums);
  }
}

template <class Type>
void fold_overlapping(const FoldTask& task, const Block& block, void* scratch) {
  const RowPart part = row_part(task.windows, block, task.first_unit);
  auto* out = fold_target<typename Type::Element>(task, block) + part.begin;
  each_summed_row<Type>(task, block, scratch, [&](int64_t row, const typename Type::Sum* sums) {
    Type::write(sums + part.offset, part.end - part.begin, out + row * task.windows.image[2]);
  });
}

// Adds the values that windows hold of positions [begin, end) of the rows of `source`, which are rows of the padded
// image, to the sums of the elements that these positions are copies of.
template <class Type>
void add_padded_columns(const FoldTask& task, Block source, const RowPart& part, int64_t begin, int64_t end,
                        typename Type::Sum* totals, void* scratch) {
  const auto& g = task.windows;
  const int64_t stride = g.stride[2], unit = (begin + g.padding[2]) / stride;
  source.column = unit - task.first_unit;
  source.columns = (end - 1 + g.padding[2]) / stride - unit + 1;
  const int64_t start = unit * stride - g.padding[2];
  each_summed_row<Type>(task, source, scratch, [&](int64_t row, const typename Type::Sum* sums) {
    const auto* from = sums + begin - start;
    auto* to = totals + row * (part.end - part.begin);
    if (begin == part.begin)
      Type::SumOperations::add(from, end - begin, to);
    else
      for (int64_t x = begin; x < end; ++x)
        Type::SumOperations::add(from + x - begin, 1, to + padding_source(task.mode, x, g.image[2]) - part.begin);
  });
}

// Adds whole rows of the padded image: the columns of the block itself, and the padding on either side.
template <class Type>
void add_padded_rows(const FoldTask& task, const Block& source, const RowPart& part, typename Type::Sum* totals,
                     void* scratch) {
  const int64_t size = task.windows.image[2], padding = task.windows.padding[2];
  add_padded_columns<Type>(task, source, part, part.begin, part.end, totals, scratch);
  const auto is_copy_of_part = [&](int64_t x) {
    const int64_t element = padding_source(task.mode, x, size);
    return element >= part.begin && element < part.end;
  };
  for (int64_t side : {-padding, size}) {
    int64_t begin = side, end = side + padding;
    while (begin < end && !is_copy_of_part(begin)) ++begin;
    while (begin < end && !is_copy_of_part(end - 1)) --end;
    if (begin < end) add_padded_columns<Type>(task, source, part, begin, end, totals, scratch);
  }
}

// Each element of a block is the sum over all positions of the padded image that are copies of it. The position in the
// image itself is added first. This order does not depend on the blocks.
template <class Type>
void fold_padded(const FoldTask& task, const Block& block, void* scratch) {
  using Sum = typename Type::Sum;
  const auto& g = task.windows;
  const RowPart part = row_part(g, block, task.first_unit);
  const int64_t width = part.end - part.begin;
  Sum* totals = static_cast<Sum*>(scratch);
  Sum* row_scratch = totals + block.rows * width;
  fill(totals, block.rows * width, Sum{});
  const auto depths = padding_copies(task.mode, block.depth, g.image[0], g.padding[0]);
  for (int64_t d = -1; d < depths.count(); ++d) {
    Block source = block;
    if (d >= 0) source.depth = depths.position(d);
    add_padded_rows<Type>(task, source, part, totals, row_scratch);
    source.rows = 1;
    for (int64_t row = 0; row < block.rows; ++row) {
      const auto rows = padding_copies(task.mode, block.row + row, g.image[1], g.padding[1]);
      for (int64_t i = 0; i < rows.count(); ++i) {
        source.row = rows.position(i);
        add_padded_rows<Type>(task, source, part, totals + row * width, row_scratch);
      }
    }
  }
  auto* out = fold_target<typename Type::Element>(task, block) + part.begin;
  for (int64_t row = 0; row < block.rows; ++row, totals += width, out += g.image[2]) Type::write(totals, width, out);
}

// Writes a row of the image from one row of windows: to[i * stride + tap] = from[tap, i].
template <class U>
void fold_disjoint_taps(const FoldTask& task, const U* from, int64_t count, U* to) {
  const int64_t taps = task.windows.kernel[2], stride = task.windows.stride[2];
  if (task.window_stride == 1)
    transpose(from, task.tap_stride, taps, count, to, stride);
  else if (task.tap_stride == 1)
    copy_rows(from, task.window_stride, count, taps, to, stride);
  else
    for (int64_t i = 0; i < count; ++i)
      for (int64_t tap = 0; tap < taps; ++tap)
        to[i * stride + tap] = from[tap * task.tap_stride + i * task.window_stride];
}

template <class U>
void fold_disjoint(const FoldTask& task, const Block& block, U* line) {
  const auto& g = task.windows;
  const int64_t stride = g.stride[2], length = stride * block.columns;
  const int64_t unit = task.first_unit + block.column;
  const int64_t count = std::min(g.grid[2] - unit, block.columns);
  const RowPart part = row_part(g, block, task.first_unit);
  const int64_t kd = (block.depth + g.padding[0]) % g.stride[0];
  const int64_t depth = kd < g.kernel[0] ? window_of(g, 0, block.depth, kd) : -1;
  const bool covered = count == block.columns && g.kernel[2] == stride;
  const bool whole = covered && part.end - part.begin == length;
  if (!covered) fill(line, length, U{});
  const bool fetches = task.window_stride == 1 && fetches_runs<U>(g.kernel[2], count);
  U* out = fold_target<U>(task, block) + part.begin;
  int64_t kh = (block.row + g.padding[1]) % g.stride[1], window = (block.row + g.padding[1]) / g.stride[1];
  for (int64_t row = 0; row < block.rows; ++row, ++kh, out += g.image[2]) {
    if (kh == g.stride[1]) {
      kh = 0;
      ++window;
    }
    if (depth < 0 || kh >= g.kernel[1] || window >= g.grid[1] || count <= 0) {
      fill(out, part.end - part.begin, U{});
      continue;
    }
    const U* from = fold_source<U>(task, block) + (kd * g.kernel[1] + kh) * g.kernel[2] * task.tap_stride +
                    ((depth * g.grid[1] + window) * g.grid[2] + unit) * task.window_stride;
    if (fetches && window + 1 < g.grid[1])
      for (int64_t kw = 0; kw < g.kernel[2]; ++kw)
        prefetch<0, 3>(from + kw * task.tap_stride + g.grid[2] * task.window_stride, count);
    fold_disjoint_taps(task, from, count, whole ? out : line);
    if (!whole) copy_run(line + part.offset, part.end - part.begin, out);
  }
}

// Adds a whole plane. Each element of the columns is added at its position, one tap after another.
template <class Type>
void fold_sparse(const FoldTask& task, const Block& block, typename Type::Sum* sums) {
  const auto& g = task.windows;
  const int64_t elements = product(g.image);
  fill(sums, elements, typename Type::Sum{});
  const auto* from = fold_source<typename Type::Element>(task, block);
  const auto position = [&](int axis, int64_t window, int64_t tap) {
    return padding_source(task.mode, image_position(g, axis, window, tap), g.image[axis]);
  };
  for (int64_t kd = 0; kd < g.kernel[0]; ++kd)
    for (int64_t kh = 0; kh < g.kernel[1]; ++kh)
      for (int64_t kw = 0; kw < g.kernel[2]; ++kw, from += task.tap_stride)
        for (int64_t depth = 0; depth < g.grid[0]; ++depth)
          for (int64_t row = 0; row < g.grid[1]; ++row) {
            const int64_t z = position(0, depth, kd), y = position(1, row, kh);
            if (z < 0 || y < 0) continue;
            const auto* run = from + (depth * g.grid[1] + row) * g.grid[2] * task.window_stride;
            for (int64_t column = 0; column < g.grid[2]; ++column) {
              const int64_t x = position(2, column, kw);
              if (x >= 0) Type::add(run + column * task.window_stride, 1, sums + (z * g.image[1] + y) * g.image[2] + x);
            }
          }
  Type::write(sums, elements, fold_target<typename Type::Element>(task, block));
}

template <class Body>
void each_block(const FoldTask& task, int64_t begin, int64_t end, const Body& body) {
  for (int64_t item = begin; item < end; ++item) body(block_of(task.blocks, task.channels, item));
}

static void fold(const FoldTask& task, int64_t begin, int64_t end, void* scratch) {
  if (task.disjoint)  // nothing is added, except to 0 if the task is sparse, so only the size of an element matters
    return with_bits(task.element_size, [&](auto bits) {
      using U = decltype(bits);
      using Type = Plain<std::conditional_t<std::is_same_v<U, Bits128>, Complex<uint64_t>, U>>;
      each_block(task, begin, end, [&](const Block& block) {
        if (task.sparse)
          fold_sparse<Type>(task, block, static_cast<typename Type::Sum*>(scratch));
        else
          fold_disjoint(task, block, static_cast<U*>(scratch));
      });
    });
  const auto fold_as = [&](auto type) {
    using Type = decltype(type);
    each_block(task, begin, end, [&](const Block& block) {
      if (task.sparse)
        fold_sparse<Type>(task, block, static_cast<typename Type::Sum*>(scratch));
      else if (task.mode == PaddingMode::kConstant)
        fold_overlapping<Type>(task, block, scratch);
      else
        fold_padded<Type>(task, block, scratch);
    });
  };
  with_added_type(task.dtype, [&](auto number) {
    using T = decltype(number);
    if constexpr (std::is_same_v<T, Truth>)
      fold_as(Bool{});
    else if constexpr (std::is_integral_v<T>)
      fold_as(Plain<std::make_unsigned_t<T>>{});  // integers wrap around, signed ones too
    else if constexpr (sizeof(T) == 2)
      fold_as(HalfPrecision<T>{});
    else
      fold_as(Plain<T>{});
  });
}

}  // namespace torchext::TORCHEXT_ISA
