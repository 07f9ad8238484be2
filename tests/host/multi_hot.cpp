// multi_hot, weighted and not, and mixup_one_hot, every thread on the host, against loops over the definition.
#include "cuda_on_host.h"

#include "check.h"
#include "labels.h"
#include "onehot/multi_hot_kernels.cuh"

using namespace torchext;

// Sizes, and the labels' axes: those of the rows and, unless they are mixed, that of the hits.
static void choose_shape(HitsTask& task, Random& random, bool mixes) {
  const bool planes = random.flip();
  task.classes = random.one_of({1, 2, 3, 8, 21, 64, 127, 300, 5000});
  if (random.between(0, 19) == 0) task.classes = 0;
  task.row_outer = random.one_of({1, 2, 3, planes ? 4 : 40});
  task.row_inner = planes ? random.one_of({2, 3, 16, 33, task.classes > 300 ? 20 : 300}) : 1;
  task.hits = mixes ? 2 : random.one_of({0, 1, 2, 8, 30, planes ? 9 : 300});
  task.outer_axes = 0;
  task.inner_axes = 0;
  const int64_t rows = task.row_outer * task.row_inner;
  if (rows > 1) task.outer_axis[task.outer_axes++].size = rows;
  if (!mixes && task.hits > 1) task.outer_axis[task.outer_axes++].size = task.hits;
  task.outer = rows * (mixes ? 1 : task.hits);
  task.inner = 1;
}

// make_labels wants labels to fill memory with, and fills them in by (outer, inner).
static void fill_labels(HitsTask& task, LabelCase& labelled, Random& random) {
  make_labels(task, labelled, random);
  this_case += ", " + std::to_string(task.row_outer) + " x " + std::to_string(task.row_inner) + " rows of " +
               std::to_string(task.hits);
}

static int64_t entry_index(const HitsTask& task, int64_t row, int64_t c) {
  return (row / task.row_inner * task.classes + c) * task.row_inner + row % task.row_inner;
}

template <class Index>
static void check_marks(Random& random, const cuda_on_host::Launcher& launch) {
  MultiHotTask task;
  LabelCase labelled;
  choose_shape(task, random, false);
  fill_labels(task, labelled, random);
  task.element_size = static_cast<int>(random.one_of({1, 2, 4, 8, 16}));
  for (char& byte : task.hot) byte = static_cast<char>(random.between(1, 127));
  for (char& byte : task.cold) byte = random.flip() ? 0 : static_cast<char>(random.between(1, 127));
  const size_t size = static_cast<size_t>(task.element_size);
  const int64_t rows = task.row_outer * task.row_inner;
  const size_t count = static_cast<size_t>(rows * task.classes);
  // Memory that ends with the last element, and starts up to three elements off a vector's alignment.
  const size_t offset = random.flip() ? 0 : std::min<size_t>(size, 8) * static_cast<size_t>(random.between(0, 3));
  std::vector<unsigned char> out(offset + count * size, 0xa5);
  task.out = out.data() + offset;
  launch.launches = 0;
  run_hits<Index>(task, labelled.records ? &labelled.shape : nullptr, launch);
  CHECK(launch.launches <= 1);
  for (size_t i = 0; i < offset; ++i) CHECK(out[i] == 0xa5);
  std::vector<bool> hit(count);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < task.hits; ++k) {
      const int64_t c = class_of(task, labelled.labels[static_cast<size_t>(row * task.hits + k)]);
      if (c >= 0) hit[static_cast<size_t>(entry_index(task, row, c))] = true;
    }
  for (size_t i = 0; i < count; ++i)
    CHECK(std::memcmp(&out[offset + i * size], hit[i] ? task.hot : task.cold, size) == 0);
  check_record(task, labelled);
}

template <class U>
constexpr ScalarType kTypeOf = std::is_same_v<U, double>      ? ScalarType::Double
                               : std::is_same_v<U, float>     ? ScalarType::Float
                               : std::is_same_v<U, c10::Half> ? ScalarType::Half
                                                              : ScalarType::BFloat16;

template <class W>
struct Weights {
  std::vector<W> memory;

  void make(WeightedHotTask& task, Random& random, std::vector<int64_t> sizes) {
    task.weight_type = kTypeOf<W>;
    task.weight_axes = 0;
    std::vector<Axis*> axes;
    for (int64_t size : sizes)
      if (size > 1) task.weight_axis[task.weight_axes++].size = size;
    for (int a = 0; a < task.weight_axes; ++a) axes.push_back(&task.weight_axis[a]);
    lay_out(axes, random, true);
    memory.resize(static_cast<size_t>(std::max<int64_t>(0, last_offset(task.weight_axis, task.weight_axes)) + 1));
    for (W& weight : memory) weight = static_cast<W>(static_cast<float>(random.between(-64, 64)) / 64);
    task.weights = memory.data();
  }

  double at(const WeightedHotTask& task, int64_t position) const {
    int64_t offset = 0;
    for (int a = task.weight_axes - 1; a >= 0; position /= task.weight_axis[a--].size)
      offset += position % task.weight_axis[a].size * task.weight_axis[a].stride;
    return static_cast<double>(static_cast<float>(memory[static_cast<size_t>(offset)]));
  }
};

// What hits each row: a class, or -1, and a weight.
struct Hit {
  int64_t label_class;
  double weight;
};

