#pragma once

#include <cstdint>

#include "common/dtypes.h"
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
struct SumsTask : ValuesTask {
  ScalarType out_type;  // of the sums, real; half precision is added in float
  int64_t sum_size;     // bytes of a sum while it is added up
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

// Calls body with values of the types of the values, of the accumulation and of the sums. int64 sums wrap, so they are
// computed in uint64.
template <class Body>
void with_types(const SumsTask& task, const Body& body) {
  const bool is_double = task.out_type == ScalarType::Double;
  with_number_type(task.type, [&](auto type) {
    using T = decltype(type);
    if constexpr (std::is_same_v<T, Truth> || std::is_integral_v<T>) {
      if constexpr (sizeof(T) == 8)
        if (is_double) return body(type, double{}, double{});
      body(std::conditional_t<std::is_same_v<T, int64_t>, uint64_t, T>{}, uint64_t{}, uint64_t{});
    } else {
      if (is_double) return body(type, double{}, double{});
      if constexpr (!std::is_same_v<T, double>)
        task.out_type == task.type ? body(type, float{}, type) : body(type, float{}, float{});
    }
  });
}

inline int64_t blocks_of(const SumsTask& task) {
  return (task.inner + task.block - 1) / task.block;
}

inline int64_t column_groups_of(const SumsTask& task) {
  return (task.features + task.columns - 1) / task.columns;
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
