#include "common/isa.h"
#include "common/scratch.h"
#include "common/simd.h"
#include "onehot/labels/loops.h"
#include "onehot/class_sums/task.h"

namespace torchext::TORCHEXT_ISA {

constexpr int64_t kReadAtOnce = 2048;  // labels, whose classes are on the stack

// Calls body(outer, first, count) for each outer index that has some of the positions [begin, end).
template <class Body>
void each_outer(const LabelTask& task, int64_t begin, int64_t end, const Body& body) {
  while (begin < end) {
    const int64_t outer = begin / task.inner, first = begin % task.inner;
    const int64_t count = std::min(end - begin, task.inner - first);
    body(outer, first, count);
    begin += count;
  }
}

// Calls body(classes, done, length) for inner positions [first, first + count), at most kReadAtOnce of them at a time.
template <class K, class Body>
void each_chunk(const LabelTask& task, int64_t outer, int64_t first, int64_t count, const Body& body) {
  K classes[kReadAtOnce];
  for (int64_t done = 0; done < count; done += kReadAtOnce) {
    const int64_t length = std::min(kReadAtOnce, count - done);
    read_inner(task, outer, first + done, length, classes);
    body(classes, done, length);
  }
}

// Reads the labels of one argument in a range of one outer index. Returns whether one was neither ignored nor a class.
template <class K>
bool read_range(const LabelTask& task, int64_t outer, int64_t first, int64_t count, K* classes) {
  bool bad = false;
  with_label_type(task.label_type, [&](auto type) {
    bad = read_labels(task, labels_of<decltype(type)>(task, outer), task.inner_axes, first, count, classes);
  });
  return bad;
}

// The slow path: records bad labels of both arguments. A label predicted for an ignored target is never bad.
inline void note_bad_pairs(const CountsTask& task, int64_t outer, int64_t first, int64_t count) {
  for (int64_t i = first; i < first + count; ++i) {
    int64_t target, predicted;
    const bool bad = read_range(task, outer, i, 1, &target);
    if (bad) note_bad(task, outer * task.inner + i);
    if ((bad || target >= 0) && read_range(*task.predicted, outer, i, 1, &predicted))
      note_bad(*task.predicted, outer * task.inner + i);
  }
}

template <class K, class Body>
void each_chunk_of_pairs(const CountsTask& task, int64_t outer, int64_t first, int64_t count, const Body& body) {
  K bins[kReadAtOnce], predicted[kReadAtOnce];
  const K classes = static_cast<K>(task.classes);
  for (int64_t done = 0; done < count; done += kReadAtOnce) {
    const int64_t length = std::min(kReadAtOnce, count - done);
    bool bad = read_range(task, outer, first + done, length, bins);
    bad |= read_range(*task.predicted, outer, first + done, length, predicted);
    if (bad) note_bad_pairs(task, outer, first + done, length);
    for (int64_t i = 0; i < length; ++i)
      bins[i] = (bins[i] | predicted[i]) < 0 ? K{-1} : static_cast<K>(bins[i] * classes + predicted[i]);
    body(bins, done, length);
  }
}

// Adds to a count. `exclusive`: no other thread counts labels of the same outer index.
inline void add_count(int64_t* to, int64_t count, bool exclusive) {
  if (exclusive)
    *to += count;
  else if (count != 0)
    __atomic_fetch_add(to, count, __ATOMIC_RELAXED);
}

// Counts up to 2^32 labels. A counter that was just written cannot be read again before its store has left the
// pipeline. So each of four neighbouring labels is counted in a different table. Large tables are not used fourfold
// because they would not stay in the cache.
class CountTables {
 public:
  explicit CountTables(int64_t bins)
      : pitch_(bins <= kFourfoldBins ? bins : 0),
        counts_(zeroed_scratch<uint32_t>("class_counts", pitch_ > 0 ? 4 * bins : bins)) {}

  // Counts bin_of(i) for i < length.
  template <class BinOf>
  __attribute__((always_inline)) void count(int64_t length, const BinOf& bin_of) {
    uint32_t* const counts = counts_.get();
    const int64_t pitch = pitch_;
    int64_t i = 0;
    for (; i + 4 <= length; i += 4) {
      ++counts[bin_of(i)];
      ++counts[bin_of(i + 1) + pitch];
      ++counts[bin_of(i + 2) + 2 * pitch];
      ++counts[bin_of(i + 3) + 3 * pitch];
    }
    for (; i < length; ++i) ++counts[bin_of(i)];
  }

