// class_overlap and its backward, every thread on the host, against loops over the definition.
#include "cuda_on_host.h"

#include "check.h"
#include "labels.h"
#include "onehot/overlap_kernels.cuh"

using namespace torchext;

// One strided tensor (outer, classes, inner).
template <class T>
struct Planes {
  ClassPlanes planes;
  std::vector<T> memory;

  // The axes of the labels with the classes somewhere between them.
  void lay_out_like(const LabelTask& task, Random& random) {
    planes.outer_axes = task.outer_axes;
    planes.inner_axes = task.inner_axes;
    std::copy(task.outer_axis, task.outer_axis + task.outer_axes, planes.outer_axis);
    std::copy(task.inner_axis, task.inner_axis + task.inner_axes, planes.inner_axis);
    Axis classes{task.classes, 1};
    std::vector<Axis*> axes;
    for (int a = 0; a < planes.outer_axes; ++a) axes.push_back(&planes.outer_axis[a]);
    axes.push_back(&classes);
    for (int a = 0; a < planes.inner_axes; ++a) axes.push_back(&planes.inner_axis[a]);
    lay_out(axes, random, false);
    planes.class_stride = classes.stride;
    const int64_t last = last_offset(planes.outer_axis, planes.outer_axes) +
                         last_offset(planes.inner_axis, planes.inner_axes) + (task.classes - 1) * planes.class_stride;
    memory.resize(static_cast<size_t>(last + 1));
  }

  T& at(int64_t outer, int64_t c, int64_t inner) {
    int64_t offset = c * planes.class_stride;
    for (int a = planes.outer_axes - 1; a >= 0; outer /= planes.outer_axis[a--].size)
      offset += outer % planes.outer_axis[a].size * planes.outer_axis[a].stride;
    for (int a = planes.inner_axes - 1; a >= 0; inner /= planes.inner_axis[a--].size)
      offset += inner % planes.inner_axis[a].size * planes.inner_axis[a].stride;
    return memory[static_cast<size_t>(offset)];
  }
};

template <class T>
static bool near(T value, double expected) {
  const double tolerance = sizeof(T) == 2 ? 1e-2 : sizeof(T) == 4 ? 2e-5 : 1e-11;
  return std::abs(static_cast<double>(value) - expected) <= tolerance * (1 + std::abs(expected));
}

template <class T, class Index>
static void check(Random& random, cuda_on_host::Launcher& launch) {
  using C = Compute<T>;
  OverlapTask task;
  LabelCase labelled;
  task.classes = random.one_of({1, 2, 3, 5, 31, 32, 33, 70});
  task.outer_axes = static_cast<int>(random.between(0, 2));
  task.inner_axes = static_cast<int>(random.between(0, 2));
  task.outer = task.inner = 1;
  for (int a = 0; a < task.outer_axes; ++a) task.outer *= task.outer_axis[a].size = random.between(2, 3);
  for (int a = 0; a < task.inner_axes; ++a)
    task.inner *= task.inner_axis[a].size = random.one_of({2, 3, 8, 33, a == 0 && task.classes < 6 ? 700 : 40});
  task.activation = static_cast<Activation>(random.between(0, 2));
  task.squared = random.flip();
  make_labels(task, labelled, random);
  Planes<T> scores, grads;
  scores.lay_out_like(task, random);
  grads.lay_out_like(task, random);
  for (T& score : scores.memory) score = static_cast<T>(static_cast<C>(random.between(-300, 300)) / C(100));
  task.scores = scores.memory.data();
  task.score_planes = scores.planes;
  task.grad_scores = grads.memory.data();
  task.grad_planes = grads.planes;

  const size_t entries = static_cast<size_t>(task.outer * task.classes);
  std::vector<C> intersection(entries), total(entries), grad_intersection(entries), grad_total(entries);
  std::vector<int64_t> support(entries, 77);
  for (C& grad : grad_intersection) grad = static_cast<C>(random.between(-9, 9));
  for (C& grad : grad_total) grad = static_cast<C>(random.between(-9, 9));
  task.grad_intersection = grad_intersection.data();
  task.grad_total = grad_total.data();
  std::vector<char> sums(overlap_sums_bytes<T, Index>(task));
  launch.launches = 0;
  run_overlap<T, Index>(task, labelled.records ? &labelled.shape : nullptr, sums.data(), intersection.data(),
                        total.data(), support.data(), launch);
  CHECK(launch.launches == 2);
  check_record(task, labelled);
  launch.launches = 0;
  run_overlap_backward<T, Index>(task, launch);
  CHECK(launch.launches == 1);

  for (int64_t outer = 0; outer < task.outer; ++outer) {
    std::vector<double> wanted_intersection(static_cast<size_t>(task.classes)), wanted_total = wanted_intersection;
    std::vector<int64_t> wanted_support(static_cast<size_t>(task.classes));
    const C* of_intersection = &grad_intersection[static_cast<size_t>(outer * task.classes)];
    const C* of_total = &grad_total[static_cast<size_t>(outer * task.classes)];
    for (int64_t inner = 0; inner < task.inner; ++inner) {
      const int64_t label = class_of(task, labelled.labels[static_cast<size_t>(outer * task.inner + inner)]);
      std::vector<double> p(static_cast<size_t>(task.classes)), grad = p;
      double sum = 0, dot = 0;
      for (int64_t c = 0; c < task.classes; ++c) {
        const size_t k = static_cast<size_t>(c);
        p[k] = static_cast<double>(scores.at(outer, c, inner));
        if (task.activation == Activation::kSoftmax) p[k] = std::exp(p[k]);
        if (task.activation == Activation::kSigmoid) p[k] = 1 / (1 + std::exp(-p[k]));
        sum += p[k];
      }
      for (int64_t c = 0; c < task.classes; ++c) {
        const size_t k = static_cast<size_t>(c);
        if (task.activation == Activation::kSoftmax) p[k] /= sum;
        if (label >= 0) wanted_total[k] += task.squared ? p[k] * p[k] : p[k];
        if (label == c) wanted_intersection[k] += p[k];
        wanted_support[k] += label == c;
        grad[k] = static_cast<double>(of_total[c]) * (task.squared ? 2 * p[k] : 1);
        if (label == c) grad[k] += static_cast<double>(of_intersection[c]);
        dot += grad[k] * p[k];
      }
      for (int64_t c = 0; c < task.classes; ++c) {
        const size_t k = static_cast<size_t>(c);
        double through = grad[k];
        if (task.activation == Activation::kSoftmax) through = p[k] * (grad[k] - dot);
        if (task.activation == Activation::kSigmoid) through = p[k] * (1 - p[k]) * grad[k];
        CHECK(near(grads.at(outer, c, inner), label < 0 ? 0.0 : through));
      }
    }
    for (int64_t c = 0; c < task.classes; ++c) {
      const size_t k = static_cast<size_t>(c), at = static_cast<size_t>(outer * task.classes + c);
      CHECK(near(intersection[at], wanted_intersection[k]));
      CHECK(near(total[at], wanted_total[k]));
      CHECK(support[at] == wanted_support[k]);
    }
  }
}

int main(int argc, char** argv) {
  const uint32_t seed = seed_of(argc, argv);
  Random random(seed);
  cuda_on_host::Launcher launch;
  launch.random.seed(seed);
  for (int i = 0; i < 8; ++i) {
    launch.processors = random.one_of({1, 132});
    check<float, int32_t>(random, launch);
    check<float, int64_t>(random, launch);
    check<double, int32_t>(random, launch);
    check<c10::Half, int32_t>(random, launch);
    check<c10::BFloat16, int64_t>(random, launch);
  }
}
