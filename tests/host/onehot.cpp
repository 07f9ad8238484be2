// one_hot and class_indices, every thread on the host, against loops over the definition.
#include "cuda_on_host.h"

#include "check.h"
#include "onehot/kernels.cuh"

using namespace torchext;
using torch::headeronly::ScalarType;

struct LabelType {
  ScalarType type;
  int bytes;
  bool is_signed;
};

constexpr LabelType kLabelTypes[] = {
    {ScalarType::Bool, 1, false},   {ScalarType::Byte, 1, false}, {ScalarType::Char, 1, true},
    {ScalarType::Short, 2, true},   {ScalarType::Int, 4, true},   {ScalarType::UInt16, 2, false},
    {ScalarType::UInt32, 4, false}, {ScalarType::Long, 8, true},  {ScalarType::UInt64, 8, false},
};

// Labels (outer, inner) in memory that may be strided, and what the kernels are to make of them.
struct Case {
  OneHotTask task;
  std::vector<unsigned char> memory, out;
  std::vector<int64_t> labels;
  size_t misaligned = 0;
  LabelShape shape;
  bool records;
};

// Each axis of the labels stands somewhere between the others, with gaps: transposed, sliced, expanded.
static void lay_out(Case& c, Random& random, const LabelType& type) {
  OneHotTask& task = c.task;
  std::vector<Axis*> axes;
  for (int a = 0; a < task.outer_axes; ++a) axes.push_back(&task.outer_axis[a]);
  for (int a = 0; a < task.inner_axes; ++a) axes.push_back(&task.inner_axis[a]);
  std::vector<Axis*> by_stride(axes.rbegin(), axes.rend());
  const bool plain = random.flip();
  if (!plain) std::shuffle(by_stride.begin(), by_stride.end(), random.engine);
  int64_t stride = 1;
  for (Axis* axis : by_stride) {
    axis->stride = stride;
    stride = plain ? stride * axis->size : stride * axis->size + random.between(0, 2);
  }
  if (!plain && !axes.empty() && random.flip()) axes[0]->stride = 0;
  const int64_t last = last_offset(task.outer_axis, task.outer_axes) + last_offset(task.inner_axis, task.inner_axes);
  c.memory.resize(static_cast<size_t>((last + 1) * type.bytes));
  task.labels = c.memory.data();
  const int64_t near = task.classes + 2;
  for (int64_t offset = 0; offset <= last; ++offset) {
    int64_t label = random.between(random.between(0, 9) == 0 ? -2 : 0, random.between(0, 9) == 0 ? near : near - 3);
    if (random.between(0, 199) == 0) label = INT64_MIN + random.between(0, 5);
    std::memcpy(&c.memory[static_cast<size_t>(offset * type.bytes)], &label, static_cast<size_t>(type.bytes));
  }
}

static int64_t label_at(const Case& c, const LabelType& type, int64_t outer, int64_t inner) {
  int64_t offset = 0;
  for (int a = c.task.outer_axes - 1; a >= 0; outer /= c.task.outer_axis[a--].size)
    offset += outer % c.task.outer_axis[a].size * c.task.outer_axis[a].stride;
  for (int a = c.task.inner_axes - 1; a >= 0; inner /= c.task.inner_axis[a--].size)
    offset += inner % c.task.inner_axis[a].size * c.task.inner_axis[a].stride;
  uint64_t bits = 0;
  std::memcpy(&bits, &c.memory[static_cast<size_t>(offset * type.bytes)], static_cast<size_t>(type.bytes));
  const int unused = 64 - 8 * type.bytes;
  return type.is_signed ? static_cast<int64_t>(bits << unused) >> unused : static_cast<int64_t>(bits);
}

