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

template <class Index>
using LabelOffsets = Strided<Index, kMostLabelAxes>;

template <class Index>
LabelOffsets<Index> joined(Axes outer, const Axes& inner) {
  for (const Axis& axis : inner) outer.append(axis);
  return LabelOffsets<Index>(outer);
}

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
  LabelOffsets<Index> offsets;
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
  for (int k = 0; k < kCount; ++k) offsets[k] = labels.offsets.offset(positions[k]);
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
  int dims = 0;
  int64_t sizes[kMaxDims];
  LabelArgument argument = kLabels;
  BadLabel* record = nullptr;
};

template <class Index>
Labels<Index> labels_of(const LabelTask& task, const LabelShape& recorded) {
  Labels<Index> labels{};
  labels.data = task.labels;
  with_number_type(task.label_type, [&](auto type) {
    labels.bytes = static_cast<int>(sizeof type);
    labels.unused_bits = std::is_signed_v<decltype(type)> ? 64 - 8 * labels.bytes : 0;
  });
  labels.most_of_a_byte = task.label_type == ScalarType::Bool ? 1 : 255;
  labels.is_uint64 = task.label_type == ScalarType::UInt64;
  labels.offsets = joined<Index>(task.outer_axes, task.inner_axes);
  labels.has_ignored = task.has_ignored;
  labels.ignored = task.ignored;
  labels.classes = task.classes;
  labels.record = recorded.record;
  labels.dims = recorded.dims;
  labels.argument = recorded.argument;
  for (int d = 0; d < recorded.dims; ++d) labels.shape[d] = static_cast<Index>(recorded.sizes[d]);
  return labels;
}

// The offset of the last label, in elements.
inline int64_t last_label(const LabelTask& task) {
  return task.outer_axes.last_offset() + task.inner_axes.last_offset();
}

inline int64_t last_value(const ValuesTask& task) {
  return task.outer_value_axes.last_offset() + task.inner_value_axes.last_offset() + task.feature_axes.last_offset();
}

}  // namespace torchext
