#include <cmath>

#include "cam/pool/geometry.h"
#include "cam/pool/task.h"
#include "common/isa.h"
#include "common/simd.h"

namespace torchext::TORCHEXT_ISA {

// Rows whose entries are summed, and the second operand of CamEntry: the other data, or one factor per row or column.
template <class T>
struct CamRows {
  const T* data;
  int64_t stride;
  const T* other;
  int64_t other_stride;
  const Compute<T>* factors;
  Compute<T> data_floor, product_floor;

  CamRows from_row(int64_t r, bool factor_a_row) const {
    return {data + r * stride, stride,       other + r * other_stride, other_stride, factors + (factor_a_row ? r : 0),
            data_floor,        product_floor};
  }
};

template <class T>
constexpr Compute<T> floor_of(bool rectify) {
  return rectify ? 0 : -std::numeric_limits<Compute<T>>::infinity();
}

// Returns a NaN unchanged.
template <class V>
V at_least(V value, V floor) {
  return value < floor ? floor : value;
}

template <CamEntry kEntry, int Lanes, class T>
Vec<Compute<T>, Lanes> add_entry(Vec<Compute<T>, Lanes> sum, Vec<Compute<T>, Lanes> x, Vec<Compute<T>, Lanes> second,
                                 const CamRows<T>& rows) {
  using C = Compute<T>;
  using V = Vec<C, Lanes>;
  if constexpr (kEntry == CamEntry::kPlain) {
    return sum + x;
  } else if constexpr (kEntry == CamEntry::kWeighted) {
    return multiply_add<C, Lanes>(second, x, sum);
  } else if constexpr (kEntry == CamEntry::kProduct) {
    return sum + at_least<V>(at_least<V>(x, V{} + rows.data_floor) * second, V{} + rows.product_floor);
  } else {
    const V denominator = multiply_add<C, Lanes>(second, x, V{} + C(2));
    const V part = x <= 0 ? V{} : x / denominator;
    return sum + (denominator == 0 ? V{} : part);
  }
}

// out[r] = sum of the entries of row r, for `Rows` rows at once, which have at least `Lanes` columns. The function is
// inlined because arguments on the stack are copied by wider loads than the stores that wrote them, and such a load
// waits until all earlier rows have come from memory.
template <CamEntry kEntry, int Lanes, int Rows, class T>
__attribute__((always_inline)) inline void sum_rows(CamRows<T> rows, int64_t columns, Compute<T>* out) {
  using C = Compute<T>;
  using V = Vec<C, Lanes>;
  const auto added = [&](V sum, int r, int64_t j) {
    V second{};
    if constexpr (kEntry == CamEntry::kWeighted) second = load<Lanes>(rows.factors + j);
    if constexpr (kEntry == CamEntry::kProduct) second = load<Lanes>(rows.other + r * rows.other_stride + j);
    if constexpr (kEntry == CamEntry::kPlusPlus) second = rows.factors[r] - V{};
    return add_entry<kEntry, Lanes, T>(sum, load<Lanes>(rows.data + r * rows.stride + j), second, rows);
  };
  V sum[Rows];
  for (int r = 0; r < Rows; ++r) sum[r] = added(V{}, r, 0);
  int64_t j = Lanes;
  for (; j + Lanes <= columns; j += Lanes)
    for (int r = 0; r < Rows; ++r) sum[r] = added(sum[r], r, j);
  if constexpr (Lanes > 1)
    if (j < columns)  // the last vector overlaps what is already summed
      for (int r = 0; r < Rows; ++r) sum[r] += keep_last<C, Lanes>(added(V{}, r, columns - Lanes), columns - j);
  if constexpr (Rows == 4 && Lanes >= 4)
    store<4>(out, add_lanes<C, Lanes>(sum[0], sum[1], sum[2], sum[3]));
  else
    for (int r = 0; r < Rows; ++r) out[r] = add_lanes<C, Lanes>(sum[r]);
}

// out[j] += sum of the entries of column j, over `Rows` rows.
template <CamEntry kEntry, int Lanes, int Rows, class T>
__attribute__((always_inline)) inline void add_rows(CamRows<T> rows, int64_t columns, Compute<T>* out) {
  using C = Compute<T>;
  using V = Vec<C, Lanes>;
  constexpr bool kWeighted = kEntry == CamEntry::kWeighted;
  C factor[Rows];  // a copy, because the compiler cannot exclude that the factors share memory with `out`
  for (int r = 0; r < Rows; ++r) factor[r] = kWeighted ? rows.factors[r] : 0;
  const auto added = [&](int64_t j) {
    V sum{}, second{};
    if constexpr (kEntry == CamEntry::kPlusPlus) second = load<Lanes>(rows.factors + j);
    for (int r = 0; r < Rows; ++r) {
      if constexpr (kWeighted) second = factor[r] - V{};
      if constexpr (kEntry == CamEntry::kProduct) second = load<Lanes>(rows.other + r * rows.other_stride + j);
      sum = add_entry<kEntry, Lanes, T>(sum, load<Lanes>(rows.data + r * rows.stride + j), second, rows);
    }
    return load<Lanes>(out + j) + sum;
  };
  // The last vector overlaps the one before it. It is computed before that one is stored, and the two store the same
  // values where they overlap.
  const int64_t last = columns - Lanes;
  const V tail = added(last);
  for (int64_t j = 0; j < last; j += Lanes) store<Lanes>(out + j, added(j));
  store<Lanes>(out + last, tail);
}

// Calls body(0), …, body(count - 1), each with its number as a type, so that arrays that it indexes stay in registers.
template <int count, class Body>
__attribute__((always_inline)) inline void repeat(const Body& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, i>{}), ...);
  }(std::make_integer_sequence<int, count>{});
}

