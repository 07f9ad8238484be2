#pragma once

#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

#include "common/axis.h"
#include "onehot/labels/task.h"

namespace torchext {

// Counts of labels, or of pairs of labels: (outer, bins). The bin of a pair is target * classes + predicted. For pairs,
// the labels of the task are the targets. One item of the task is a label.
struct CountsTask : LabelTask {
  const LabelTask* predicted = nullptr;
  int64_t bins = 0;
  int64_t* counts = nullptr;  // initially 0
};

// Sums of rows of features by the classes of their labels: (outer, inner, features) to (outer, classes, features). A
// complex number is two features.
struct SumsTask : LabelTask {
  torch::headeronly::ScalarType type, out_type;  // real; sums have the out_type, and half precision is added in float
  int64_t value_size, sum_size;                  // bytes of a value, and of a sum while it is added up
  const void* values;
  int outer_value_axes = 0, inner_value_axes = 0, feature_axes = 0;
  Axis outer_value_axis[kMaxDims], inner_value_axis[kMaxDims], feature_axis[kMaxDims];
  int64_t features = 1;
  void* sums = nullptr;

  // One item is a block of labels of one outer index and a group of columns, which are features. Its sums are in a
  // table of (classes, features), and the tables of all blocks are added up in order.
  int64_t block = 1, columns = 1;
  void* tables = nullptr;

  // For one outer index: the positions of the labels in the order of their classes, as int32 if that holds them. One
  // thread orders each part of the labels. The number of parts does not change the order.
  int64_t sample = 0, parts = 1;
  void* order = nullptr;
  void* cursors = nullptr;  // (parts, classes): first counts, then where the next position of a class is written
  void* starts = nullptr;   // (classes + 1)
  // The classes with more than one piece, in order, and the number of pieces of all such classes before each of them.
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

constexpr int64_t kPieceRows = 512;  // rows that are added up one after another

inline int64_t stretches_of(int64_t labels) {
  return labels > kPieceRows ? (labels + kPieceRows - 1) / kPieceRows : 1;
}

// For each label, the row of bytes of its class, or zeros if it has no class.
struct RowsTask : LabelTask {
  const char* sums;  // (outer, classes)
  char* out;         // (outer, inner)
  int64_t row_bytes;
};

}  // namespace torchext
