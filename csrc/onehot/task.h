#pragma once

#include <atomic>
#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

#include "common/axis.h"

namespace torchext {

constexpr int64_t kOneHotBlock = 4096;
constexpr int64_t kNoBadLabel = INT64_MAX;

// What a bad label stands in, for the error that names it; see torchext/onehot/labels.py.
enum LabelArgument : int { kLabels, kPredicted, kTarget, kPermutation };

// Labels (outer, inner), strided, and which of them are classes.
struct LabelTask {
  const void* labels;
  torch::headeronly::ScalarType label_type;
  int outer_axes, inner_axes;
  Axis outer_axis[kMaxDims], inner_axis[kMaxDims];
  int64_t outer, inner, classes;
  bool has_ignored;
  int64_t ignored;
  mutable std::atomic<int64_t> bad = kNoBadLabel;  // lowest position of a label that is neither ignored nor a class
};

// The output is (outer, classes, inner), row-major.
// One item of the task is a row (inner == 1) or a block of labels of one outer index.
struct OneHotTask : LabelTask {
  void* out = nullptr;  // null: only look for bad labels
  int element_size = 1;
  int64_t block = kOneHotBlock;  // labels
  char hot[16], cold[16];        // one element of the output each
  bool cold_is_zero;             // bitwise
};

inline int64_t blocks_of(const OneHotTask& task) {
  return (task.inner + task.block - 1) / task.block;
}

enum class Activation : int { kNone, kSoftmax, kSigmoid };

// Where the places of a strided tensor (outer, classes, inner) are.
struct ClassPlanes {
  int outer_axes = 0, inner_axes = 0;
  Axis outer_axis[kMaxDims], inner_axis[kMaxDims];
  int64_t class_stride = 0;
};

// One item of the task is a block of places of one outer index.
struct OverlapTask : LabelTask {
  torch::headeronly::ScalarType type;
  const void* scores;
  ClassPlanes score_planes;
  Activation activation;
  bool squared;
  int64_t block = 1;  // places
  // Forward: what each block holds (outer, blocks, classes), the sums in the compute type.
  void *intersection = nullptr, *total = nullptr;
  int64_t* support = nullptr;
  // Backward: the gradients of the two sums (outer, classes) in the compute type, and of the scores.
  const void *grad_intersection = nullptr, *grad_total = nullptr;
  void* grad_scores = nullptr;
  ClassPlanes grad_planes;
};

inline int64_t blocks_of(const OverlapTask& task) {
  return (task.inner + task.block - 1) / task.block;
}

// Rows that several labels hit each, to the output (row_outer, classes, row_inner), row-major. All axes of the labels
// are outer ones here, their positions those of (rows, hits). One item of the task is a row (row_inner == 1) or a block
// of rows of one outer index.
struct HitsTask : LabelTask {
  int64_t row_outer, row_inner, hits;
  void* out = nullptr;  // null: only look for bad labels
  int64_t block = 1;    // rows
};

inline int64_t blocks_of(const HitsTask& task) {
  return (task.row_inner + task.block - 1) / task.block;
}

struct MultiHotTask : HitsTask {
  int element_size = 1;
  char hot[16], cold[16];  // one element of the output each
  bool cold_is_zero;       // bitwise
};

// An entry is rest + span · (the sum of its hits' weights, in the order of the hits). The rest is `cold`.
struct WeightedHotTask : HitsTask {
  torch::headeronly::ScalarType type, weight_type;
  const void* weights = nullptr;
  int weight_axes = 0;
  Axis weight_axis[kMaxDims];
  double span, cold;

  // Two hits a row: its label, with the weight of its sample, and the label at its place in the sample's partner, with
  // `total` less that weight. The rest is `cold` for the weights of labels that are classes. Labels are one a row.
  bool mixes = false;
  int64_t samples = 0, places = 1;    // of a sample
  const int64_t* partners = nullptr;  // null: in reverse; outside [0, samples): none
  double share = 0, total = 1;        // `share` is all samples' weight where `weights` is null
};

inline bool are_entries(const WeightedHotTask& task) {
  return task.span == 1 && task.cold == 0;
}

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
  torch::headeronly::ScalarType type;  // real
  int64_t value_size;                  // bytes of it
  const void* values;
  int outer_value_axes = 0, inner_value_axes = 0, feature_axes = 0;
  Axis outer_value_axis[kMaxDims], inner_value_axis[kMaxDims], feature_axis[kMaxDims];
  int64_t features = 1;
  bool wide = false;  // sums in the type of the accumulation
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
