// Counts, sums and rows of classes, every thread on the host, against loops over the definitions.
#include "cuda_on_host.h"

#include "check.h"
#include "labels.h"
#include "onehot/sums_kernels.cuh"

using namespace torchext;

static void choose_sizes(LabelTask& task, Random& random) {
  task.outer_axes = static_cast<int>(random.between(0, 2));
  task.inner_axes = static_cast<int>(random.between(0, 2));
  task.outer = task.inner = 1;
  for (int a = 0; a < task.outer_axes; ++a) task.outer *= task.outer_axis[a].size = random.between(2, 3);
  for (int a = 0; a < task.inner_axes; ++a)
    task.inner *= task.inner_axis[a].size = random.one_of({2, 3, 33, a == 0 ? 700 : 40});
}

template <class Index>
static void check_counts(Random& random, cuda_on_host::Launcher& launch) {
  CountsTask task;
  LabelCase labelled;
  task.classes = random.one_of({1, 2, 5, 31, 300, 9000});
  choose_sizes(task, random);
  make_labels(task, labelled, random);
  task.bins = task.classes;
  std::vector<int64_t> counts(static_cast<size_t>(task.outer * task.bins)), wanted = counts;
  task.counts = counts.data();
  launch.launches = 0;
  run_counts<Index>(task, labelled.records ? &labelled.shape : nullptr, nullptr, launch);
  CHECK(launch.launches == 1);
  check_record(task, labelled);
  for (size_t p = 0; p < labelled.labels.size(); ++p) {
    const int64_t label = class_of(task, labelled.labels[p]);
    if (label >= 0) ++wanted[static_cast<size_t>(static_cast<int64_t>(p) / task.inner * task.bins + label)];
  }
  CHECK(counts == wanted);
}

template <class Index>
static void check_pairs(Random& random, cuda_on_host::Launcher& launch) {
  CountsTask task;
  LabelTask of_predicted;
  LabelCase targets, predictions;
  task.classes = of_predicted.classes = random.one_of({1, 2, 5, 31, 120});
  choose_sizes(task, random);
  of_predicted.outer_axes = task.outer_axes;
  of_predicted.inner_axes = task.inner_axes;
  of_predicted.outer = task.outer;
  of_predicted.inner = task.inner;
  std::copy(task.outer_axis, task.outer_axis + task.outer_axes, of_predicted.outer_axis);
  std::copy(task.inner_axis, task.inner_axis + task.inner_axes, of_predicted.inner_axis);
  make_labels(of_predicted, predictions, random);
  of_predicted.has_ignored = false;
  make_labels(task, targets, random);
  targets.shape.argument = kTarget;
  predictions.shape.argument = kPredicted;
  task.predicted = &of_predicted;
  task.bins = task.classes * task.classes;
  std::vector<int64_t> counts(static_cast<size_t>(task.outer * task.bins)), wanted = counts;
  task.counts = counts.data();
  run_counts<Index>(task, &targets.shape, &predictions.shape, launch);
  int64_t first_bad = kNoBadLabel;
  LabelArgument argument = kLabels;
  for (size_t p = 0; p < targets.labels.size(); ++p) {
    if (task.has_ignored && targets.labels[p] == task.ignored) continue;
    const int64_t row = class_of(task, targets.labels[p]), column = class_of(of_predicted, predictions.labels[p]);
    if (row >= 0 && column >= 0) {
      const int64_t outer = static_cast<int64_t>(p) / task.inner;
      ++wanted[static_cast<size_t>(outer * task.bins + row * task.classes + column)];
    } else if (first_bad == kNoBadLabel) {
      first_bad = static_cast<int64_t>(p);
      argument = column < 0 ? kPredicted : kTarget;
    }
  }
  CHECK(counts == wanted);
  CHECK(bad_label.position == first_bad);
  CHECK(first_bad == kNoBadLabel || bad_label.argument == argument);
  bad_label.position = kNoBadLabel;
}

// Values beside the labels, with axes of features somewhere between theirs.
template <class T>
struct Values {
  std::vector<T> memory;

  void lay_out_like(SumsTask& task, Random& random) {
    task.outer_value_axes = task.outer_axes;
    task.inner_value_axes = task.inner_axes;
    std::copy(task.outer_axis, task.outer_axis + task.outer_axes, task.outer_value_axis);
    std::copy(task.inner_axis, task.inner_axis + task.inner_axes, task.inner_value_axis);
    task.feature_axes = static_cast<int>(random.between(0, 2));
    task.features = 1;
    for (int a = 0; a < task.feature_axes; ++a)
      task.features *= task.feature_axis[a].size = random.one_of({2, 3, 7, 8, a == 0 ? 33 : 5});
    std::vector<Axis*> axes;
    for (int a = 0; a < task.outer_axes; ++a) axes.push_back(&task.outer_value_axis[a]);
    for (int a = 0; a < task.inner_axes; ++a) axes.push_back(&task.inner_value_axis[a]);
    for (int a = 0; a < task.feature_axes; ++a) axes.push_back(&task.feature_axis[a]);
    lay_out(axes, random, false);
    const int64_t last = last_offset(task.outer_value_axis, task.outer_axes) +
                         last_offset(task.inner_value_axis, task.inner_axes) +
                         last_offset(task.feature_axis, task.feature_axes);
    memory.resize(static_cast<size_t>(last + 1));
    // Small integers: their sums are exact in every type and order.
    for (T& value : memory) value = static_cast<T>(static_cast<float>(random.between(0, 3)));
    task.values = memory.data();
  }
};

