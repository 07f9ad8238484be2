// What loops that read labels share.
namespace torchext::TORCHEXT_ISA {

// A run of labels as K, the class or all ones where the row stays zero (ignored or bad). Returns whether one was bad.
template <class Label, class K>
bool read_run(const LabelTask& task, const Label* labels, int64_t stride, int64_t count, K* classes) {
  const uint64_t limit = static_cast<uint64_t>(task.classes);
  uint64_t bad = 0;
  const auto read = [&](auto step) {
    if (task.has_ignored) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t label = static_cast<int64_t>(labels[i * step]);
        const bool inside = static_cast<uint64_t>(label) < limit;
        const bool ignored = label == task.ignored;
        classes[i] = inside && !ignored ? static_cast<K>(label) : static_cast<K>(-1);
        bad |= static_cast<uint64_t>(!inside && !ignored);
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t label = static_cast<int64_t>(labels[i * step]);
        const bool inside = static_cast<uint64_t>(label) < limit;
        classes[i] = inside ? static_cast<K>(label) : static_cast<K>(-1);
        bad |= static_cast<uint64_t>(!inside);
      }
    }
  };
  if (stride == 1)
    read(std::integral_constant<int64_t, 1>{});  // a constant step vectorises
  else
    read(stride);
  return bad != 0;
}

// Labels [begin, begin + count) in the row-major order of the axes, which start at `labels`.
template <class Label, class K>
bool read_labels(const LabelTask& task, const Label* labels, const Axis* axes, int count_axes, int64_t begin,
                 int64_t count, K* classes) {
  if (count_axes == 0) return read_run(task, labels, 1, count, classes);
  const Axis last = axes[count_axes - 1];
  bool bad = false;
  for (int64_t done = 0; done < count;) {
    int64_t rest = (begin + done) / last.size;
    const int64_t column = (begin + done) % last.size;
    const Label* run = labels + column * last.stride;
    for (int a = count_axes - 2; a >= 0; --a) {
      run += rest % axes[a].size * axes[a].stride;
      rest /= axes[a].size;
    }
    const int64_t length = std::min(count - done, last.size - column);
    bad |= read_run(task, run, last.stride, length, classes + done);
    done += length;
  }
  return bad;
}

inline void note_bad(const LabelTask& task, int64_t position) {
  int64_t lowest = task.bad.load(std::memory_order_relaxed);
  while (position < lowest && !task.bad.compare_exchange_weak(lowest, position, std::memory_order_relaxed)) {
  }
}

// The slow path: which of these labels is the first bad one? An ignored label reads as all ones too.
template <class Label>
void find_bad(const LabelTask& task, const Label* labels, const Axis* axes, int count_axes, int64_t begin,
              int64_t count, int64_t first_position) {
  for (int64_t i = 0; i < count; ++i) {
    int64_t unused;
    if (read_labels(task, labels, axes, count_axes, begin + i, 1, &unused)) return note_bad(task, first_position + i);
  }
}

// Calls body with a value of the C++ type of the labels.
template <class Body>
void with_label_type(torch::headeronly::ScalarType type, const Body& body) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      return body(uint8_t{});
    case ScalarType::Char:
      return body(int8_t{});
    case ScalarType::Short:
      return body(int16_t{});
    case ScalarType::UInt16:
      return body(uint16_t{});
    case ScalarType::Int:
      return body(int32_t{});
    case ScalarType::UInt32:
      return body(uint32_t{});
    default:
      // uint64 labels from 2^63 on wrap to negative ones, which are no class either.
      return body(int64_t{});
  }
}

}  // namespace torchext::TORCHEXT_ISA
