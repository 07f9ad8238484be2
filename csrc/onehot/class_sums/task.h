#pragma once

#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

#include "common/axis.h"
#include "onehot/labels/task.h"

namespace torchext {

// Labels, or pairs of labels, counted: (outer, bins). A pair's bin is target * classes + predicted. The labels are the
// targets; one item of the task is a label.
struct CountsTask : LabelTask {
  const LabelTask* predicted = nullptr;
  int64_t bins = 0;
  int64_t* counts = nullptr;  // zero at first
};

// Rows of features summed by their labels' classes, (outer, inner, features) to (outer, classes, features). A complex
// number is two features.
struct SumsTask : LabelTask {
  torch::headeronly::ScalarType type, out_type;  // real; sums have the out_type, and half precision is added in float
  int64_t value_size, sum_size;                  // bytes of a value, and of a sum while it is added up
  const void* values;
  int outer_value_axes = 0, inner_value_axes = 0, feature_axes = 0;
  Axis outer_value_axis[kMaxDims], inner_value_axis[kMaxDims], feature_axis[kMaxDims];
  int64_t features = 1;
  void* sums = nullptr;

  // One item is a block of labels of one outer index, and in columns a few features of it. Its sums stand in a table of
  // (classes, features), and the tables of all blocks are added up in order.
  int64_t block = 1, columns = 1;
  void* tables = nullptr;

  // Of one outer index: the labels' positions in the order of their classes, as int32 where that holds them. The blocks
  // here are the parts that are ordered by one thread: how many there are changes nothing in the order.
  int64_t sample = 0, parts = 1;
  void* order = nullptr;
  void* cursors = nullptr;  // (parts, classes): counts, then where the next one of a class goes
  void* starts = nullptr;   // (classes + 1)
  // Classes of more than a piece, in order, and the first of their pieces among those of all.
  const int64_t *long_classes = nullptr, *long_pieces = nullptr;
  int64_t long_count = 0;
  void* pieces = nullptr;  // (pieces, features)
};

inline int64_t blocks_of(const SumsTask& task) {
  return (task.inner + task.block - 1) / task.block;
}

inline int64_t column_groups_of(const SumsTask& task) {
  return (task.features + task.columns - 1) / task.columns;
}

inline bool has_whole_rows(const SumsTask& task) {
  return task.feature_axes == 0 || (task.feature_axes == 1 && task.feature_axis[0].stride == 1);
}

constexpr int64_t kPieceRows = 512;  // that are added up one after the other

inline int64_t stretches_of(int64_t labels) {
  return labels > kPieceRows ? (labels + kPieceRows - 1) / kPieceRows : 1;
}

// For each label its class's row of bytes, zeros where it has none.
struct RowsTask : LabelTask {
  const char* sums;  // (outer, classes)
  char* out;         // (outer, inner)
  int64_t row_bytes;
};

}  // namespace torchext