// The same as add_rows with kWeighted, for several targets: their factors are `factor_stride` apart and their sums
// `out_stride`. Each vector of a row is loaded once for all targets. `columns` are the first columns of `Vectors`
// vectors.
template <int Lanes, int Rows, int Targets, int Vectors, class T>
__attribute__((always_inline)) inline void add_rows_to_targets(const CamRows<T>& rows, const int64_t* columns,
                                                               int64_t factor_stride, Compute<T>* out,
                                                               int64_t out_stride) {
  using C = Compute<T>;
  using V = Vec<C, Lanes>;
  V sum[Targets * Vectors] = {};
  for (int r = 0; r < Rows; ++r) {
    V x[Vectors];
    repeat<Vectors>(
        [&](auto v) __attribute__((always_inline)) { x[v] = load<Lanes>(rows.data + r * rows.stride + columns[v]); });
    repeat<Targets>([&](auto t) __attribute__((always_inline)) {
      const V factor = rows.factors[t * factor_stride + r] - V{};
      repeat<Vectors>([&](auto v) __attribute__((always_inline)) {
        sum[t * Vectors + v] = multiply_add<C, Lanes>(factor, x[v], sum[t * Vectors + v]);
      });
    });
  }
  repeat<Targets>([&](auto t) __attribute__((always_inline)) {
    C* const to = out + t * out_stride;
    repeat<Vectors>([&](auto v)
                        __attribute__((always_inline)) { sum[t * Vectors + v] += load<Lanes>(to + columns[v]); });
    repeat<Vectors>([&](auto v)
                        __attribute__((always_inline)) { store<Lanes>(to + columns[v], sum[t * Vectors + v]); });
  });
}

