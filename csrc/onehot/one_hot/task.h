#pragma once

#include <cstdint>

#include "onehot/labels/task.h"

namespace torchext {

constexpr int64_t kOneHotBlock = 4096;

// The output is (outer, classes, inner), row-major. One item of the task is a row (inner == 1) or a block of labels of
// one outer index.
struct OneHotTask : LabelTask {
  void* out = nullptr;  // null: the loop only looks for bad labels
  int element_size = 1;
  int64_t block = kOneHotBlock;  // labels in a block
  char hot[16], cold[16];        // one element of the output each
  bool cold_is_zero;             // all bytes of `cold` are 0
  bool streams = false;          // whether to write with stores that bypass the caches
};

inline int64_t blocks_of(const OneHotTask& task) {
  return (task.inner + task.block - 1) / task.block;
}

}  // namespace torchext
