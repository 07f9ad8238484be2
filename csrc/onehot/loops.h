namespace torchext::TORCHEXT_ISA {

struct Bits128 {
  uint64_t low, high;
};

// A run of labels as K, the class or all ones where the row stays zero (ignored or bad). Returns whether one was bad.
template <class Label, class K>
bool read_run(const OneHotTask& task, const Label* labels, int64_t stride, int64_t count, K* classes) {
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
bool read_labels(const OneHotTask& task, const Label* labels, const Axis* axes, int count_axes, int64_t begin,
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

inline void note_bad(const OneHotTask& task, int64_t position) {
  int64_t lowest = task.bad.load(std::memory_order_relaxed);
  while (position < lowest && !task.bad.compare_exchange_weak(lowest, position, std::memory_order_relaxed)) {
  }
}

// The slow path: which of these labels is the first bad one? An ignored label reads as all ones too.
template <class Label>
void find_bad(const OneHotTask& task, const Label* labels, const Axis* axes, int count_axes, int64_t begin,
              int64_t count, int64_t first_position) {
  for (int64_t i = 0; i < count; ++i) {
    int64_t unused;
    if (read_labels(task, labels, axes, count_axes, begin + i, 1, &unused)) return note_bad(task, first_position + i);
  }
}

template <class U>
U bits_of(const char* bytes) {
  U value;
  std::memcpy(&value, bytes, sizeof(U));
  return value;
}

template <class U>
void fill(U* out, int64_t count, U value) {
  for (int64_t i = 0; i < count; ++i) out[i] = value;
}

// Rows of the classes axis, contiguous: fill, then set one entry each while the rows are still in cache.
template <class Label, class U>
void one_hot_rows(const OneHotTask& task, int64_t begin, int64_t end) {
  constexpr int64_t kRows = 512;
  constexpr int64_t kBytes = 64 * 1024;
  const U hot = bits_of<U>(task.hot), cold = bits_of<U>(task.cold);
  const int64_t step =
      std::min(kRows, std::max<int64_t>(1, kBytes / std::max<int64_t>(1, task.classes * int64_t{sizeof(U)})));
  const Label* labels = static_cast<const Label*>(task.labels);
  int64_t classes[kRows];
  for (int64_t row = begin; row < end; row += step) {
    const int64_t count = std::min(step, end - row);
    if (read_labels(task, labels, task.outer_axis, task.outer_axes, row, count, classes))
      find_bad(task, labels, task.outer_axis, task.outer_axes, row, count, row);
    if (task.out == nullptr) continue;
    U* out = static_cast<U*>(task.out) + row * task.classes;
    fill(out, count * task.classes, cold);
    for (int64_t i = 0; i < count; ++i, out += task.classes) {
      if (classes[i] >= 0)
        out[classes[i]] = hot;
      else if (!task.cold_is_zero)
        fill(out, task.classes, U{});
    }
  }
}

// One plane a class: the block's labels are read once, then compared with every class, each a contiguous run.
template <class Label, class U, class K>
void one_hot_planes(const OneHotTask& task, int64_t begin, int64_t end) {
  const U hot = bits_of<U>(task.hot), cold = bits_of<U>(task.cold);
  const int64_t blocks = (task.inner + kOneHotBlock - 1) / kOneHotBlock;
  alignas(64) K classes[kOneHotBlock];
  for (int64_t item = begin; item < end; ++item) {
    const int64_t outer = item / blocks, first = item % blocks * kOneHotBlock;
    const int64_t count = std::min(kOneHotBlock, task.inner - first);
    const Label* labels = static_cast<const Label*>(task.labels);
    int64_t rest = outer;
    for (int a = task.outer_axes - 1; a >= 0; --a) {
      labels += rest % task.outer_axis[a].size * task.outer_axis[a].stride;
      rest /= task.outer_axis[a].size;
    }
    if (read_labels(task, labels, task.inner_axis, task.inner_axes, first, count, classes))
      find_bad(task, labels, task.inner_axis, task.inner_axes, first, count, outer * task.inner + first);
    if (task.out == nullptr) continue;
    U* out = static_cast<U*>(task.out) + outer * task.classes * task.inner + first;
    for (int64_t c = 0; c < task.classes; ++c, out += task.inner) {
      const K label = static_cast<K>(c);
      if (task.cold_is_zero)
        for (int64_t i = 0; i < count; ++i) out[i] = classes[i] == label ? hot : cold;
      else
        for (int64_t i = 0; i < count; ++i)
          out[i] = classes[i] == label ? hot : classes[i] == static_cast<K>(-1) ? U{} : cold;
    }
  }
}

template <class Label, class U>
void one_hot_of(const OneHotTask& task, int64_t begin, int64_t end) {
  if (task.inner == 1) return one_hot_rows<Label, U>(task, begin, end);
  // Comparing in the output's own width needs no packing; all ones must not be a class.
  if constexpr (sizeof(U) <= 8) {
    if (sizeof(U) == 8 || task.classes < (int64_t{1} << (8 * sizeof(U) % 64)))
      return one_hot_planes<Label, U, U>(task, begin, end);
  }
  return one_hot_planes<Label, U, uint64_t>(task, begin, end);
}

template <class Label>
void class_indices_from(const OneHotTask& task, int64_t begin, int64_t end) {
  const Label* labels = static_cast<const Label*>(task.labels);
  int64_t* out = static_cast<int64_t*>(task.out) + begin;
  if (read_labels(task, labels, task.outer_axis, task.outer_axes, begin, end - begin, out))
    find_bad(task, labels, task.outer_axis, task.outer_axes, begin, end - begin, begin);
}

template <class Label>
void one_hot_from(const OneHotTask& task, int64_t begin, int64_t end) {
  switch (task.element_size) {
    case 1:
      return one_hot_of<Label, uint8_t>(task, begin, end);
    case 2:
      return one_hot_of<Label, uint16_t>(task, begin, end);
    case 4:
      return one_hot_of<Label, uint32_t>(task, begin, end);
    case 8:
      return one_hot_of<Label, uint64_t>(task, begin, end);
    default:
      return one_hot_of<Label, Bits128>(task, begin, end);
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

static void one_hot(const OneHotTask& task, int64_t begin, int64_t end) {
  with_label_type(task.label_type, [&](auto label) { one_hot_from<decltype(label)>(task, begin, end); });
}

static void class_indices(const OneHotTask& task, int64_t begin, int64_t end) {
  with_label_type(task.label_type, [&](auto label) { class_indices_from<decltype(label)>(task, begin, end); });
}

}  // namespace torchext::TORCHEXT_ISA