template <int Lanes, int Targets, class T>
void add_all_rows_to_targets(const CamRows<T>& rows, int64_t count, int64_t columns, int64_t factor_stride,
                             Compute<T>* out, int64_t out_stride) {
  constexpr int kRows = 8, kVectors = 4;
  const auto add = [&](auto vectors, const int64_t* column) {
    int64_t r = 0;
    for (; r + kRows <= count; r += kRows)
      add_rows_to_targets<Lanes, kRows, Targets, vectors(), T>(rows.from_row(r, true), column, factor_stride, out,
                                                               out_stride);
    for (; r < count; ++r)
      add_rows_to_targets<Lanes, 1, Targets, vectors(), T>(rows.from_row(r, true), column, factor_stride, out,
                                                           out_stride);
  };
  // The last vector overlaps the one before it. Vectors are divided into groups of about equal size, so that both are
  // in the same group and the sums of both are loaded before either is stored.
  constexpr int kMost = kMostVectors<Compute<T>, Lanes>;
  const int64_t vectors = (columns + Lanes - 1) / Lanes, groups = (vectors + kVectors - 1) / kVectors;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t first = vectors * group / groups, after = vectors * (group + 1) / groups;
    int64_t column[kVectors];
    for (int64_t v = first; v < after; ++v) column[v - first] = std::min(v * Lanes, columns - Lanes);
    switch (after - first) {
      case 1:
        add(std::integral_constant<int, 1>{}, column);
        break;
      case 2:
        add(std::integral_constant<int, 2>{}, column);
        break;
      case 3:
        if constexpr (kMost >= 3) add(std::integral_constant<int, 3>{}, column);
        break;
      default:
        if constexpr (kMost >= kVectors) add(std::integral_constant<int, kVectors>{}, column);
    }
  }
}

template <CamEntry kEntry, int Lanes, class T>
void sum_each_row(const CamRows<T>& rows, int64_t count, int64_t columns, Compute<T>* out) {
  constexpr int kRows = 4;
  constexpr bool kFactorARow = kEntry == CamEntry::kPlusPlus;
  if (count < kRows) {
    for (int64_t r = 0; r < count; ++r) sum_rows<kEntry, Lanes, 1, T>(rows.from_row(r, kFactorARow), columns, out + r);
    return;
  }
  // The processor finishes short rows before its prefetcher has detected the access pattern.
  constexpr int64_t kLine = 64 / sizeof(T), kShortRow = 8 * kLine, kAhead = 32 * kLine;
  const int64_t ahead = columns <= kShortRow ? kAhead / columns : 0;
  for (int64_t next = 0; next < count; next += kRows) {
    // The last group overlaps the one before it. All rows are then summed in the same order, so that equal rows have
    // equal sums and the normalisation detects a constant map.
    const int64_t r = std::min(next, count - kRows);
    for (int64_t later = r + ahead; ahead && later < r + ahead + kRows; ++later)
      for (int64_t j = 0; j < columns; j += kLine) __builtin_prefetch(rows.data + later * rows.stride + j);
    sum_rows<kEntry, Lanes, kRows, T>(rows.from_row(r, kFactorARow), columns, out + r);
  }
}

template <CamEntry kEntry, int Lanes, class T>
void add_all_rows(const CamRows<T>& rows, int64_t count, int64_t columns, Compute<T>* out) {
  constexpr int kRows = 8;
  constexpr bool kFactorARow = kEntry == CamEntry::kWeighted;
  int64_t r = 0;
  for (; r + kRows <= count; r += kRows) add_rows<kEntry, Lanes, kRows, T>(rows.from_row(r, kFactorARow), columns, out);
  for (; r < count; ++r) add_rows<kEntry, Lanes, 1, T>(rows.from_row(r, kFactorARow), columns, out);
}

// out[r] = sums along rows, or out[j] += sums along columns.
template <CamEntry kEntry, class T>
void sum_block(bool along_rows, const CamRows<T>& rows, int64_t count, int64_t columns, Compute<T>* out) {
  with_lanes<Compute<T>>(columns, [&](auto lanes) {
    if (along_rows)
      sum_each_row<kEntry, lanes(), T>(rows, count, columns, out);
    else
      add_all_rows<kEntry, lanes(), T>(rows, count, columns, out);
  });
}

