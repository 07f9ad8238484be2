#include "common/isa.h"
#include "common/simd.h"
#include "onehot/labels/loops.h"
#include "onehot/class_overlap/task.h"

namespace torchext::TORCHEXT_ISA {

// Blocks are whole vectors: positions without a class fill up the last one.
template <class S>
using WholeLanes = std::integral_constant<int, kSimdBytes / static_cast<int>(sizeof(S))>;

template <class S>
using ClassOf = std::conditional_t<sizeof(S) == 8, int64_t, int32_t>;

// One block of positions: the class of each position, and rows of one value per position.
template <class T>
class OverlapBlock {
 public:
  using S = Compute<T>;
  using K = ClassOf<S>;
  static constexpr int kLanes = WholeLanes<S>::value;
  using V = Vec<S, kLanes>;
  using VK = Vec<K, kLanes>;

  // All ones means no class. Read as an unsigned number, K holds every class except the last of 2^32.
  static constexpr K kNone = -1;

  OverlapBlock(const OverlapTask& task, void* scratch)
      : task_(task),
        classes_(static_cast<K*>(scratch)),
        row_(reinterpret_cast<S*>(classes_ + task.block)),
        extra_(row_ + task.block),
        rows_(extra_ + task.block) {}

  void start(int64_t item) {
    const int64_t blocks = blocks_of(task_);
    outer_ = item / blocks;
    first_ = item % blocks * task_.block;
    count_ = std::min(task_.block, task_.inner - first_);
    padded_count_ = (count_ + kLanes - 1) / kLanes * kLanes;
    read_inner(task_, outer_, first_, count_, classes_);
    std::fill(classes_ + count_, classes_ + padded_count_, kNone);
    VK unused{};
    for (int64_t i = 0; i < padded_count_; i += kLanes) unused |= classes(i) == kNone;
    all_used_ = true;
    for (int l = 0; l < kLanes; ++l) all_used_ &= unused[l] == 0;
  }

  void forward(S* intersection, S* total, int64_t* support) {
    const int64_t classes = task_.classes;
    if (task_.activation == Activation::kSoftmax) softmax();
    for (int64_t c = 0; c < classes; ++c) {
      const S* values = probabilities(c);
      const auto add = [&](auto all_used, auto squared) {
        sum<all_used(), squared()>(values, c, intersection + c, total + c, support + c);
      };
      if (all_used_)
        task_.squared ? add(std::true_type{}, std::true_type{}) : add(std::true_type{}, std::false_type{});
      else
        task_.squared ? add(std::false_type{}, std::true_type{}) : add(std::false_type{}, std::false_type{});
    }
  }

  void backward() {
    const int64_t classes = task_.classes;
    if (task_.activation == Activation::kSoftmax) {
      softmax();
      std::fill(extra_, extra_ + padded_count_, S{0});
      for (int64_t c = 0; c < classes; ++c) {
        const S* values = rows_ + c * task_.block;
        each([&](int64_t i) { put(extra_ + i, get(extra_ + i) + get(values + i) * gradient(values, c, i)); });
      }
    }
    const bool reads = task_.activation != Activation::kNone || task_.squared;
    for (int64_t c = 0; c < classes; ++c) {
      const S* values = reads ? probabilities(c) : row_;
      S* out = gradient_row(c);
      each([&](int64_t i) {
        V grad = gradient(values, c, i);
        if (task_.activation == Activation::kSoftmax)
          grad = get(values + i) * (grad - get(extra_ + i));
        else if (task_.activation == Activation::kSigmoid)
          grad = get(values + i) * (1 - get(values + i)) * grad;
        // Checked again, because the values of a position without a class may be anything.
        put(out + i, this->classes(i) != kNone ? grad : V{});
      });
      if (out == row_) scatter(c);
    }
  }

  int64_t outer() const { return outer_; }

 private:
  VK classes(int64_t i) const {
    VK value;
    std::memcpy(&value, classes_ + i, sizeof value);
    return value;
  }
  static V get(const S* from) { return load<kLanes>(from); }
  static void put(S* to, V value) { store<kLanes>(to, value); }

  template <class Body>
  __attribute__((always_inline)) void each(const Body& body) const {
    for (int64_t i = 0; i < padded_count_; i += kLanes) body(i);
  }

  const T* scores(int64_t c) const {
    const ClassPlanes& planes = task_.score_planes;
    return static_cast<const T*>(task_.scores) + offset_of(planes.outer_axes, outer_) + c * planes.class_stride;
  }

  // Returns a class's scores as a row of whole vectors: in place if they are contiguous, otherwise in `row`.
  const S* read(int64_t c, S* row) const {
    const ClassPlanes& planes = task_.score_planes;
    const T* from = scores(c);
    const bool is_one_run = planes.inner_axes.is_one_run();
    if constexpr (std::is_same_v<S, T>)
      if (is_one_run && padded_count_ == count_) return from + first_;
    if (is_one_run) {
      if constexpr (std::is_same_v<S, T>)
        std::copy(from + first_, from + first_ + count_, row);
      else
        to_float(from + first_, row, count_);
    } else {
      each_run(planes.inner_axes, first_, count_, [&](int64_t offset, int64_t stride, int64_t done, int64_t length) {
        for (int64_t i = 0; i < length; ++i) row[done + i] = static_cast<S>(from[offset + i * stride]);
      });
    }
    std::fill(row + count_, row + padded_count_, S{0});
    return row;
  }