  int64_t operator[](int64_t bin) const {
    int64_t sum = counts_[bin];
    if (pitch_ > 0)
      for (int w = 1; w < 4; ++w) sum += counts_[bin + w * pitch_];
    return sum;
  }

 private:
  static constexpr int64_t kFourfoldBins = 8192;
  int64_t pitch_;
  std::unique_ptr<uint32_t[]> counts_;
};

// Calls body(labels, step, length) for runs of labels of one outer index. A step of 1 is a compile-time constant.
template <class Label, class Body>
void each_run_of_labels(const LabelTask& task, int64_t outer, int64_t first, int64_t count, const Body& body) {
  as_labels(task, labels_of<Label>(task, outer), [&](const auto* data) {
    each_run(task.inner_axes, first, count, [&](int64_t offset, int64_t stride, int64_t, int64_t length) {
      if (stride == 1)
        body(data + offset, std::integral_constant<int64_t, 1>{}, length);
      else
        body(data + offset, stride, length);
    });
  });
}

// Bytes are counted by their bits. Whether they are classes is only checked for the 256 counts.
template <class Label>
bool count_bytes(const CountsTask& task, int64_t outer, int64_t first, int64_t count, int64_t* counts) {
  CountTables tables(256);
  each_run_of_labels<Label>(task, outer, first, count, [&](const auto* labels, auto step, int64_t length) {
    tables.count(length, [&](int64_t i) { return static_cast<uint8_t>(static_cast<int32_t>(labels[i * step])); });
  });
  bool bad = false;
  for (int bits = 0; bits < 256; ++bits) {
    const int64_t label = static_cast<Label>(bits);
    if (tables[bits] == 0 || (task.has_ignored && label == task.ignored)) continue;
    if (label >= 0 && label < task.classes)
      add_count(counts + label, tables[bits], count == task.inner);
    else
      bad = true;
  }
  return bad;
}

// One more bin counts labels that are not classes, and another one ignored labels.
template <class Label>
bool count_labels(const CountsTask& task, int64_t outer, int64_t first, int64_t count, int64_t* counts) {
  const uint64_t classes = static_cast<uint64_t>(task.classes);
  CountTables tables(task.classes + 2);
  each_run_of_labels<Label>(task, outer, first, count, [&](const auto* labels, auto step, int64_t length) {
    const auto bin_of = [&](int64_t label) { return static_cast<uint64_t>(label) < classes ? label : task.classes; };
    const auto read = [&](int64_t i) { return static_cast<int64_t>(read_once(labels[i * step])); };
    if (task.has_ignored)
      tables.count(length, [&](int64_t i) {
        const int64_t label = read(i);
        return label == task.ignored ? task.classes + 1 : bin_of(label);
      });
    else
      tables.count(length, [&](int64_t i) { return bin_of(read(i)); });
  });
  for (int64_t c = 0; c < task.classes; ++c) add_count(counts + c, tables[c], count == task.inner);
  return tables[task.classes] != 0;
}

inline void count_singles(const CountsTask& task, int64_t outer, int64_t first, int64_t count) {
  int64_t* counts = task.counts + outer * task.bins;
  if (count < task.bins)
    return each_chunk<int64_t>(task, outer, first, count, [&](const int64_t* classes, int64_t, int64_t length) {
      for (int64_t i = 0; i < length; ++i)
        if (classes[i] >= 0) add_count(counts + classes[i], 1, count == task.inner);
    });
  with_label_type(task.label_type, [&](auto type) {
    using Label = decltype(type);
    const bool bad = [&] {
      if constexpr (sizeof(Label) == 1)
        if (count >= 1024) return count_bytes<Label>(task, outer, first, count, counts);
      return count_labels<Label>(task, outer, first, count, counts);
    }();
    if (!bad) return;
    find_bad(task, labels_of<Label>(task, outer), task.inner_axes, first, count, outer * task.inner + first);
  });
}

template <class K>
void count_pairs(const CountsTask& task, int64_t outer, int64_t first, int64_t count) {
  int64_t* counts = task.counts + outer * task.bins;
  if (count < task.bins)
    return each_chunk_of_pairs<K>(task, outer, first, count, [&](const K* bins, int64_t, int64_t length) {
      for (int64_t i = 0; i < length; ++i)
        if (bins[i] >= 0) add_count(counts + bins[i], 1, count == task.inner);
    });
  CountTables tables(task.bins + 1);
  each_chunk_of_pairs<K>(task, outer, first, count, [&](const K* bins, int64_t, int64_t length) {
    tables.count(length, [&](int64_t i) { return static_cast<int64_t>(bins[i]) + 1; });
  });
  for (int64_t bin = 0; bin < task.bins; ++bin) add_count(counts + bin, tables[bin + 1], count == task.inner);
}

static void count(const CountsTask& task, int64_t begin, int64_t end) {
  constexpr int64_t kMost = int64_t{1} << 31;  // labels that a table counts
  each_outer(task, begin, end, [&](int64_t outer, int64_t first, int64_t count) {
    for (int64_t done = 0; done < count; done += kMost) {
      const int64_t length = std::min(kMost, count - done);
      if (task.predicted == nullptr)
        count_singles(task, outer, first + done, length);
      else if (task.bins < INT32_MAX)
        count_pairs<int32_t>(task, outer, first + done, length);
      else
        count_pairs<int64_t>(task, outer, first + done, length);
    }
  });
}

// Loads values in the type in which they are summed.
template <int Lanes, class S, class T>
Vec<S, Lanes> load_value(const T* from) {
  if constexpr (std::is_same_v<T, Truth>) {
    if constexpr (Lanes == 1) {
      return static_cast<S>(static_cast<int32_t>(*from));
    } else {
      Vec<uint8_t, Lanes> bytes;
      std::memcpy(&bytes, from, sizeof bytes);
      return __builtin_convertvector((Vec<uint8_t, Lanes>)(bytes != 0) & 1, Vec<S, Lanes>);
    }
  } else if constexpr (std::is_same_v<T, c10::Half> || std::is_same_v<T, c10::BFloat16>) {
    const Vec<float, Lanes> value = load<Lanes>(from);
    if constexpr (std::is_same_v<S, float>)
      return value;
    else if constexpr (Lanes == 1)
      return static_cast<S>(value);
    else
      return __builtin_convertvector(value, Vec<S, Lanes>);
  } else if constexpr (Lanes == 1) {
    return static_cast<S>(*from);
  } else {
    Vec<T, Lanes> value;
    std::memcpy(&value, from, sizeof value);
    if constexpr (std::is_same_v<T, S>)
      return value;
    else
      return __builtin_convertvector(value, Vec<S, Lanes>);
  }
}

template <int Lanes, class T, class S>
void store_sum(T* to, Vec<S, Lanes> value) {
  if constexpr (!std::is_same_v<T, S>)
    store<Lanes>(to, value);
  else if constexpr (Lanes == 1)
    *to = value;
  else
    std::memcpy(to, &value, sizeof value);
}

// Calls body with values of the types of the accumulation and of the result.
template <class Body>
void with_sum_types(const SumsTask& task, const Body& body) {
  with_type<c10::Half, c10::BFloat16, float, double, uint64_t>(task.out_type, [&](auto out_type) {
    using Out = decltype(out_type);
    body(std::conditional_t<std::is_integral_v<Out>, uint64_t, Compute<Out>>{}, out_type);
  });
}

template <class S>
constexpr int kWidest = kSimdBytes / static_cast<int>(sizeof(S));

// Calls body over [i, count): for whole vectors, then for ever narrower ones.
template <int Lanes, class Body>
__attribute__((always_inline)) inline void each_narrowing_vector(int64_t i, int64_t count, const Body& body) {
#pragma GCC unroll 4
  for (; i + Lanes <= count; i += Lanes) body(std::integral_constant<int, Lanes>{}, i);
  if constexpr (Lanes > 1) each_narrowing_vector<Lanes / 2>(i, count, body);
}

template <class T, class S>
__attribute__((always_inline)) inline void add_row(const T* row, S* table, int64_t count) {
  each_narrowing_vector<kWidest<S>>(0, count, [&](auto lanes, int64_t i) {
    store_sum<lanes, S, S>(table + i, load_value<lanes, S>(table + i) + load_value<lanes, S>(row + i));
  });
}

template <class T>
const T* values_of(const SumsTask& task, int64_t outer) {
  return static_cast<const T*>(task.values) + offset_of(task.outer_value_axes, outer);
}

template <class T, class S, class Columns>
void add_rows_of(const int32_t* classes, const T* row, int64_t stride, int64_t count, int64_t features, Columns columns,
                 S* table) {
  for (int64_t i = 0; i < count; ++i, row += stride)
    if (classes[i] >= 0) add_row(row, table + classes[i] * features, columns);
}

template <class T, class S>
void add_rows(const int32_t* classes, const T* rows, int64_t stride, int64_t count, int64_t features, int64_t columns,
              S* table) {
  const auto add = [&](auto constant) { add_rows_of(classes, rows, stride, count, features, constant, table); };
  if (columns == 2) return add(std::integral_constant<int64_t, 2>{});
  if (columns == 3) return add(std::integral_constant<int64_t, 3>{});
  if (columns == 4) return add(std::integral_constant<int64_t, 4>{});
  add(columns);
}

// Adds each row to its class's row of the table.
template <class T, class S>
void sum_rows_of_block(const SumsTask& task, int64_t outer, int64_t first, int64_t count, int64_t column,
                       int64_t columns, S* table) {
  const int64_t features = task.features;
  const T* values = values_of<T>(task, outer) + column;
  table += column;
  for (int64_t c = 0; c < task.classes; ++c) std::fill_n(table + c * features, columns, S{});
  each_chunk<int32_t>(task, outer, first, count, [&](const int32_t* classes, int64_t begin, int64_t length) {
    each_run(task.inner_value_axes, first + begin, length,
             [&](int64_t offset, int64_t stride, int64_t done, int64_t run) {
               add_rows(classes + done, values + offset, stride, run, features, columns, table);
             });
  });
}

// Neighbouring values are added in different tables, for the same reason as in CountTables.
template <int ways, class T, class K, class S>
void add_run(const K* classes, const T* values, int64_t stride, int64_t count, S* table) {
  const auto add = [&](int64_t i, int w, auto step) {
    S& sum = table[(classes[i] + 1) * int64_t{ways} + w];
    sum += load_value<1, S>(values + i * step);
  };
  const auto add_all = [&](auto step) {
    int64_t i = 0;
    for (; i + ways <= count; i += ways)
#pragma GCC unroll 4
      for (int w = 0; w < ways; ++w) add(i + w, w, step);
    for (; i < count; ++i) add(i, 0, step);
  };
  if (stride == 1)
    add_all(std::integral_constant<int64_t, 1>{});
  else
    add_all(stride);
}

template <int ways, class T, class K = int32_t, class S>
void sum_columns_of_block(const SumsTask& task, int64_t outer, int64_t first, int64_t count, int64_t column,
                          int64_t columns, S* table) {
  const int64_t size = (task.classes + 1) * ways;
  const auto by_column = zeroed_scratch<S>("class_sums", columns * size);
  const T* values = values_of<T>(task, outer);
  each_chunk<K>(task, outer, first, count, [&](const K* classes, int64_t begin, int64_t length) {
    for (int64_t f = 0; f < columns; ++f) {
      const T* from = values + offset_of(task.feature_axes, column + f);
      each_run(task.inner_value_axes, first + begin, length,
               [&](int64_t offset, int64_t stride, int64_t done, int64_t run) {
                 add_run<ways>(classes + done, from + offset, stride, run, by_column.get() + f * size);
               });
    }
  });
  for (int64_t c = 0; c < task.classes; ++c)
    for (int64_t f = 0; f < columns; ++f) {
      const S* parts = by_column.get() + f * size + (c + 1) * ways;
      S sum = parts[0];
      for (int w = 1; w < ways; ++w) sum += parts[w];
      table[c * task.features + column + f] = sum;
    }
}

template <class T, class S>
void sum_block(const SumsTask& task, int64_t item) {
  constexpr int64_t kFourfoldClasses = 4096;
  const int64_t groups = column_groups_of(task), blocks = blocks_of(task);
  const int64_t column = item % groups * task.columns, block = item / groups;
  const int64_t outer = block / blocks, first = block % blocks * task.block;
  const int64_t count = std::min(task.block, task.inner - first);
  const int64_t columns = std::min(task.columns, task.features - column);
  S* table = static_cast<S*>(task.tables) + block * task.classes * task.features;
  if (task.classes > INT32_MAX)
    sum_columns_of_block<1, T, int64_t>(task, outer, first, count, column, columns, table);
  else if (task.feature_axes.is_one_run() && task.features > 1)
    sum_rows_of_block<T>(task, outer, first, count, column, columns, table);
  else if (task.classes <= kFourfoldClasses && count >= 4 * task.classes)
    sum_columns_of_block<4, T>(task, outer, first, count, column, columns, table);
  else
    sum_columns_of_block<1, T>(task, outer, first, count, column, columns, table);
}

static void sum_blocks(const SumsTask& task, int64_t begin, int64_t end) {
  with_types(task, [&](auto type, auto sum_type, auto) {
    for (int64_t item = begin; item < end; ++item) sum_block<decltype(type), decltype(sum_type)>(task, item);
  });
}

// Adds up `Lanes` elements of each of `count` rows that are `pitch` apart, in order.
template <int Lanes, class S>
Vec<S, Lanes> add_up(const S* from, int64_t count, int64_t pitch) {
  Vec<S, Lanes> sum = load_value<Lanes, S>(from);
  for (int64_t i = 1; i < count; ++i) sum += load_value<Lanes, S>(from + i * pitch);
  return sum;
}

// Computes entries [begin, end) of the sums from the tables.
static void add_tables(const SumsTask& task, int64_t begin, int64_t end) {
  const int64_t entries = task.classes * task.features, blocks = blocks_of(task);
  with_sum_types(task, [&](auto sum_type, auto out_type) {
    using S = decltype(sum_type);
    using Out = decltype(out_type);
    while (begin < end) {
      const int64_t outer = begin / entries, first = begin % entries;
      const int64_t count = std::min(end - begin, entries - first);
      const S* from = static_cast<const S*>(task.tables) + outer * blocks * entries + first;
      Out* to = static_cast<Out*>(task.sums) + begin;
      each_narrowing_vector<kWidest<S>>(0, count, [&](auto lanes, int64_t i) {
        store_sum<lanes, Out, S>(to + i, add_up<lanes>(from + i, blocks, entries));
      });
      begin += count;
    }
  });
}

// Calls body with a value of the type of positions in the order.
template <class Body>
void with_position_type(const SumsTask& task, const Body& body) {
  if (task.inner <= INT32_MAX)
    body(int32_t{});
  else
    body(int64_t{});
}

// Labels are ordered by their classes, and labels of the same class by their positions. First, each part counts its
// labels of each class.
template <class Position>
void count_part(const SumsTask& task, int64_t part, int64_t first, int64_t count) {
  Position* counts = static_cast<Position*>(task.cursors) + part * task.classes;
  std::fill(counts, counts + task.classes, Position{0});
  each_chunk<Position>(task, task.sample, first, count, [&](const Position* classes, int64_t, int64_t length) {
    for (int64_t i = 0; i < length; ++i)
      if (classes[i] >= 0) ++counts[classes[i]];
  });
}

// Then, after the counts have been added up to where each part's labels of a class start, each part writes its
// positions.
template <class Position>
void order_part(const SumsTask& task, int64_t part, int64_t first, int64_t count) {
  Position* cursors = static_cast<Position*>(task.cursors) + part * task.classes;
  Position* order = static_cast<Position*>(task.order);
  each_chunk<Position>(task, task.sample, first, count, [&](const Position* classes, int64_t done, int64_t length) {
    for (int64_t i = 0; i < length; ++i) {
      if (classes[i] < 0) continue;
      // Labels that another thread changes may differ from those that were counted. Nothing may be written past the
      // order.
      const Position next = cursors[classes[i]];
      cursors[classes[i]] = next + 1;
      if (next < task.inner) order[next] = static_cast<Position>(first + done + i);
    }
  });
}

template <class Body>
void each_part_of_labels(const SumsTask& task, int64_t begin, int64_t end, const Body& body) {
  const int64_t size = (task.inner + task.parts - 1) / task.parts;
  for (int64_t part = begin; part < end; ++part) {
    const int64_t first = std::min(part * size, task.inner);
    body(part, first, std::min(size, task.inner - first));
  }
}

static void count_parts(const SumsTask& task, int64_t begin, int64_t end) {
  with_position_type(task, [&](auto position) {
    each_part_of_labels(task, begin, end, [&](int64_t part, int64_t first, int64_t count) {
      count_part<decltype(position)>(task, part, first, count);
    });
  });
}

static void order_parts(const SumsTask& task, int64_t begin, int64_t end) {
  with_position_type(task, [&](auto position) {
    each_part_of_labels(task, begin, end, [&](int64_t part, int64_t first, int64_t count) {
      order_part<decltype(position)>(task, part, first, count);
    });
  });
}

// Sums a few vectors of columns of some rows in registers.
template <class S, class T, int Lanes, int kVectors, class Store>
void sum_vectors(const T* const* rows, int64_t count, int64_t fetched, const int64_t* columns, const Store& store) {
  constexpr int64_t kAhead = 8;  // rows: the hardware prefetcher cannot predict where the next row is
  constexpr int64_t kLine = 64 / sizeof(T);
  Vec<S, Lanes> sums[kVectors] = {};
  for (int64_t i = 0; i < count; ++i) {
    if (i + kAhead < fetched)
      for (int64_t at = columns[0]; at < columns[0] + kVectors * Lanes; at += kLine)
        __builtin_prefetch(rows[i + kAhead] + at);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[v] += load_value<Lanes, S>(rows[i] + columns[v]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) store(columns[v], sums[v]);
}

// Sums the first `count` of `fetched` rows. The rows after them, which are summed next, are only prefetched.
template <class S, class T, class Out>
void sum_rows(const T* const* rows, int64_t count, int64_t fetched, int64_t features, Out* out) {
  with_lanes<S>(features, [&](auto lanes) {
    constexpr int kLanes = lanes;
    const auto store = [&](int64_t column, Vec<S, kLanes> sum) { store_sum<kLanes, Out, S>(out + column, sum); };
    const int64_t vectors = (features + kLanes - 1) / kLanes;
    for (int64_t v = 0; v < vectors;) {
      // The last vector ends with the row. The columns that it shares with the one before are summed twice, with the
      // same result.
      int64_t columns[8];
      for (int64_t k = 0; k < 8; ++k) columns[k] = std::min((v + k) * kLanes, features - kLanes);
      const auto sum = [&](auto at_once) {
        if constexpr (at_once <= kMostVectors<S, kLanes>)
          sum_vectors<S, T, kLanes, at_once>(rows, count, fetched, columns, store);
        v += at_once;
      };
      if (vectors - v >= 8)
        sum(std::integral_constant<int, 8>{});
      else if (vectors - v >= 4)
        sum(std::integral_constant<int, 4>{});
      else if (vectors - v >= 2)
        sum(std::integral_constant<int, 2>{});
      else
        sum(std::integral_constant<int, 1>{});
    }
  });
}

// Sums the pieces of classes: whole classes into the result, the pieces of a long class into a buffer.
template <class T, class S, class Out, class Position>
class Pieces {
 public:
  Pieces(const SumsTask& task, int64_t column)
      : task_(task),
        column_(column),
        columns_(std::min(task.columns, task.features - column)),
        values_(values_of<T>(task, task.sample) + column),
        order_(static_cast<const Position*>(task.order)),
        starts_(static_cast<const Position*>(task.starts)) {}

  // Sums pieces that start at positions [begin, end) of the order, and zeroes the sums of classes without labels.
  void run(int64_t begin, int64_t end) const {
    const Position* found = std::lower_bound(starts_, starts_ + task_.classes, static_cast<Position>(begin));
    int64_t c = found - starts_;
    if (c > 0) {
      const int64_t start = starts_[c - 1];
      run_class(c - 1, (begin - start + kPieceRows - 1) / kPieceRows, end);
    }
    for (; c < task_.classes && starts_[c] < end; ++c) run_class(c, 0, end);
  }

 private:
  void run_class(int64_t c, int64_t first, int64_t end) const {
    const int64_t start = starts_[c], count = starts_[c + 1] - start, features = task_.features;
    Out* sums = static_cast<Out*>(task_.sums) + (task_.sample * task_.classes + c) * features + column_;
    if (count == 0) return void(std::fill(sums, sums + columns_, Out{}));
    if (count <= kPieceRows) {
      if (first == 0) sum(start, count, sums);
      return;
    }
    const int64_t* found = std::lower_bound(task_.long_classes, task_.long_classes + task_.long_count, c);
    S* pieces = static_cast<S*>(task_.pieces) + task_.long_pieces[found - task_.long_classes] * features + column_;
    for (int64_t k = first; k * kPieceRows < count && start + k * kPieceRows < end; ++k)
      sum(start + k * kPieceRows, std::min(kPieceRows, count - k * kPieceRows), pieces + k * features);
  }

  template <class To>
  void sum(int64_t from, int64_t count, To* to) const {
    constexpr int64_t kAhead = 8;
    const T* rows[kPieceRows + kAhead];
    const int64_t fetched = std::min<int64_t>(count + kAhead, starts_[task_.classes] - from);
    const Axes& axes = task_.inner_value_axes;
    if (axes.count == 1)
      for (int64_t i = 0; i < fetched; ++i) rows[i] = values_ + order_[from + i] * axes[0].stride;
    else
      for (int64_t i = 0; i < fetched; ++i) rows[i] = values_ + offset_of(axes, order_[from + i]);
    sum_rows<S>(rows, count, fetched, columns_, to);
  }

  const SumsTask& task_;
  int64_t column_, columns_;
  const T* values_;
  const Position *order_, *starts_;
};

// One item is a stretch of kPieceRows ordered labels and a group of columns. The last stretch also includes everything
// that starts after all labels.
static void sum_pieces(const SumsTask& task, int64_t begin, int64_t end) {
  with_position_type(task, [&](auto position) {
    using Position = decltype(position);
    const int64_t stretches = stretches_of(static_cast<const Position*>(task.starts)[task.classes]);
    with_types(task, [&](auto type, auto sum_type, auto out_type) {
      using P = Pieces<decltype(type), decltype(sum_type), decltype(out_type), Position>;
      while (begin < end) {
        const int64_t first = begin % stretches, last = std::min(stretches, first + end - begin);
        P(task, begin / stretches * task.columns)
            .run(first * kPieceRows, last == stretches ? INT64_MAX : last * kPieceRows);
        begin += last - first;
      }
    });
  });
}

// Adds up the pieces of the long classes [begin, end).
static void add_pieces(const SumsTask& task, int64_t begin, int64_t end) {
  const int64_t features = task.features;
  with_sum_types(task, [&](auto sum_type, auto out_type) {
    using S = decltype(sum_type);
    using Out = decltype(out_type);
    for (int64_t i = begin; i < end; ++i) {
      const S* from = static_cast<const S*>(task.pieces) + task.long_pieces[i] * features;
      const int64_t count = task.long_pieces[i + 1] - task.long_pieces[i];
      Out* to = static_cast<Out*>(task.sums) + (task.sample * task.classes + task.long_classes[i]) * features;
      each_narrowing_vector<kWidest<S>>(0, features, [&](auto lanes, int64_t f) {
        store_sum<lanes, Out, S>(to + f, add_up<lanes>(from + f, count, features));
      });
    }
  });
}

template <int bytes>
void copy_class_rows(const RowsTask& task, const char* sums, const int64_t* classes, int64_t count, char* out) {
  const size_t size = bytes > 0 ? bytes : static_cast<size_t>(task.row_bytes);
  for (int64_t i = 0; i < count; ++i, out += size) {
    if (classes[i] >= 0)
      std::memcpy(out, sums + static_cast<size_t>(classes[i]) * size, size);
    else
      std::memset(out, 0, size);
  }
}

// Copies the rows of positions [begin, end).
static void class_rows(const RowsTask& task, int64_t begin, int64_t end) {
  const auto copy = [&] {
    switch (task.row_bytes) {
      case 1:
        return copy_class_rows<1>;
      case 2:
        return copy_class_rows<2>;
      case 4:
        return copy_class_rows<4>;
      case 8:
        return copy_class_rows<8>;
      case 16:
        return copy_class_rows<16>;
      default:
        return copy_class_rows<0>;
    }
  }();
  each_outer(task, begin, end, [&](int64_t outer, int64_t first, int64_t count) {
    const char* sums = task.sums + outer * task.classes * task.row_bytes;
    char* out = task.out + (outer * task.inner + first) * task.row_bytes;
    each_chunk<int64_t>(task, outer, first, count, [&](const int64_t* classes, int64_t done, int64_t length) {
      copy(task, sums, classes, length, out + done * task.row_bytes);
    });
  });
}

}  // namespace torchext::TORCHEXT_ISA