template <class T>
void sum_block(CamEntry entry, bool along_rows, const CamRows<T>& rows, int64_t count, int64_t columns,
               Compute<T>* out) {
  switch (entry) {
    case CamEntry::kPlain:
      return sum_block<CamEntry::kPlain, T>(along_rows, rows, count, columns, out);
    case CamEntry::kWeighted:
      return sum_block<CamEntry::kWeighted, T>(along_rows, rows, count, columns, out);
    case CamEntry::kProduct:
      return sum_block<CamEntry::kProduct, T>(along_rows, rows, count, columns, out);
    case CamEntry::kPlusPlus:
      return sum_block<CamEntry::kPlusPlus, T>(along_rows, rows, count, columns, out);
  }
}

template <class T>
const T* at(const CamMatrices& matrices, int64_t target, int64_t sample, int64_t row, int64_t column) {
  return static_cast<const T*>(matrices.data) + target * matrices.target_stride + sample * matrices.batch_stride +
         row * matrices.row_stride + column;
}

template <class T>
void sum_items(const CamSum& task, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const bool factor_a_row = task.along_rows == (task.entry == CamEntry::kPlusPlus);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t column_block = item % task.column_blocks;
    const int64_t row_block = item / task.column_blocks % task.row_blocks;
    const int64_t sample = item / task.column_blocks / task.row_blocks;
    const int64_t row = task.rows * row_block / task.row_blocks;
    const int64_t rows = task.rows * (row_block + 1) / task.row_blocks - row;
    const int64_t column = task.columns * column_block / task.column_blocks;
    const int64_t columns = task.columns * (column_block + 1) / task.column_blocks - column;
    for (int64_t target = 0; target < task.targets; ++target) {  // the data that targets share stay in the cache
      const C* factors = static_cast<const C*>(task.factors);
      if (factors)
        factors +=
            target * task.factor_target_stride + sample * task.factor_batch_stride + (factor_a_row ? row : column);
      const CamRows<T> data{at<T>(task.matrices, target, sample, row, column),
                            task.matrices.row_stride,
                            at<T>(task.others, target, sample, row, column),
                            task.others.row_stride,
                            factors,
                            floor_of<T>(task.rectify_data),
                            floor_of<T>(task.rectify_product)};
      const int64_t matrix = target * task.batch + sample;
      C* out = static_cast<C*>(task.out);
      if (task.along_rows) {
        out += (matrix * task.column_blocks + column_block) * task.rows + row;
      } else {
        out += (matrix * task.row_blocks + row_block) * task.columns + column;
        std::fill(out, out + columns, C{});
      }
      sum_block<T>(task.entry, task.along_rows, data, rows, columns, out);
    }
  }
}

// Computes the weights of channels from their sums.
template <class T>
void weights_of_sums(CamMethod method, int64_t positions, const Compute<T>* activation_sums, int64_t count,
                     Compute<T>* sums) {
  using C = Compute<T>;
  if (method == CamMethod::kPlusPlus) return;
  each_vector<C>(count, [&](auto lanes, int64_t i) {
    using V = Vec<C, lanes()>;
    const V sum = load<lanes()>(sums + i);
    if (method == CamMethod::kGradCam) return store<lanes()>(sums + i, sum / static_cast<C>(positions));
    const V activation_sum = load<lanes()>(activation_sums + i);
    store<lanes()>(sums + i, activation_sum == 0 ? V{} : sum / activation_sum);
  });
}

// The weights of some channels of one target. The channels are rows.
template <class T>
void weigh_channels(CamMethod method, const CamRows<T>& rows, int64_t channels, int64_t positions,
                    Compute<T>* weights) {
  const CamEntry entry = method == CamMethod::kGradCam    ? CamEntry::kPlain
                         : method == CamMethod::kXGradCam ? CamEntry::kProduct
                                                          : CamEntry::kPlusPlus;
  sum_block<T>(entry, true, rows, channels, positions, weights);
  weights_of_sums<T>(method, positions, rows.factors, channels, weights);
}

