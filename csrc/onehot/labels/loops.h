// Code that all loops with labels share.
#include "common/dtypes.h"
#include "common/isa.h"
#include "common/runs.h"
#include "common/scratch.h"
#include "onehot/labels/task.h"

#if defined(TORCHEXT_LABEL_LOOPS) == defined(TORCHEXT_SECOND_ISA)  // see isa.h
#if defined(TORCHEXT_LABEL_LOOPS)
#undef TORCHEXT_LABEL_LOOPS
#else
#define TORCHEXT_LABEL_LOOPS
#endif

namespace torchext::TORCHEXT_ISA {

// Calls body with the labels, as Truth if they are bool. Bool labels are otherwise handled as bytes, so that loops are
// not compiled for another type.
template <class Label, class Body>
auto as_labels(const LabelTask& task, const Label* labels, const Body& body) {
  if constexpr (std::is_same_v<Label, uint8_t>)
    if (task.label_type == ScalarType::Bool) return body(reinterpret_cast<const Truth*>(labels));
  return body(labels);
}

// Reads a run of labels as K: the class, or all ones if the row stays zero (an ignored or bad label). Returns whether
// one was bad. The labels are copied before they are checked, because another thread may write to them: a compiler may
// otherwise read a label for the check and read it again as the class.
template <class Label, class K>
bool read_run(const LabelTask& task, const Label* labels, int64_t stride, int64_t count, K* classes) {
  // narrow numbers, because more of them fit into a vector
  using Wide = std::conditional_t<sizeof(Label) < 4, int32_t, int64_t>;
  using Bits = std::make_unsigned_t<Wide>;
  constexpr std::integral_constant<int64_t, 32> kAtOnce{};
  const Bits limit = static_cast<Bits>(std::min<int64_t>(task.classes, std::numeric_limits<Wide>::max()));
  const Wide ignored_label = static_cast<Wide>(task.ignored);
  Bits bad = 0;
  const auto read = [&](auto length, auto step, auto has_ignored) {
    Label copied[kAtOnce];
    for (int64_t i = 0; i < length; ++i) copied[i] = labels[i * step];
    std::atomic_signal_fence(std::memory_order_seq_cst);  // what follows reads the copies
    for (int64_t i = 0; i < length; ++i) {
      const Wide label = static_cast<Wide>(copied[i]);
      const bool inside = static_cast<Bits>(label) < limit;
      const bool ignored = has_ignored && label == ignored_label;
      classes[i] = inside && !ignored ? static_cast<K>(label) : static_cast<K>(-1);
      bad |= static_cast<Bits>(!inside && !ignored);
    }
  };
  const auto read_all = [&](auto step, auto has_ignored) {
    for (; count >= kAtOnce; count -= kAtOnce, labels += kAtOnce * step, classes += kAtOnce)
      read(kAtOnce, step, has_ignored);  // a constant length is vectorised
    read(count, step, has_ignored);
  };
  const auto read_with_step = [&](auto step) {
    if (task.has_ignored && ignored_label == task.ignored)
      read_all(step, std::true_type{});
    else
      read_all(step, std::false_type{});
  };
  if (stride == 1)
    read_with_step(std::integral_constant<int64_t, 1>{});
  else
    read_with_step(stride);
  return bad != 0;
}

// Calls body(offset, stride, done, length) for the runs of entries [begin, begin + count) in the row-major order of the
// axes.
template <class Body>
void each_run(const Axes& axes, int64_t begin, int64_t count, const Body& body) {
  if (axes.count == 0) return body(int64_t{0}, int64_t{1}, int64_t{0}, count);
  const Axis last = axes[axes.count - 1];
  for (int64_t done = 0; done < count;) {
    int64_t above = (begin + done) / last.size;
    const int64_t column = (begin + done) % last.size;
    int64_t offset = column * last.stride;
    for (int a = axes.count - 2; a >= 0; --a) {
      offset += above % axes[a].size * axes[a].stride;
      above /= axes[a].size;
    }
    const int64_t length = std::min(count - done, last.size - column);
    body(offset, last.stride, done, length);
    done += length;
  }
}

inline int64_t offset_of(const Axes& axes, int64_t position) {
  int64_t offset = 0;
  for (int a = axes.count - 1; a >= 0; --a) {
    offset += position % axes[a].size * axes[a].stride;
    position /= axes[a].size;
  }
  return offset;
}

// Reads labels [begin, begin + count) in the row-major order of the axes, which start at `labels`. Returns whether one
// was bad.
template <class Label, class K>
bool read_labels(const LabelTask& task, const Label* labels, const Axes& axes, int64_t begin, int64_t count,
                 K* classes) {
  return as_labels(task, labels, [&](const auto* data) {
    bool bad = false;
    each_run(axes, begin, count, [&](int64_t offset, int64_t stride, int64_t done, int64_t length) {
      bad |= read_run(task, data + offset, stride, length, classes + done);
    });
    return bad;
  });
}

inline void note_bad(const LabelTask& task, int64_t position) {
  int64_t lowest = task.bad.load(std::memory_order_relaxed);
  while (position < lowest && !task.bad.compare_exchange_weak(lowest, position, std::memory_order_relaxed)) {
  }
}

// The slow path: records the first bad one of these labels. They are read again because an ignored label is also all
// ones.
template <class Label>
void find_bad(const LabelTask& task, const Label* labels, const Axes& axes, int64_t begin, int64_t count,
              int64_t first_position) {
  for (int64_t i = 0; i < count; ++i) {
    int64_t unused;
    if (read_labels(task, labels, axes, begin + i, 1, &unused)) return note_bad(task, first_position + i);
  }
}

// The labels of one outer index.
template <class Label>
const Label* labels_of(const LabelTask& task, int64_t outer) {
  return static_cast<const Label*>(task.labels) + offset_of(task.outer_axes, outer);
}

// Calls body with a value of the C++ type of the labels. Bool labels are bytes, see as_labels. Labels of uint64 wrap:
// from 2^63 on they become negative numbers, which are not classes either.
template <class Body>
void with_label_type(ScalarType type, const Body& body) {
  with_type<uint8_t, int8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t>(
      type == ScalarType::Bool ? ScalarType::Byte : type, body);
}

// These functions are not inlined: with all types of labels they would be most of the code of each loop, and a call
// reads many labels.

// Reads the classes of inner positions [first, first + count) of one outer index. Bad labels are recorded.
template <class K>
[[gnu::noinline]] void read_inner(const LabelTask& task, int64_t outer, int64_t first, int64_t count, K* classes) {
  with_label_type(task.label_type, [&](auto label) {
    const auto* labels = labels_of<decltype(label)>(task, outer);
    if (read_labels(task, labels, task.inner_axes, first, count, classes))
      find_bad(task, labels, task.inner_axes, first, count, outer * task.inner + first);
  });
}

// Reads the classes of outer positions [begin, begin + count), which have one label each. Bad labels are recorded.
template <class K>
[[gnu::noinline]] void read_outer(const LabelTask& task, int64_t begin, int64_t count, K* classes) {
  with_label_type(task.label_type, [&](auto label) {
    const auto* labels = static_cast<const decltype(label)*>(task.labels);
    if (read_labels(task, labels, task.outer_axes, begin, count, classes))
      find_bad(task, labels, task.outer_axes, begin, count, begin);
  });
}

// Rows of an output whose classes are the last axis. They are written in place or, if the task streams, in a buffer in
// the first-level cache, from which they are copied. If a row does not fit there, it is filled by streaming.
template <class U>
class StagedRows {
 public:
  template <class Task>
  StagedRows(const Task& task, int64_t most_rows)
      : out_(static_cast<U*>(task.out)),
        classes_(task.classes),
        streams_(task.streams),
        staged_(streams_ && classes_ * int64_t{sizeof(U)} <= kStreamedBytes),
        buffer_(scratch<U>("one_hot", staged_    ? most_rows * classes_
                                      : streams_ ? kPart
                                                 : 0)) {}

  // Returns where to write the rows from `row` on.
  U* start(int64_t row) const { return staged_ ? buffer_.get() : out_ + row * classes_; }

  // The same, and fills so many rows with a value.
  U* start_filled(int64_t row, int64_t count, U value, bool is_zero) const {
    U* const rows = start(row);
    count *= classes_;
    if (streams_ && !staged_) {
      fill(buffer_.get(), std::min(kPart, count), value);
      for (int64_t i = 0; i < count; i += kPart) stream(buffer_.get(), std::min(kPart, count - i), rows + i);
    } else if (is_zero) {
      std::memset(static_cast<void*>(rows), 0, static_cast<size_t>(count) * sizeof(U));
    } else {
      fill(rows, count, value);
    }
    return rows;
  }

  // Call it after the rows have been written.
  void finish(int64_t row, int64_t count) const {
    if (staged_) stream(buffer_.get(), count * classes_, out_ + row * classes_);
  }

 private:
  static constexpr int64_t kPart = kStreamedBytes / sizeof(U);

  U* out_;
  int64_t classes_;
  bool streams_, staged_;
  std::unique_ptr<U[]> buffer_;
};

}  // namespace torchext::TORCHEXT_ISA

#endif
