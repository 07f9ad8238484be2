// Labels as the tests of kernels make them: of every dtype, strided, some ignored and some bad.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "check.h"
#include "onehot/labels.cuh"

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
struct LabelCase {
  std::vector<unsigned char> memory;
  std::vector<int64_t> labels;
  torchext::LabelShape shape;
  bool records;
};

// Each axis of a tensor stands somewhere between the others, with gaps: transposed, sliced, expanded.
inline void lay_out(std::vector<torchext::Axis*> axes, Random& random, bool may_expand) {
  std::vector<torchext::Axis*> by_stride(axes.rbegin(), axes.rend());
  const bool plain = random.flip();
  if (!plain) std::shuffle(by_stride.begin(), by_stride.end(), random.engine);
  int64_t stride = 1;
  for (torchext::Axis* axis : by_stride) {
    axis->stride = stride;
    stride = plain ? stride * axis->size : stride * axis->size + random.between(0, 2);
  }
  if (may_expand && !plain && !axes.empty() && random.flip()) axes[0]->stride = 0;
}

inline int64_t label_at(const torchext::LabelTask& task, const LabelCase& c, const LabelType& type, int64_t outer,
                        int64_t inner) {
  int64_t offset = 0;
  for (int a = task.outer_axes - 1; a >= 0; outer /= task.outer_axis[a--].size)
    offset += outer % task.outer_axis[a].size * task.outer_axis[a].stride;
  for (int a = task.inner_axes - 1; a >= 0; inner /= task.inner_axis[a--].size)
    offset += inner % task.inner_axis[a].size * task.inner_axis[a].stride;
  uint64_t bits = 0;
  std::memcpy(&bits, &c.memory[static_cast<size_t>(offset * type.bytes)], static_cast<size_t>(type.bytes));
  if (type.type == ScalarType::Bool) return bits != 0;
  const int unused = 64 - 8 * type.bytes;
  return type.is_signed ? static_cast<int64_t>(bits << unused) >> unused : static_cast<int64_t>(bits);
}

// Fills in all that a task, whose sizes and number of classes stand, is to say of its labels.
inline void make_labels(torchext::LabelTask& task, LabelCase& c, Random& random) {
  const LabelType type = random.one_of(kLabelTypes);
  task.label_type = type.type;
  std::vector<torchext::Axis*> axes;
  for (int a = 0; a < task.outer_axes; ++a) axes.push_back(&task.outer_axis[a]);
  for (int a = 0; a < task.inner_axes; ++a) axes.push_back(&task.inner_axis[a]);
  lay_out(axes, random, true);
  const int64_t last =
      torchext::last_offset(task.outer_axis, task.outer_axes) + torchext::last_offset(task.inner_axis, task.inner_axes);
  c.memory.resize(static_cast<size_t>((last + 1) * type.bytes));
  task.labels = c.memory.data();
  task.has_ignored = random.flip();
  task.ignored = random.between(type.is_signed ? -2 : 0, task.classes + 1);
  const int64_t near = task.classes + 2;
  for (int64_t offset = 0; offset <= last; ++offset) {
    int64_t label = random.between(random.between(0, 9) == 0 ? -2 : 0, random.between(0, 9) == 0 ? near : near - 3);
    if (random.between(0, 199) == 0) label = INT64_MIN + random.between(0, 5);
    std::memcpy(&c.memory[static_cast<size_t>(offset * type.bytes)], &label, static_cast<size_t>(type.bytes));
  }
  for (int64_t o = 0; o < task.outer; ++o)
    for (int64_t i = 0; i < task.inner; ++i) c.labels.push_back(label_at(task, c, type, o, i));
  c.shape = {2, {task.outer, task.inner}};
  c.records = random.flip();
  this_case = "label type " + std::to_string(static_cast<int>(type.type)) + ", " + std::to_string(task.outer) + " x " +
              std::to_string(task.classes) + " x " + std::to_string(task.inner);
}

inline int64_t class_of(const torchext::LabelTask& task, int64_t label) {
  if (task.has_ignored && label == task.ignored) return -1;
  return label >= 0 && label < task.classes ? label : -1;
}

// The record names the first bad label and is cleared again.
inline void check_record(const torchext::LabelTask& task, const LabelCase& c) {
  using namespace torchext;
  int64_t first = kNoBadLabel;
  for (size_t p = 0; p < c.labels.size() && first == kNoBadLabel; ++p)
    if (class_of(task, c.labels[p]) < 0 && !(task.has_ignored && c.labels[p] == task.ignored))
      first = static_cast<int64_t>(p);
  if (!c.records) first = kNoBadLabel;
  CHECK(bad_label.position == first);
  CHECK(bad_label.lock == 0);
  if (first == kNoBadLabel) return;
  CHECK(bad_label.label == c.labels[static_cast<size_t>(first)]);
  CHECK(bad_label.is_uint64 == (task.label_type == ScalarType::UInt64));
  CHECK(bad_label.classes == task.classes);
  CHECK(bad_label.dims == 2 && bad_label.shape[0] == task.outer && bad_label.shape[1] == task.inner);
  bad_label.position = kNoBadLabel;
}
