// one_hot and class_indices, every thread on the host, against loops over the definition.
#include "cuda_on_host.h"

#include "check.h"
#include "labels.h"
#include "onehot/kernels.cuh"

using namespace torchext;

struct Case {
  OneHotTask task;
  LabelCase labelled;
  std::vector<unsigned char> out;
};

static void make(Case& c, Random& random, bool planes) {
  OneHotTask& task = c.task;
  task.classes = random.one_of({1, 2, 3, 5, 8, 17, 21, 64, 127, 300});
  if (random.between(0, 19) == 0) task.classes = 0;
  task.outer_axes = static_cast<int>(random.between(0, 3));
  task.inner_axes = planes ? static_cast<int>(random.between(1, 3)) : 0;
  task.outer = task.inner = 1;
  for (int a = 0; a < task.outer_axes; ++a) task.outer *= task.outer_axis[a].size = random.between(2, planes ? 3 : 9);
  for (int a = 0; a < task.inner_axes; ++a)
    task.inner *= task.inner_axis[a].size = random.one_of({2, 3, 4, 7, 8, 16, 33, 64});
  if (task.inner > 2000) task.inner /= task.inner_axis[--task.inner_axes].size;
  task.element_size = static_cast<int>(random.one_of({1, 2, 4, 8, 16}));
  for (char& byte : task.hot) byte = static_cast<char>(random.between(1, 127));
  const bool cold_is_zero = random.flip();
  for (char& byte : task.cold) byte = cold_is_zero ? 0 : static_cast<char>(random.between(1, 127));
  task.cold_is_zero = cold_is_zero;
  make_labels(task, c.labelled, random);
  this_case += " elements of " + std::to_string(task.element_size) + " bytes";
}

template <class Index>
static void check_one_hot(Case& c, Random& random, const cuda_on_host::Launcher& launch) {
  OneHotTask& task = c.task;
  const LabelCase& l = c.labelled;
  const size_t size = static_cast<size_t>(task.element_size);
  const size_t count = static_cast<size_t>(task.outer * task.classes * task.inner);
  // Memory that ends with the last element, and starts up to 15 bytes off a vector's alignment.
  const size_t offset = random.flip() ? 0 : std::min<size_t>(size, 8) * static_cast<size_t>(random.between(0, 3));
  c.out.assign(offset + count * size, 0xa5);
  task.out = c.out.data() + offset;
  launch.launches = 0;
  run_one_hot<Index>(task, l.records ? &l.shape : nullptr, launch);
  CHECK(launch.launches == 1);
  for (size_t i = 0; i < offset; ++i) CHECK(c.out[i] == 0xa5);
  const char zero[16] = {};
  for (size_t i = 0; i < count; ++i) {
    const int64_t inner = static_cast<int64_t>(i) % task.inner;
    const int64_t label_class = static_cast<int64_t>(i) / task.inner % task.classes;
    const int64_t outer = static_cast<int64_t>(i) / task.inner / task.classes;
    const int64_t wanted = class_of(task, l.labels[static_cast<size_t>(outer * task.inner + inner)]);
    const char* element = wanted < 0 ? zero : wanted == label_class ? task.hot : task.cold;
    CHECK(std::memcmp(&c.out[offset + i * size], element, size) == 0);
  }
  check_record(task, l);
}

template <class Index>
static void check_class_indices(const OneHotTask& task, const LabelCase& l, const cuda_on_host::Launcher& launch) {
  std::vector<int64_t> out(l.labels.size(), 77);
  launch.launches = 0;
  run_class_indices<Index>(task, out.data(), l.records ? &l.shape : nullptr, launch);
  CHECK(launch.launches == 1);
  for (size_t p = 0; p < out.size(); ++p) CHECK(out[p] == class_of(task, l.labels[p]));
  check_record(task, l);
}

int main(int argc, char** argv) {
  const uint32_t seed = seed_of(argc, argv);
  Random random(seed);
  cuda_on_host::Launcher launch;
  launch.random.seed(seed);
  for (int i = 0; i < 300; ++i) {
    Case c;
    make(c, random, i % 2 == 1);
    launch.processors = random.one_of({1, 132});
    check_one_hot<int32_t>(c, random, launch);
    check_one_hot<int64_t>(c, random, launch);
    check_class_indices<int32_t>(c.task, c.labelled, launch);
    check_class_indices<int64_t>(c.task, c.labelled, launch);
  }
}
