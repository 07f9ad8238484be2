// Rows with several labels each.
#include "common/bits.h"
#include "common/isa.h"
#include "common/runs.h"
#include "common/scratch.h"
#include "common/simd.h"
#include "onehot/labels/loops.h"
#include "onehot/multi_hot/task.h"

namespace torchext::TORCHEXT_ISA {

// So few rows that they are still in the first-level cache when their hits are set after they were filled.
inline int64_t rows_at_once(const HitsTask& task, int64_t element_size) {
  constexpr int64_t kBytes = 16 * 1024, kLabels = 1024, kRows = 512;
  const int64_t output_rows = kBytes / std::max<int64_t>(1, task.classes * element_size);
  const int64_t label_rows = kLabels / std::max<int64_t>(1, task.hits);
  return std::clamp<int64_t>(std::min(output_rows, label_rows), 1, kRows);
}

// The classes are the last axis: fills rows, then sets their hits.
template <class U>
void multi_hot_rows(const MultiHotTask& task, int64_t begin, int64_t end) {
  const U hot = bits_of<U>(task.hot), cold = bits_of<U>(task.cold);
  const int64_t step = rows_at_once(task, sizeof(U));
  const auto classes = scratch<int64_t>("multi_hot", step * task.hits);
  const StagedRows<U> staged(task, step);
  for (int64_t row = begin; row < end; row += step) {
    const int64_t count = std::min(step, end - row);
    read_outer(task, row * task.hits, count * task.hits, classes.get());
    if (task.out == nullptr) continue;
    U* out = staged.start_filled(row, count, cold, task.cold_is_zero);
    const int64_t* hit = classes.get();
    for (int64_t i = 0; i < count; ++i, out += task.classes)
      for (int64_t k = 0; k < task.hits; ++k, ++hit)
        if (*hit >= 0) out[*hit] = hot;
    staged.finish(row, count);
  }
}

// There is one plane per class. Hits are marked in a block of all classes that stays in the cache, and each row of the
// block is then written as one run. If hits were written directly to planes that are a power of two apart, they would
// evict each other from the cache.
template <class U>
void multi_hot_planes(const MultiHotTask& task, int64_t begin, int64_t end) {
  const U hot = bits_of<U>(task.hot), cold = bits_of<U>(task.cold);
  const int64_t blocks = blocks_of(task);
  const auto classes = scratch<int64_t>("multi_hot", task.block * task.hits);
  const auto marks = scratch<uint8_t>("multi_hot", task.block * task.classes);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t outer = item / blocks, first = item % blocks * task.block;
    const int64_t count = std::min(task.block, task.row_inner - first);
    read_outer(task, (outer * task.row_inner + first) * task.hits, count * task.hits, classes.get());
    if (task.out == nullptr) continue;
    std::memset(marks.get(), 0, static_cast<size_t>(count * task.classes));
    const int64_t* hit = classes.get();
    for (int64_t i = 0; i < count; ++i)
      for (int64_t k = 0; k < task.hits; ++k, ++hit)
        if (*hit >= 0) marks[static_cast<size_t>(*hit * count + i)] = 1;
    U* out = static_cast<U*>(task.out) + outer * task.classes * task.row_inner + first;
    const uint8_t* marked = marks.get();
    for (int64_t c = 0; c < task.classes; ++c, out += task.row_inner, marked += count)
      write_run(task.streams, out, count, [=](int64_t first_row, int64_t length, U* to) {
        for (int64_t i = 0; i < length; ++i) to[i] = marked[first_row + i] != 0 ? hot : cold;
      });
  }
}

static void multi_hot(const MultiHotTask& task, int64_t begin, int64_t end) {
  with_bits(task.element_size, [&](auto bits) {
    if (task.row_inner == 1)
      multi_hot_rows<decltype(bits)>(task, begin, end);
    else
      multi_hot_planes<decltype(bits)>(task, begin, end);
  });
}

// The hits of some rows: `hits` classes and weights for each row, and `base`, the value of an entry without hits.
template <class C>
struct WeightedHits {
  WeightedHits(int64_t rows, int64_t hits)
      : classes(scratch<int64_t>("multi_hot", rows * hits)),
        copies(scratch<C>("multi_hot", rows * hits)),
        base(scratch<C>("multi_hot", rows)),
        labels(scratch<int64_t>("multi_hot", rows)) {}

  std::unique_ptr<int64_t[]> classes;
  const C* weights = nullptr;
  std::unique_ptr<C[]> copies, base;
  std::unique_ptr<int64_t[]> labels;  // scratch
};

// Returns weights [begin, begin + count). They are copied to `copies` if they cannot be read in place.
template <class C>
const C* read_weights(const WeightedHotTask& task, int64_t begin, int64_t count, C* copies) {
  const C* values = copies;
  with_float_type(task.weight_type, [&](auto type) {
    const auto* weights = static_cast<const decltype(type)*>(task.weights);
    if constexpr (std::is_same_v<decltype(type), C>)
      if (task.weight_axes.is_one_run()) {
        values = weights + begin;
        return;
      }
    each_run(task.weight_axes, begin, count, [&](int64_t offset, int64_t stride, int64_t done, int64_t length) {
      for (int64_t i = 0; i < length; ++i) copies[done + i] = static_cast<C>(weights[offset + i * stride]);
    });
  });
  return values;
}

