#include "common/bits.h"
#include "common/isa.h"
#include "common/runs.h"
#include "common/scratch.h"
#include "onehot/labels/loops.h"
#include "onehot/one_hot/task.h"

namespace torchext::TORCHEXT_ISA {

// The classes are the last axis: fills rows, then sets one entry of each while the rows are still in the cache.
template <class U>
void one_hot_rows(const OneHotTask& task, int64_t begin, int64_t end) {
  constexpr int64_t kRows = 512;
  const int64_t bytes = task.streams ? kStreamedBytes : 64 * 1024;
  const U hot = bits_of<U>(task.hot), cold = bits_of<U>(task.cold);
  const int64_t step = std::clamp<int64_t>(bytes / std::max<int64_t>(1, task.classes * int64_t{sizeof(U)}), 1, kRows);
  int64_t classes[kRows];
  const StagedRows<U> staged(task, step);
  for (int64_t row = begin; row < end; row += step) {
    const int64_t count = std::min(step, end - row);
    read_outer(task, row, count, classes);
    if (task.out == nullptr) continue;
    U* out = staged.start_filled(row, count, cold, task.cold_is_zero);
    for (int64_t i = 0; i < count; ++i, out += task.classes) {
      if (classes[i] >= 0)
        out[classes[i]] = hot;
      else if (!task.cold_is_zero)
        fill(out, task.classes, U{});
    }
    staged.finish(row, count);
  }
}

// There is one plane per class. The labels of a block are read once and then compared with every class, each of which
// is a contiguous run.
template <class U, class K>
void write_planes(const OneHotTask& task, const K* classes, int64_t count, U* out) {
  const U hot = bits_of<U>(task.hot), cold = bits_of<U>(task.cold);
  for (int64_t c = 0; c < task.classes; ++c, out += task.inner) {
    const K label = static_cast<K>(c);
    // Copies are captured: a reference might be to one of the bytes that are written.
    write_run(task.streams, out, count, [=, is_zero = task.cold_is_zero](int64_t first, int64_t length, U* to) {
      const K* from = classes + first;
      if (is_zero)
        for (int64_t i = 0; i < length; ++i) to[i] = from[i] == label ? hot : cold;
      else
        for (int64_t i = 0; i < length; ++i)
          to[i] = from[i] == label ? hot : from[i] == static_cast<K>(-1) ? U{} : cold;
    });
  }
}

template <class U, class K>
void one_hot_planes(const OneHotTask& task, int64_t begin, int64_t end) {
  const int64_t blocks = blocks_of(task);
  const auto classes = scratch<K>("one_hot", task.block);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t outer = item / blocks, first = item % blocks * task.block;
    const int64_t count = std::min(task.block, task.inner - first);
    read_inner(task, outer, first, count, classes.get());
    if (task.out == nullptr) continue;
    write_planes(task, classes.get(), count, static_cast<U*>(task.out) + outer * task.classes * task.inner + first);
  }
}

template <class U>
void one_hot_of(const OneHotTask& task, int64_t begin, int64_t end) {
  if (task.inner == 1) return one_hot_rows<U>(task, begin, end);
  // All ones means that a row stays zero, so that it must not be a class.
  if (task.classes <= 0xff) return one_hot_planes<U, uint8_t>(task, begin, end);
  if (task.classes <= 0xffff) return one_hot_planes<U, uint16_t>(task, begin, end);
  return one_hot_planes<U, uint64_t>(task, begin, end);
}

static void one_hot(const OneHotTask& task, int64_t begin, int64_t end) {
  with_bits(task.element_size, [&](auto bits) { one_hot_of<decltype(bits)>(task, begin, end); });
}

static void class_indices(const OneHotTask& task, int64_t begin, int64_t end) {
  read_outer(task, begin, end - begin, static_cast<int64_t*>(task.out) + begin);
}

}  // namespace torchext::TORCHEXT_ISA