template <class T>
void pool_channels(const CamChannels& task, int64_t begin, int64_t end) {
  using C = Compute<T>;
  constexpr int64_t kTile = 4096;                           // positions whose sums stay in the first-level cache
  constexpr int kTargetsAtOnce = kSimdBytes == 64 ? 4 : 1;  // targets whose sums fit into the registers
  const bool is_given = task.method == CamMethod::kWeightsGiven, multiplied = multiplies(task.method);
  const bool computes_weights = !multiplied && !is_given;
  C activation_sums[kCamMostChunk];
  const C data_floor = floor_of<T>(task.method == CamMethod::kLayerCam);
  const C product_floor = floor_of<T>(task.method == CamMethod::kElementwise);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t sample = item / task.blocks, block = item % task.blocks;
    const int64_t first = task.channels * block / task.blocks, last = task.channels * (block + 1) / task.blocks;
    const auto map_of = [&](int64_t target) {
      return static_cast<C*>(task.out) + ((target * task.batch + sample) * task.blocks + block) * task.positions;
    };
    for (int64_t target = 0; target < task.targets; ++target) std::fill_n(map_of(target), task.positions, C{});
    const int64_t chunks = (last - first + task.chunk - 1) / task.chunk;
    // The chunks have equal sizes, because a short chunk would take longer to start than to process.
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t channel = first + (last - first) * chunk / chunks;
      const int64_t channels = first + (last - first) * (chunk + 1) / chunks - channel;
      const T* activations = at<T>(task.activations, 0, sample, channel, 0);
      const int64_t stride = task.activations.row_stride;
      const CamRows<T> plain{activations, stride, nullptr, 0, nullptr, 0, 0};
      if (needs_activation_sums(task.method))
        sum_block<CamEntry::kPlain, T>(true, plain, channels, task.positions, activation_sums);
      const auto weights_of = [&](int64_t target) {
        return static_cast<C*>(task.weights) + (target * task.batch + sample) * task.channels + channel;
      };
      const auto products_of = [&](int64_t target) {
        const T* gradients = is_given ? nullptr : at<T>(task.gradients, target, sample, channel, 0);
        return CamRows<T>{gradients,    task.gradients.row_stride, activations, stride, activation_sums, data_floor,
                          product_floor};
      };
      const auto add_to_map = [&](int64_t target) {
        for (int64_t position = 0; position < task.positions; position += kTile) {
          const int64_t positions = std::min(kTile, task.positions - position);
          CamRows<T> rows = multiplied ? products_of(target) : plain;
          rows.data += position;
          if (multiplied) rows.other += position;
          rows.factors = weights_of(target);
          sum_block<T>(multiplied ? CamEntry::kProduct : CamEntry::kWeighted, false, rows, channels, positions,
                       map_of(target) + position);
        }
      };
      for (int64_t target = 0; computes_weights && target < task.targets; ++target)
        weigh_channels<T>(task.method, products_of(target), channels, task.positions, weights_of(target));
      int64_t target = 0;
      if constexpr (kTargetsAtOnce > 1)
        for (; !multiplied && target + kTargetsAtOnce <= task.targets; target += kTargetsAtOnce) {
          CamRows<T> rows = plain;
          rows.factors = weights_of(target);
          with_lanes<C>(task.positions, [&](auto lanes) {
            add_all_rows_to_targets<lanes(), kTargetsAtOnce, T>(rows, channels, task.positions,
                                                                task.batch * task.channels, map_of(target),
                                                                task.batch * task.blocks * task.positions);
          });
        }
      for (; target < task.targets; ++target) add_to_map(target);
    }
  }
}

// Adds up the blocks of one matrix, in order.
template <class C>
void add_blocks(const CamBlocks& task, const C* sums, C* out) {
  each_vector<C>(task.count, [&](auto lanes, int64_t i) {
    auto sum = load<lanes()>(sums + i);
    for (int64_t block = 1; block < task.blocks; ++block) sum += load<lanes()>(sums + block * task.count + i);
    store<lanes()>(out + i, sum);
  });
}

template <class C>
struct Range {
  C low, high;
};