template <class U, class Index>
static void check_sums(WeightedHotTask& task, const LabelCase& labelled, const std::vector<Hit>& hits, Random& random,
                       const cuda_on_host::Launcher& launch) {
  const int64_t rows = task.row_outer * task.row_inner;
  task.type = kTypeOf<U>;
  const size_t offset = static_cast<size_t>(random.between(0, 3));
  std::vector<U> out(offset + static_cast<size_t>(rows * task.classes), static_cast<U>(77.0f));
  task.out = out.data() + offset;
  launch.launches = 0;
  run_hits<Index>(task, labelled.records ? &labelled.shape : nullptr, launch);
  CHECK(launch.launches <= 1);
  for (size_t i = 0; i < offset; ++i) CHECK(static_cast<float>(out[i]) == 77.0f);
  const double tolerance = sizeof(U) == 2 ? 1e-2 : sizeof(U) == 4 ? 1e-5 : 1e-12;
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<double> sums(static_cast<size_t>(task.classes));
    double of_classes = 0;
    for (int64_t k = 0; k < task.hits; ++k) {
      const Hit& hit = hits[static_cast<size_t>(row * task.hits + k)];
      if (hit.label_class < 0) continue;
      of_classes += hit.weight;
      sums[static_cast<size_t>(hit.label_class)] += hit.weight;
    }
    for (int64_t c = 0; c < task.classes; ++c) {
      const double rest = task.mixes ? task.cold * of_classes : task.cold;
      const double expected = rest + task.span * sums[static_cast<size_t>(c)];
      const U value = out[offset + static_cast<size_t>(entry_index(task, row, c))];
      CHECK(std::abs(static_cast<double>(value) - expected) <= tolerance * (1 + std::abs(expected)));
    }
  }
  check_record(task, labelled);
}

static void choose_values(WeightedHotTask& task, Random& random) {
  task.span = random.flip() ? 1 : 0.75;
  task.cold = random.flip() ? 0 : -0.5;
}

template <class U, class W, class Index>
static void check_weighted(Random& random, const cuda_on_host::Launcher& launch) {
  WeightedHotTask task;
  LabelCase labelled;
  choose_shape(task, random, false);
  fill_labels(task, labelled, random);
  choose_values(task, random);
  Weights<W> weights;
  weights.make(task, random, {task.row_outer * task.row_inner, task.hits});
  std::vector<Hit> hits;
  for (size_t p = 0; p < labelled.labels.size(); ++p)
    hits.push_back({class_of(task, labelled.labels[p]), weights.at(task, static_cast<int64_t>(p))});
  check_sums<U, Index>(task, labelled, hits, random, launch);
}

template <class U, class W, class Index>
static void check_mixup(Random& random, const cuda_on_host::Launcher& launch) {
  WeightedHotTask task;
  LabelCase labelled;
  choose_shape(task, random, true);
  fill_labels(task, labelled, random);
  choose_values(task, random);
  const int64_t rows = task.row_outer * task.row_inner;
  task.mixes = true;
  task.samples = rows;
  for (int64_t places : {2, 3, 20})
    if (rows % places == 0 && random.flip()) {
      task.places = places;
      task.samples = rows / places;
      break;
    }
  task.total = random.flip() ? 1 : 0;
  task.share = 0.25;
  Weights<W> lam;
  if (random.flip()) lam.make(task, random, {random.flip() ? 1 : task.samples});
  std::vector<int64_t> partners;
  for (int64_t s = 0; s < task.samples; ++s) partners.push_back(random.between(-1, task.samples));
  if (!partners.empty()) partners[0] = INT64_MAX - random.between(0, 3);
  const bool permuted = random.flip();
  if (permuted) task.partners = partners.data();
  std::vector<Hit> hits;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t sample = row / task.places, place = row % task.places;
    const double share = task.weights == nullptr ? task.share : lam.at(task, task.weight_axes == 0 ? 0 : sample);
    const int64_t partner = permuted ? partners[static_cast<size_t>(sample)] : task.samples - 1 - sample;
    const bool is_sample = partner >= 0 && partner < task.samples;
    const int64_t theirs =
        is_sample ? class_of(task, labelled.labels[static_cast<size_t>(partner * task.places + place)]) : -1;
    hits.push_back({class_of(task, labelled.labels[static_cast<size_t>(row)]), share});
    hits.push_back({theirs, task.total - share});
  }
  check_sums<U, Index>(task, labelled, hits, random, launch);
}

int main(int argc, char** argv) {
  const uint32_t seed = seed_of(argc, argv);
  Random random(seed);
  cuda_on_host::Launcher launch;
  launch.random.seed(seed);
  for (int i = 0; i < 10; ++i) {
    launch.processors = random.one_of({1, 132});
    check_marks<int32_t>(random, launch);
    check_marks<int64_t>(random, launch);
    check_weighted<float, float, int32_t>(random, launch);
    check_weighted<double, c10::Half, int64_t>(random, launch);
    check_weighted<c10::BFloat16, c10::BFloat16, int32_t>(random, launch);
    check_weighted<c10::Half, float, int64_t>(random, launch);
    check_mixup<float, double, int32_t>(random, launch);
    check_mixup<double, float, int64_t>(random, launch);
    check_mixup<c10::Half, c10::Half, int32_t>(random, launch);
  }
}
