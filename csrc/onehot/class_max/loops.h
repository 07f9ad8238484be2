#include "common/isa.h"
#include "onehot/labels/loops.h"
#include "onehot/class_max/task.h"

namespace torchext::TORCHEXT_ISA {

// For rows of features that are next to each other in memory. The class of a row that is left out is -1.
template <class Order, class U>
void take_rows(const int64_t* classes, const U* row, int64_t stride, int64_t count, int64_t position, int64_t columns,
               int64_t pitch, U reversed, U* best, int64_t* positions) {
  for (int64_t i = 0; i < count; ++i, row += stride) {
    if (classes[i] < 0) continue;
    U* __restrict of_class = best + classes[i] * pitch;
    int64_t* __restrict found_at = positions + classes[i] * pitch;
    if (*found_at < 0) {
      for (int64_t f = 0; f < columns; ++f) of_class[f] = Order::settled(row[f]);
      std::fill_n(found_at, columns, position + i);
      continue;
    }
    for (int64_t f = 0; f < columns; ++f) {
      const U value = row[f];
      const bool is_better = Order::key(value, reversed) > Order::key(of_class[f], reversed);
      of_class[f] = is_better ? Order::settled(value) : of_class[f];
      found_at[f] = is_better ? position + i : found_at[f];
    }
  }
}

// The same for a single column, where a better value is rare. The first value of a class replaces the initial worst
// value even if it is equal to it.
template <class Order, class U>
void take_column(const int64_t* classes, const U* values, int64_t stride, int64_t count, int64_t position,
                 int64_t pitch, U reversed, U* best, int64_t* positions) {
  const U worst = Order::key(Order::worst(reversed), reversed);
  for (int64_t i = 0; i < count; ++i) {
    if (classes[i] < 0) continue;
    const int64_t at = classes[i] * pitch;
    const U value = values[i * stride], key = Order::key(value, reversed);
    if (key > Order::key(best[at], reversed) || (key == worst && positions[at] < 0)) {
      best[at] = Order::settled(value);
      positions[at] = position + i;
    }
  }
}

template <class Order>
void extremes_of_item(const ExtremesTask& task, int64_t item, typename Order::Bits reversed) {
  using U = typename Order::Bits;
  constexpr int64_t kLabels = 2048;  // read at a time
  const int64_t column = item % task.groups * task.columns, features = task.features;
  const int64_t part = item / task.groups % task.parts, outer = item / task.groups / task.parts;
  const int64_t columns = std::min(task.columns, features - column);
  const int64_t begin = part * task.block, end = std::min(task.inner, begin + task.block);
  const int64_t table = outer * task.classes * features + column + std::max<int64_t>(0, part - 1) * entries_of(task);
  U* best = static_cast<U*>(part == 0 ? task.best : task.other_best) + table;
  int64_t* positions = (part == 0 ? task.positions : task.other_positions) + table;
  for (int64_t c = 0; columns > 0 && c < task.classes; ++c) {
    std::fill_n(best + c * features, columns, Order::worst(reversed));
    std::fill_n(positions + c * features, columns, -1);
  }

  const U* values = static_cast<const U*>(task.values) + offset_of(task.outer_value_axes, outer);
  const bool has_rows = columns > 1 && task.feature_axes.is_one_run();
  int64_t classes[kLabels];
  for (int64_t first = begin; first < end; first += kLabels) {
    const int64_t count = std::min(kLabels, end - first);
    read_inner(task, outer, first, count, classes);
    const auto each = [&](const auto& body) { each_run(task.inner_value_axes, first, count, body); };
    if (has_rows)
      each([&](int64_t offset, int64_t stride, int64_t done, int64_t length) {
        take_rows<Order>(classes + done, values + offset + column, stride, length, first + done, columns, features,
                         reversed, best, positions);
      });
    else
      for (int64_t f = 0; f < columns; ++f) {
        const U* from = values + offset_of(task.feature_axes, column + f);
        each([&](int64_t offset, int64_t stride, int64_t done, int64_t length) {
          take_column<Order>(classes + done, from + offset, stride, length, first + done, features, reversed, best + f,
                             positions + f);
        });
      }
  }
}

template <class Body>
void with_reversed_order(const ExtremesTask& task, const Body& body) {
  with_order(task, [&](auto order) {
    using Bits = typename decltype(order)::Bits;
    body(order, static_cast<Bits>(task.largest ? Bits{0} : ~Bits{0}));
  });
}

static void class_extremes(const ExtremesTask& task, int64_t begin, int64_t end) {
  with_reversed_order(task, [&](auto order, auto reversed) {
    for (int64_t item = begin; item < end; ++item) extremes_of_item<decltype(order)>(task, item, reversed);
  });
}

// Merges the tables of all parts into entries [begin, end) of the result. Of equal values, that of the lower part is
// kept, which is the first.
static void merge_parts(const ExtremesTask& task, int64_t begin, int64_t end) {
  with_reversed_order(task, [&](auto order, auto reversed) {
    using U = decltype(reversed);
    U* best = static_cast<U*>(task.best);
    const U* other = static_cast<const U*>(task.other_best);
    const int64_t* found_at = task.other_positions;
    for (int64_t part = 1; part < task.parts; ++part, other += entries_of(task), found_at += entries_of(task))
      for (int64_t i = begin; i < end; ++i)
        if (found_at[i] >= 0 &&
            (task.positions[i] < 0 || order.key(other[i], reversed) > order.key(best[i], reversed))) {
          best[i] = other[i];
          task.positions[i] = found_at[i];
        }
  });
}

}  // namespace torchext::TORCHEXT_ISA