static int64_t strided(const Axis* axes, int count, int64_t position) {
  int64_t offset = 0;
  for (int a = count - 1; a >= 0; position /= axes[a--].size) offset += position % axes[a].size * axes[a].stride;
  return offset;
}

template <class T, class Out, class Index>
static void check_sums(Random& random, cuda_on_host::Launcher& launch) {
  SumsTask task;
  LabelCase labelled;
  Values<T> values;
  task.classes = random.one_of({1, 2, 5, 31, 300});
  choose_sizes(task, random);
  make_labels(task, labelled, random);
  values.lay_out_like(task, random);
  task.value_size = sizeof(T);
  std::vector<Out> sums(static_cast<size_t>(task.outer * task.classes * task.features), static_cast<Out>(7.0f));
  task.sums = sums.data();
  std::vector<int64_t> workspace(static_cast<size_t>(order_bytes<Index>(task, launch) / 8 + 1));
  std::vector<char> pieces(static_cast<size_t>(piece_bytes<T>(task, launch)));
  launch.launches = 0;
  run_sums<T, Out, Index>(task, labelled.records ? &labelled.shape : nullptr, workspace.data(), pieces.data(), launch);
  CHECK(launch.launches == 5);
  check_record(task, labelled);

  std::vector<double> wanted(sums.size());
  for (int64_t p = 0; p < task.outer * task.inner; ++p) {
    const int64_t label = class_of(task, labelled.labels[static_cast<size_t>(p)]);
    const int64_t row = strided(task.outer_value_axis, task.outer_axes, p / task.inner) +
                        strided(task.inner_value_axis, task.inner_axes, p % task.inner);
    for (int64_t f = 0; f < task.features && label >= 0; ++f) {
      const int64_t at = (p / task.inner * task.classes + label) * task.features + f;
      const T value = values.memory[static_cast<size_t>(row + strided(task.feature_axis, task.feature_axes, f))];
      wanted[static_cast<size_t>(at)] += static_cast<double>(static_cast<float>(value));
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    // Rounded once, or wrapped.
    if constexpr (std::is_integral_v<Out>)
      CHECK(sums[i] == static_cast<Out>(static_cast<int64_t>(wanted[i])));
    else
      CHECK(static_cast<double>(sums[i]) == static_cast<double>(static_cast<Out>(static_cast<float>(wanted[i]))));
  }

  // The order is that of a stable sort.
  const Index* order = reinterpret_cast<const Index*>(workspace.data());
  const OrderPlan plan = order_plan(task, launch);
  const Index* starts = order + plan.blocks * plan.keys;
  order = starts + 2 * (plan.keys + 1);
  for (int64_t key = 0, next = 0; key < plan.keys; ++key) {
    CHECK(starts[key] == next);
    for (int64_t inner = 0; inner < task.inner; ++inner) {
      const int64_t p = key / task.classes * task.inner + inner;
      if (class_of(task, labelled.labels[static_cast<size_t>(p)]) == key % task.classes) CHECK(order[next++] == p);
    }
    CHECK(starts[key + 1] == next);
  }
}

template <class Index>
static void check_rows(Random& random, cuda_on_host::Launcher& launch) {
  RowsTask task;
  LabelCase labelled;
  task.classes = random.one_of({1, 2, 5, 31});
  choose_sizes(task, random);
  make_labels(task, labelled, random);
  const int element = static_cast<int>(random.one_of({1, 2, 4, 8, 16}));
  task.row_bytes = element * random.one_of({1, 3, 4, 16});
  const size_t row = static_cast<size_t>(task.row_bytes);
  // Elements are aligned to their own size, but those of 16 bytes to 8 alone.
  const size_t shift = random.flip() ? static_cast<size_t>(std::min(element, 8)) : 0;
  std::vector<char> all_sums(shift + static_cast<size_t>(task.outer * task.classes) * row);
  for (char& byte : all_sums) byte = static_cast<char>(random.between(1, 100));
  std::vector<char> all_out(shift + static_cast<size_t>(task.outer * task.inner) * row, 77);
  const char* sums = all_sums.data() + shift;
  const char* out = all_out.data() + shift;
  task.sums = sums;
  task.out = all_out.data() + shift;
  run_rows<Index>(task, rows_unit(task), launch);
  for (size_t p = 0; p < labelled.labels.size(); ++p) {
    const int64_t label = class_of(task, labelled.labels[p]);
    const int64_t at = static_cast<int64_t>(p) / task.inner * task.classes + label;
    for (size_t b = 0; b < row; ++b)
      CHECK(out[p * row + b] == (label < 0 ? 0 : sums[static_cast<size_t>(at) * row + b]));
  }
  CHECK(bad_label.position == kNoBadLabel);
}

int main(int argc, char** argv) {
  const uint32_t seed = seed_of(argc, argv);
  Random random(seed);
  cuda_on_host::Launcher launch;
  launch.random.seed(seed);
  for (int i = 0; i < 8; ++i) {
    launch.processors = random.one_of({1, 132});
    check_counts<int32_t>(random, launch);
    check_counts<int64_t>(random, launch);
    check_pairs<int32_t>(random, launch);
    check_pairs<int64_t>(random, launch);
    check_rows<int32_t>(random, launch);
    check_rows<int64_t>(random, launch);
    check_sums<float, float, int32_t>(random, launch);
    check_sums<double, double, int64_t>(random, launch);
    check_sums<c10::Half, c10::Half, int32_t>(random, launch);
    check_sums<c10::BFloat16, float, int64_t>(random, launch);
    check_sums<uint8_t, uint8_t, int32_t>(random, launch);
    check_sums<uint64_t, uint64_t, int32_t>(random, launch);
  }
}