// Both are NaN if a value is NaN, as in torch.amin and torch.amax.
template <class C, int Lanes>
Range<C> range_of(const C* values, int64_t count) {
  using V = Vec<C, Lanes>;
  V low = load<Lanes>(values), high = low, nan{};
  const auto include = [&](V value) {
    low = value < low ? value : low;
    high = value > high ? value : high;
    nan = value == value ? nan : value;
  };
  for (int64_t i = 0; i + Lanes <= count; i += Lanes) include(load<Lanes>(values + i));
  include(load<Lanes>(values + count - Lanes));
  C lows[Lanes], highs[Lanes], nans[Lanes];
  store<Lanes>(lows, low);
  store<Lanes>(highs, high);
  store<Lanes>(nans, nan);
  Range<C> range{lows[0], highs[0]};
  for (int i = 0; i < Lanes; ++i) {
    if (nans[i] != nans[i]) return {nans[i], nans[i]};
    range = {std::min(range.low, lows[i]), std::max(range.high, highs[i])};
  }
  return range;
}

template <class C>
Range<C> range_of(const C* values, int64_t count) {
  Range<C> range{};
  with_lanes<C>(count, [&](auto lanes) { range = range_of<C, lanes()>(values, count); });
  return range;
}

// Computes a finished map from the sums of its blocks: added up, rectified, normalised, rounded to the output's dtype.
template <class C, class Out>
void finish_map(const CamMap& task, C* map, C* raw, Out* out) {
  const int64_t count = task.blocks.count;
  add_blocks(task.blocks, map, raw);
  each_vector<C>(count, [&](auto lanes, int64_t i) {
    using V = Vec<C, lanes()>;
    const V value = load<lanes()>(raw + i);
    store<lanes()>(map + i, task.relu ? at_least<V>(value, V{}) : value);
  });
  C offset = 0, span = 1;
  if (task.normalize != CamNormalize::kNone) {
    const Range<C> range = range_of(map, count);
    const bool stretch = task.normalize == CamNormalize::kMinMax;
    offset = stretch ? range.low : C{0};
    span = stretch ? range.high - range.low : std::max(std::fabs(range.low), std::fabs(range.high));
  }
  each_vector<C>(count, [&](auto lanes, int64_t i) {
    const Vec<C, lanes()> value = load<lanes()>(map + i);
    store<lanes()>(out + i, span == 0 ? Vec<C, lanes()>{} : (value - offset) / span);
  });
}

template <class T>
void finish_maps(const CamMap& task, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const int64_t count = task.blocks.count;
  for (int64_t matrix = begin; matrix < end; ++matrix) {
    C* map = static_cast<C*>(task.blocks.sums) + matrix * task.blocks.blocks * count;
    C* raw = static_cast<C*>(task.maps) + matrix * count;
    if (task.out)
      finish_map(task, map, raw, static_cast<T*>(task.out) + matrix * count);
    else
      finish_map(task, map, raw, map);
  }
}

template <class T>
void finish_weights(const CamWeightSums& task, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const int64_t count = task.blocks.count;
  for (int64_t matrix = begin; matrix < end; ++matrix) {
    const int64_t sample = matrix % task.blocks.batch;
    C* weights = static_cast<C*>(task.out) + matrix * count;
    add_blocks(task.blocks, static_cast<const C*>(task.blocks.sums) + matrix * task.blocks.blocks * count, weights);
    weights_of_sums<T>(task.method, task.positions, static_cast<const C*>(task.activation_sums) + sample * count, count,
                       weights);
  }
}

template <class T, class C>
void blend_rows(const C* low, const C* high, C weight, int64_t count, T* out) {
  const C low_weight = 1 - weight;
  each_vector<C>(count, [=](auto lanes, int64_t x) {
    store<lanes()>(out + x, low_weight * load<lanes()>(low + x) + weight * load<lanes()>(high + x));
  });
}

template <class T, class C>
void copy_row(const C* row, int64_t count, T* out) {
  each_vector<C>(count, [=](auto lanes, int64_t x) { store<lanes()>(out + x, load<lanes()>(row + x)); });
}