static void make(Case& c, Random& random, bool planes) {
  const LabelType type = random.one_of(kLabelTypes);
  OneHotTask& task = c.task;
  task.label_type = type.type;
  task.classes = random.one_of({1, 2, 3, 5, 8, 17, 21, 64, 127, 300});
  if (random.between(0, 19) == 0) task.classes = 0;
  task.outer_axes = static_cast<int>(random.between(0, 3));
  task.inner_axes = planes ? static_cast<int>(random.between(1, 3)) : 0;
  task.outer = task.inner = 1;
  for (int a = 0; a < task.outer_axes; ++a) task.outer *= task.outer_axis[a].size = random.between(2, planes ? 3 : 9);
  for (int a = 0; a < task.inner_axes; ++a)
    task.inner *= task.inner_axis[a].size = random.one_of({2, 3, 4, 7, 8, 16, 33, 64});
  if (task.inner > 2000) task.inner /= task.inner_axis[--task.inner_axes].size;
  task.has_ignored = random.flip();
  task.ignored = random.between(type.is_signed ? -2 : 0, task.classes + 1);
  task.element_size = static_cast<int>(random.one_of({1, 2, 4, 8, 16}));
  for (char& byte : task.hot) byte = static_cast<char>(random.between(1, 127));
  const bool cold_is_zero = random.flip();
  for (char& byte : task.cold) byte = cold_is_zero ? 0 : static_cast<char>(random.between(1, 127));
  task.cold_is_zero = cold_is_zero;
  lay_out(c, random, type);
  for (int64_t o = 0; o < task.outer; ++o)
    for (int64_t i = 0; i < task.inner; ++i) c.labels.push_back(label_at(c, type, o, i));
  c.shape = {2, {task.outer, task.inner}};
  c.records = random.flip();
  this_case = "label type " + std::to_string(static_cast<int>(type.type)) + ", " + std::to_string(task.outer) + " x " +
              std::to_string(task.classes) + " x " + std::to_string(task.inner) + " elements of " +
              std::to_string(task.element_size) + " bytes";
}

static int64_t class_of(const Case& c, int64_t label) {
  if (c.task.has_ignored && label == c.task.ignored) return -1;
  return label >= 0 && label < c.task.classes ? label : -1;
}

static void check_record(const Case& c) {
  int64_t first = kNoBadLabel;
  for (size_t p = 0; p < c.labels.size() && first == kNoBadLabel; ++p)
    if (class_of(c, c.labels[p]) < 0 && !(c.task.has_ignored && c.labels[p] == c.task.ignored))
      first = static_cast<int64_t>(p);
  if (!c.records) first = kNoBadLabel;
  CHECK(bad_label.position == first);
  CHECK(bad_label.lock == 0);
  if (first == kNoBadLabel) return;
  CHECK(bad_label.label == c.labels[static_cast<size_t>(first)]);
  CHECK(bad_label.classes == c.task.classes);
  CHECK(bad_label.dims == 2 && bad_label.shape[0] == c.task.outer && bad_label.shape[1] == c.task.inner);
  bad_label.position = kNoBadLabel;
}

template <class Index>
static void check_one_hot(Case& c, Random& random, const cuda_on_host::Launcher& launch) {
  OneHotTask& task = c.task;
  const size_t size = static_cast<size_t>(task.element_size);
  const size_t count = static_cast<size_t>(task.outer * task.classes * task.inner);
  // Memory that ends with the last element, and starts up to 15 bytes off a vector's alignment.
  const size_t offset = random.flip() ? 0 : std::min<size_t>(size, 8) * static_cast<size_t>(random.between(0, 3));
  c.out.assign(offset + count * size, 0xa5);
  task.out = c.out.data() + offset;
  launch.launches = 0;
  run_one_hot<Index>(task, c.records ? &c.shape : nullptr, launch);
  CHECK(launch.launches == 1);
  for (size_t i = 0; i < offset; ++i) CHECK(c.out[i] == 0xa5);
  const char zero[16] = {};
  for (size_t i = 0; i < count; ++i) {
    const int64_t inner = static_cast<int64_t>(i) % task.inner;
    const int64_t label_class = static_cast<int64_t>(i) / task.inner % task.classes;
    const int64_t outer = static_cast<int64_t>(i) / task.inner / task.classes;
    const int64_t wanted = class_of(c, c.labels[static_cast<size_t>(outer * task.inner + inner)]);
    const char* element = wanted < 0 ? zero : wanted == label_class ? task.hot : task.cold;
    CHECK(std::memcmp(&c.out[offset + i * size], element, size) == 0);
  }
  check_record(c);
}

template <class Index>
static void check_class_indices(const Case& c, const cuda_on_host::Launcher& launch) {
  std::vector<int64_t> out(c.labels.size(), 77);
  launch.launches = 0;
  run_class_indices<Index>(c.task, out.data(), c.records ? &c.shape : nullptr, launch);
  CHECK(launch.launches == 1);
  for (size_t p = 0; p < out.size(); ++p) CHECK(out[p] == class_of(c, c.labels[p]));
  check_record(c);
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
    check_class_indices<int32_t>(c, launch);
    check_class_indices<int64_t>(c, launch);
  }
}
