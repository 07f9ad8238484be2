// Code that all kernels with labels share.
#pragma once

#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

#include "common/axis.h"
#include "common/kernel.cuh"
#include "common/strided.h"
#include "onehot/labels/task.h"

namespace torchext {

// Each axis has at least two entries, and no device holds 2^48 labels.
constexpr int kMostLabelAxes = 48;

// A kernel cannot raise an error. It records the bad label with the lowest position, and take_bad_label reads the
// record.
struct BadLabel {
  unsigned lock;
  int dims;
  int64_t label, position, classes;
  int64_t shape[kMaxDims];
  LabelArgument argument;
  bool is_uint64;  // a negative label is 2^63 or more
};

template <class Index>
struct Labels {
  const void* data;
  int bytes;
  int unused_bits;          // of the int64 to which a signed label is extended
  unsigned most_of_a_byte;  // 1 for bool, where true may be any byte except 0; otherwise 255
  Strided<Index, kMostLabelAxes> place;
  bool has_ignored;
  int64_t ignored;
  int64_t classes;
  BadLabel* record;  // null if bad labels are not recorded
  int dims;
  Index shape[kMaxDims];
  LabelArgument argument;
  bool is_uint64;
};

// Reads kCount labels in a single branch, so that their loads are in flight together.
template <int kCount, class Index>
__device__ __forceinline__ void read_labels(const Labels<Index>& labels, const Index (&positions)[kCount],
                                            int64_t (&out)[kCount]) {
  Index offsets[kCount];
#pragma unroll
  for (int k = 0; k < kCount; ++k) offsets[k] = labels.place.offset(positions[k]);
  const auto read = [&](auto type) {
#pragma unroll
    for (int k = 0; k < kCount; ++k)
      out[k] = static_cast<int64_t>(static_cast<const decltype(type)*>(labels.data)[offsets[k]]);
  };
  switch (labels.bytes) {
    case 1:
      read(uint8_t{});
#pragma unroll
      for (int k = 0; k < kCount; ++k) out[k] = least<int64_t>(out[k], labels.most_of_a_byte);
      break;
    case 2:
      read(uint16_t{});
      break;
    case 4:
      read(uint32_t{});
      break;
    default:
      // uint64 labels of 2^63 or more wrap to negative numbers, which are not classes either.
      read(uint64_t{});
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k)
    out[k] = static_cast<int64_t>(static_cast<uint64_t>(out[k]) << labels.unused_bits) >> labels.unused_bits;
}

template <class Index>
__device__ __forceinline__ int64_t label_at(const Labels<Index>& labels, Index position) {
  const Index positions[1] = {position};
  int64_t label[1];
  read_labels(labels, positions, label);
  return label[0];
}

__device__ __forceinline__ int64_t recorded_position(const BadLabel& record) {
  return *static_cast<const volatile int64_t*>(&record.position);
}

// Records a bad label. Only a position below the recorded one takes the lock, so that few of many bad labels take it.
template <class Index>
__device__ __noinline__ void note(const Labels<Index>& labels, Index position, int64_t label) {
  BadLabel& found = *labels.record;
  while (position < recorded_position(found)) {
    if (atomicCAS(&found.lock, 0u, 1u) != 0u) continue;
    __threadfence();
    if (position < recorded_position(found)) {
      found.label = label;
      found.classes = labels.classes;
      found.dims = labels.dims;
      found.argument = labels.argument;
      found.is_uint64 = labels.is_uint64;
      for (int d = 0; d < labels.dims; ++d) found.shape[d] = labels.shape[d];
      *static_cast<volatile int64_t*>(&found.position) = position;
    }
    __threadfence();
    atomicExch(&found.lock, 0u);
  }
}

// The class of a label, or -1 if its row stays zero. Of all threads that read a label, one passes `watch` and records
// the label if it is bad.
template <class Index>
__device__ __forceinline__ Index class_of(const Labels<Index>& labels, Index position, int64_t label, bool watch) {
  const bool ignored = labels.has_ignored && label == labels.ignored;
  const bool inside = static_cast<uint64_t>(label) < static_cast<uint64_t>(labels.classes);
  if (watch && labels.record != nullptr && !inside && !ignored) note(labels, position, label);
  return inside && !ignored ? static_cast<Index>(label) : Index{-1};
}

template <class Index>
__device__ __forceinline__ Index class_at(const Labels<Index>& labels, Index position, bool watch) {
  return class_of(labels, position, label_at(labels, position), watch);
}

// The shape of the labels and the argument they belong to, for the record of a bad label. `record` is null if bad
// labels are not recorded.
struct LabelShape {
  int dims;
  int64_t sizes[kMaxDims];
  LabelArgument argument = kLabels;
  BadLabel* record = nullptr;
};

template <class Index>
Labels<Index> labels_of(const LabelTask& task, const LabelShape* recorded) {
  using torch::headeronly::ScalarType;
  Labels<Index> labels{};
  labels.data = task.labels;
  const auto is = [&](auto... types) { return ((task.label_type == types) || ...); };
  labels.bytes = is(ScalarType::Bool, ScalarType::Byte, ScalarType::Char) ? 1
                 : is(ScalarType::Short, ScalarType::UInt16)              ? 2
                 : is(ScalarType::Int, ScalarType::UInt32)                ? 4
                                                                          : 8;
  labels.most_of_a_byte = is(ScalarType::Bool) ? 1 : 255;
  labels.is_uint64 = is(ScalarType::UInt64);
  if (is(ScalarType::Char, ScalarType::Short, ScalarType::Int)) labels.unused_bits = 64 - 8 * labels.bytes;
  Axis axes[kMaxDims];
  int count = 0;
  for (int a = 0; a < task.outer_axes; ++a) axes[count++] = task.outer_axis[a];
  for (int a = 0; a < task.inner_axes; ++a) append_axis(axes, count, task.inner_axis[a]);
  labels.place = {axes, count};
  labels.has_ignored = task.has_ignored;
  labels.ignored = task.ignored;
  labels.classes = task.classes;
  if (recorded != nullptr) {
    labels.record = recorded->record;
    labels.dims = recorded->dims;
    labels.argument = recorded->argument;
    for (int d = 0; d < recorded->dims; ++d) labels.shape[d] = static_cast<Index>(recorded->sizes[d]);
  }
  return labels;
}

// The offset of the last label, in elements.
inline int64_t last_label(const LabelTask& task) {
  return last_offset(task.outer_axis, task.outer_axes) + last_offset(task.inner_axis, task.inner_axes);
}

}  // namespace torchext