// Calls body(sample, position in the sample, done, length) for the runs of rows [row, row + count) of one sample.
template <class Body>
void each_sample(const WeightedHotTask& task, int64_t row, int64_t count, const Body& body) {
  for (int64_t done = 0; done < count;) {
    const int64_t sample = (row + done) / task.positions, position = (row + done) % task.positions;
    const int64_t length = std::min(count - done, task.positions - position);
    body(sample, position, done, length);
    done += length;
  }
}

// Reads the labels of the samples' partners. Bad ones are not recorded here, because each of them is also a row's own
// label.
inline void read_partners(const WeightedHotTask& task, int64_t row, int64_t count, int64_t* classes) {
  with_label_type(task.label_type, [&](auto label) {
    const auto* labels = static_cast<const decltype(label)*>(task.labels);
    each_sample(task, row, count, [&](int64_t sample, int64_t position, int64_t done, int64_t length) {
      const int64_t partner = task.partners != nullptr ? read_once(task.partners[sample]) : task.samples - 1 - sample;
      if (partner < 0 || partner >= task.samples)
        fill(classes + done, length, int64_t{-1});
      else
        read_labels(task, labels, task.outer_axes, partner * task.positions + position, length, classes + done);
    });
  });
}

template <class C>
void read_mixed(const WeightedHotTask& task, int64_t row, int64_t count, WeightedHits<C>& hits) {
  read_outer(task, row, count, hits.labels.get());
  for (int64_t i = 0; i < count; ++i) hits.classes[static_cast<size_t>(2 * i)] = hits.labels[static_cast<size_t>(i)];
  read_partners(task, row, count, hits.labels.get());
  hits.weights = hits.copies.get();
  const C cold = static_cast<C>(task.cold);
  each_sample(task, row, count, [&](int64_t sample, int64_t, int64_t done, int64_t length) {
    C share = static_cast<C>(task.share), other = static_cast<C>(task.total - task.share);
    if (task.weights != nullptr) {
      share = *read_weights(task, task.weight_axes.count == 0 ? 0 : sample, 1, &share);
      other = static_cast<C>(task.total) - share;
    }
    for (size_t i = static_cast<size_t>(done); i < static_cast<size_t>(done + length); ++i) {
      hits.classes[2 * i + 1] = hits.labels[i];
      hits.copies[2 * i] = share;
      hits.copies[2 * i + 1] = other;
      const C first = hits.classes[2 * i] < 0 ? C(0) : share, second = hits.labels[i] < 0 ? C(0) : other;
      hits.base[i] = cold * (first + second);
    }
  });
}

template <class C>
void read_weighted(const WeightedHotTask& task, int64_t row, int64_t count, WeightedHits<C>& hits) {
  if (task.mixes) return read_mixed(task, row, count, hits);
  read_outer(task, row * task.hits, count * task.hits, hits.classes.get());
  hits.weights = read_weights(task, row * task.hits, count * task.hits, hits.copies.get());
  fill(hits.base.get(), count, static_cast<C>(task.cold));
}

// For calls whose entries are the sums: adds them up in the output.
template <class U>
void add_in_place(const int64_t* classes, const U* weights, int64_t hits, U* out) {
  for (int64_t k = 0; k < hits; ++k)
    if (classes[k] >= 0) out[classes[k]] += weights[k];
}

// For other calls: adds up in `sums`, which are zero before and after.
template <class U, class C>
void add_separately(const int64_t* classes, const C* weights, int64_t hits, C span, C base, C* sums, U* out) {
  for (int64_t k = 0; k < hits; ++k)
    if (classes[k] >= 0) sums[classes[k]] += weights[k];
  for (int64_t k = 0; k < hits; ++k)
    if (classes[k] >= 0) out[classes[k]] = static_cast<U>(multiply_add<C, 1>(span, sums[classes[k]], base));
  for (int64_t k = 0; k < hits; ++k)
    if (classes[k] >= 0) sums[classes[k]] = C(0);
}

// The usual case: labels and weights are read in place, and sums are added up in the output. Returns whether all labels
// are classes.
template <class Label, class U>
bool add_labels(const WeightedHotTask& task, const Label* labels, const U* weights, U* out) {
  const uint64_t limit = static_cast<uint64_t>(task.classes);
  bool all = true;
  for (int64_t k = 0; k < task.hits; ++k) {
    const int64_t label = static_cast<int64_t>(read_once(labels[k]));
    if (static_cast<uint64_t>(label) < limit)
      out[label] += weights[k];
    else
      all = false;
  }
  return all;
}