// The two source rows that were last expanded to the output's width: consecutive rows of the output mostly use the same
// ones.
template <class C>
struct ExpandedRows {
  int64_t width, out_width;
  int64_t keys[2] = {-1, -1};
  C *row[2], *blended, *weight;
  int64_t *low, *high;

  ExpandedRows(int64_t width, int64_t out_width, void* scratch) : width(width), out_width(out_width) {
    low = static_cast<int64_t*>(scratch);
    high = low + out_width;
    weight = reinterpret_cast<C*>(high + out_width);
    row[0] = weight + out_width;
    row[1] = row[0] + out_width;
    blended = row[1] + out_width;
    for (int64_t x = 0; x < out_width; ++x) {
      const LinearTap<C> tap = linear_tap<C>(x, width, out_width);
      low[x] = tap.low;
      high[x] = tap.high;
      weight[x] = tap.weight;
    }
  }

  // Returns source row `key`, blended from two planes and expanded. Keys must ascend.
  const C* get(int64_t key, const C* near, const C* far, C depth) {
    if (key == keys[0]) return row[0];
    if (key == keys[1]) return row[1];
    const int slot = keys[0] < keys[1] ? 0 : 1;  // the lower key is not needed any more
    keys[slot] = key;
    if (near != far) {
      blend_rows(near, far, depth, width, blended);
      near = blended;
    }
    C* const out = row[slot];
    if (width == out_width) {  // a product with a weight of 0 would turn infinity into NaN
      std::copy_n(near, width, out);
      return out;
    }
    for (int64_t x = 0; x < out_width; ++x) out[x] = lerp(near[low[x]], near[high[x]], weight[x]);
    return out;
  }
};

template <class T>
void resize_rows(const CamResize& task, int64_t begin, int64_t end, void* scratch) {
  using C = Compute<T>;
  const auto [depth, height, width] = task.from;
  const auto [out_depth, out_height, out_width] = task.to;
  ExpandedRows<C> rows(width, out_width, scratch);
  T* out = static_cast<T*>(task.out) + begin * out_width;
  for (int64_t item = begin; item < end;) {
    const int64_t plane = item / out_height, plane_end = std::min(end, (plane + 1) * out_height);
    const LinearTap<C> z = linear_tap<C>(plane % out_depth, depth, out_depth);
    const C* map = static_cast<const C*>(task.maps) + plane / out_depth * task.map_stride;
    const C *near = map + z.low * height * width, *far = map + z.high * height * width;
    for (; item < plane_end; ++item, out += out_width) {
      const LinearTap<C> y = linear_tap<C>(item - plane * out_height, height, out_height);
      const auto row = [&](int64_t index) {
        return rows.get(plane * height + index, near + index * width, far + index * width, z.weight);
      };
      const C* low = row(y.low);
      if (y.low == y.high)
        copy_row(low, out_width, out);
      else
        blend_rows(low, row(y.high), y.weight, out_width, out);
    }
  }
}

static void cam_sum(const CamSum& task, int64_t begin, int64_t end) {
  with_float_type(task.type, [&](auto value) { sum_items<decltype(value)>(task, begin, end); });
}

static void cam_weights(const CamWeightSums& task, int64_t begin, int64_t end) {
  with_float_type(task.blocks.type, [&](auto value) { finish_weights<decltype(value)>(task, begin, end); });
}

static void cam_channels(const CamChannels& task, int64_t begin, int64_t end) {
  with_float_type(task.type, [&](auto value) { pool_channels<decltype(value)>(task, begin, end); });
}

static void cam_maps(const CamMap& task, int64_t begin, int64_t end) {
  with_float_type(task.blocks.type, [&](auto value) { finish_maps<decltype(value)>(task, begin, end); });
}

static void cam_resize(const CamResize& task, int64_t begin, int64_t end, void* scratch) {
  with_float_type(task.type, [&](auto value) { resize_rows<decltype(value)>(task, begin, end, scratch); });
}

}  // namespace torchext::TORCHEXT_ISA