  const S* probabilities(int64_t c) {
    if (task_.activation == Activation::kSoftmax) return rows_ + c * task_.block;
    const S* values = read(c, extra_);
    if (task_.activation == Activation::kNone) return values;
    each([&](int64_t i) { put(extra_ + i, 1 / (1 + exponential<S, kLanes>(-get(values + i)))); });
    return extra_;
  }

  // Writes the softmax of all classes to `rows_`.
  void softmax() {
    const int64_t classes = task_.classes, pitch = task_.block;
    std::fill(row_, row_ + padded_count_, -std::numeric_limits<S>::infinity());
    for (int64_t c = 0; c < classes; ++c) {
      S* row = rows_ + c * pitch;
      const S* values = read(c, row);
      each([&](int64_t i) {
        const V value = get(values + i), highest = get(row_ + i);
        put(row + i, value);
        put(row_ + i, value > highest ? value : highest);
      });
    }
    std::fill(extra_, extra_ + padded_count_, S{0});
    for (int64_t c = 0; c < classes; ++c) {
      S* row = rows_ + c * pitch;
      each([&](int64_t i) {
        const V value = exponential<S, kLanes>(get(row + i) - get(row_ + i));
        put(row + i, value);
        put(extra_ + i, get(extra_ + i) + value);
      });
    }
    each([&](int64_t i) { put(extra_ + i, 1 / get(extra_ + i)); });
    for (int64_t c = 0; c < classes; ++c) {
      S* row = rows_ + c * pitch;
      each([&](int64_t i) { put(row + i, get(row + i) * get(extra_ + i)); });
    }
  }

  template <bool kAllUsed, bool kSquared>
  void sum(const S* values, int64_t c, S* intersection, S* total, int64_t* support) const {
    V hits{}, all{};
    VK found{};
    const VK wanted = VK{} + static_cast<K>(c);
    each([&](int64_t i) {
      const V value = get(values + i), added = kSquared ? value * value : value;
      const VK label = classes(i), hit = label == wanted;
      hits += hit ? value : V{};
      all += kAllUsed ? added : label != kNone ? added : V{};
      found -= hit;
    });
    *intersection = add_lanes<S, kLanes>(hits);
    *total = add_lanes<S, kLanes>(all);
    int64_t count = 0;
    for (int l = 0; l < kLanes; ++l) count += found[l];
    *support = count;
  }

  // The gradient with respect to the class's probabilities.
  V gradient(const S* values, int64_t c, int64_t i) const {
    const int64_t at = outer_ * task_.classes + c;
    const S intersection_gradient = static_cast<const S*>(task_.grad_intersection)[at];
    const S total_gradient = static_cast<const S*>(task_.grad_total)[at];
    const VK label = classes(i);
    V grad = V{} + total_gradient;
    if (task_.squared) grad *= 2 * get(values + i);
    grad += label == static_cast<K>(c) ? V{} + intersection_gradient : V{};
    return label != kNone ? grad : V{};
  }

  T* gradients(int64_t c) const {
    const ClassPlanes& planes = task_.grad_planes;
    return static_cast<T*>(task_.grad_scores) + offset_of(planes.outer_axes, outer_) + c * planes.class_stride;
  }

  // Where a class's gradients are written: in place if they are contiguous, otherwise in `row_`.
  S* gradient_row(int64_t c) const {
    const ClassPlanes& planes = task_.grad_planes;
    if constexpr (std::is_same_v<S, T>)
      if (padded_count_ == count_ && planes.inner_axes.is_one_run()) return gradients(c) + first_;
    return row_;
  }

  void scatter(int64_t c) const {
    const ClassPlanes& planes = task_.grad_planes;
    T* to = gradients(c);
    each_run(planes.inner_axes, first_, count_, [&](int64_t offset, int64_t stride, int64_t done, int64_t length) {
      if (stride == 1) {
        if constexpr (std::is_same_v<S, T>)
          std::copy(row_ + done, row_ + done + length, to + offset);
        else
          from_float(row_ + done, to + offset, length);
        return;
      }
      for (int64_t i = 0; i < length; ++i) to[offset + i * stride] = static_cast<T>(row_[done + i]);
    });
  }

  const OverlapTask& task_;
  K* classes_;
  S *row_, *extra_, *rows_;
  int64_t outer_, first_, count_, padded_count_;
  bool all_used_;
};

static void overlap(const OverlapTask& task, int64_t begin, int64_t end, void* scratch) {
  with_float_type(task.type, [&](auto type) {
    OverlapBlock<decltype(type)> block(task, scratch);
    using S = Compute<decltype(type)>;
    for (int64_t item = begin; item < end; ++item) {
      block.start(item);
      const int64_t first = item * task.classes;
      block.forward(static_cast<S*>(task.intersection) + first, static_cast<S*>(task.total) + first,
                    task.support + first);
    }
  });
}

static void overlap_backward(const OverlapTask& task, int64_t begin, int64_t end, void* scratch) {
  with_float_type(task.type, [&](auto type) {
    OverlapBlock<decltype(type)> block(task, scratch);
    for (int64_t item = begin; item < end; ++item) {
      block.start(item);
      block.backward();
    }
  });
}

}  // namespace torchext::TORCHEXT_ISA