template <class U>
void plain_weighted_rows(const WeightedHotTask& task, int64_t begin, int64_t end) {
  const int64_t step = rows_at_once(task, sizeof(U));
  const U* weights = static_cast<const U*>(task.weights);
  const StagedRows<U> staged(task, step);
  with_label_type(task.label_type, [&](auto type) {
    const auto* labels = static_cast<const decltype(type)*>(task.labels);
    for (int64_t row = begin; row < end; row += step) {
      const int64_t count = std::min(step, end - row), first = row * task.hits;
      U* out = staged.start_filled(row, count, U{}, true);
      bool all = true;
      as_labels(task, labels, [&](const auto* data) {
        for (int64_t i = row; i < row + count; ++i, out += task.classes)
          all &= add_labels(task, data + i * task.hits, weights + i * task.hits, out);
      });
      staged.finish(row, count);
      if (!all) find_bad(task, labels, task.outer_axes, first, count * task.hits, first);
    }
  });
}

template <class U>
void weighted_rows(const WeightedHotTask& task, int64_t begin, int64_t end) {
  using C = Compute<U>;
  const bool in_place = std::is_same_v<U, C> && sums_are_entries(task);
  if constexpr (std::is_same_v<U, C>)
    if (in_place && task.out != nullptr && task.weight_type == task.type && !task.mixes && !task.has_ignored &&
        task.outer_axes.is_one_run() && task.weight_axes.is_one_run())
      return plain_weighted_rows<U>(task, begin, end);
  const int64_t step = rows_at_once(task, sizeof(U));
  WeightedHits<C> hits(step, task.hits);
  const int64_t entries = in_place ? 0 : task.classes;
  const auto sums = scratch<C>("multi_hot", entries);
  std::fill_n(sums.get(), entries, C{});
  const StagedRows<U> staged(task, step);
  for (int64_t row = begin; row < end; row += step) {
    const int64_t count = std::min(step, end - row);
    read_weighted(task, row, count, hits);
    if (task.out == nullptr) continue;
    U* out = task.cold == 0 ? staged.start_filled(row, count, U{}, true) : staged.start(row);
    for (int64_t i = 0; i < count; ++i, out += task.classes) {
      const int64_t* classes = hits.classes.get() + i * task.hits;
      const C* weights = hits.weights + i * task.hits;
      const C base = hits.base[static_cast<size_t>(i)];
      // `base` is also a NaN if the share of the sample is.
      if (task.cold != 0 || base != 0) fill(out, task.classes, static_cast<U>(base));
      if constexpr (std::is_same_v<U, C>)
        if (in_place) {
          add_in_place(classes, weights, task.hits, out);
          continue;
        }
      add_separately(classes, weights, task.hits, static_cast<C>(task.span), base, sums.get(), out);
    }
    staged.finish(row, count);
  }
}

// The same as multi_hot_planes, with sums instead of marks.
template <class U>
void weighted_planes(const WeightedHotTask& task, int64_t begin, int64_t end) {
  using C = Compute<U>;
  const C span = static_cast<C>(task.span);
  const int64_t blocks = blocks_of(task);
  WeightedHits<C> hits(task.block, task.hits);
  const auto sums = scratch<C>("multi_hot", task.block * task.classes);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t outer = item / blocks, first = item % blocks * task.block;
    const int64_t count = std::min(task.block, task.row_inner - first);
    read_weighted(task, outer * task.row_inner + first, count, hits);
    if (task.out == nullptr) continue;
    std::memset(sums.get(), 0, static_cast<size_t>(count * task.classes) * sizeof(C));
    const int64_t* hit = hits.classes.get();
    const C* weight = hits.weights;
    for (int64_t i = 0; i < count; ++i)
      for (int64_t k = 0; k < task.hits; ++k, ++hit, ++weight)
        if (*hit >= 0) sums[static_cast<size_t>(*hit * count + i)] += *weight;
    U* out = static_cast<U*>(task.out) + outer * task.classes * task.row_inner + first;
    const C* sum = sums.get();
    for (int64_t c = 0; c < task.classes; ++c, out += task.row_inner, sum += count)
      write_run(task.streams, out, count, [=, bases = hits.base.get()](int64_t first_row, int64_t length, U* to) {
        const C *sums_here = sum + first_row, *base = bases + first_row;
        each_vector<C>(length, [&](auto lanes, int64_t i) {
          const Vec<C, lanes> spans = Vec<C, lanes>{} + span;
          store<lanes>(to + i, multiply_add<C, lanes>(spans, load<lanes>(sums_here + i), load<lanes>(base + i)));
        });
      });
  }
}

static void weighted_hot(const WeightedHotTask& task, int64_t begin, int64_t end) {
  with_float_type(task.type, [&](auto type) {
    if (task.row_inner == 1)
      weighted_rows<decltype(type)>(task, begin, end);
    else
      weighted_planes<decltype(type)>(task, begin, end);
  });
}

}  // namespace torchext::TORCHEXT_ISA
