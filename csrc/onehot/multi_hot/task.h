#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "onehot/labels/task.h"

namespace torchext {

// Rows with several labels (hits) each, and their output (row_outer, classes, row_inner), row-major. All axes of the
// labels are outer axes here, in the order (rows, hits). One item of the task is a row (row_inner == 1) or a block of
// rows of one outer index.
struct HitsTask : LabelTask {
  int64_t row_outer, row_inner, hits;
  void* out = nullptr;   // null: the loop only looks for bad labels
  int64_t block = 1;     // rows in a block
  bool streams = false;  // whether to write with stores that bypass the caches
};

inline int64_t blocks_of(const HitsTask& task) {
  return (task.row_inner + task.block - 1) / task.block;
}

struct MultiHotTask : HitsTask {
  int element_size = 1;
  char hot[16], cold[16];  // one element of the output each
  bool cold_is_zero;       // all bytes of `cold` are 0
};

// An entry is base + span · (the sum of its hits' weights, in the order of the hits). The base is `cold`.
struct WeightedHotTask : HitsTask {
  ScalarType type, weight_type;
  const void* weights = nullptr;
  Axes weight_axes;
  double span, cold;

  // Mixed labels: there is one label per row, and each row has two hits. The first is its own label with the weight of
  // its sample. The second is the label at the same position of the sample's partner, and its weight is `total` minus
  // that weight. The base is `cold` times the sum of the weights whose labels are classes.
  bool mixes = false;
  int64_t samples = 0, positions = 1;  // positions of each sample
  const int64_t* partners = nullptr;  // null: the samples in reverse order; a number outside [0, samples) is no partner
  double share = 0, total = 1;        // `share` is the weight of all samples if `weights` is null
};

inline bool sums_are_entries(const WeightedHotTask& task) {
  return task.span == 1 && task.cold == 0;
}

}  // namespace torchext
