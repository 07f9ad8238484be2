#pragma once

#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

#include "common/axis.h"
#include "onehot/labels/task.h"

namespace torchext {

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

}  // namespace torchext
