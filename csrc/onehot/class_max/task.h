#pragma once

#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

#include "common/axis.h"
#include "common/host_device.h"
#include "onehot/labels/task.h"

namespace torchext {

// The best of the rows of features of each class, (outer, inner, features) to (outer, classes, features). Values are
// compared and moved as bits.
struct ExtremesTask : LabelTask {
  torch::headeronly::ScalarType type;
  bool largest;
  const void* values;
  int outer_value_axes = 0, inner_value_axes = 0, feature_axes = 0;
  Axis outer_value_axis[kMaxDims], inner_value_axis[kMaxDims], feature_axis[kMaxDims];
  int64_t value_size, features = 1;
  void* best = nullptr;
  int64_t* places = nullptr;  // of an outer index, -1 where a class has no value

  // On the CPU one item is a block of labels of one outer index and a group of columns. The first block of each outer
  // index has its best in the result, the others in tables of (parts - 1) such results.
  int64_t block = 1, parts = 1, columns = 1, groups = 1;
  void* other_best = nullptr;
  int64_t* other_places = nullptr;
};

inline int64_t entries_of(const ExtremesTask& task) {
  return task.outer * task.classes * task.features;
}

enum class Kind : int { kFloat, kSigned, kUnsigned, kBool };

// The order of a dtype, by keys of its elements' bits: the better an element, the larger its key. NaN are the best,
// zeros of both signs are equal. `reversed` is 0 where the largest value is the best, all ones where it is the
// smallest.
template <class U, Kind kKind, U kInfinity = 0>
struct ValueOrder {
  using Bits = U;
  static constexpr U kAll = static_cast<U>(~U{0});
  static constexpr U kSign = static_cast<U>(kAll / 2 + 1);

  TORCHEXT_HD static U key(U bits, U reversed) {
    if constexpr (kKind == Kind::kFloat) {
      const U magnitude = bits & static_cast<U>(~kSign);
      const U key = static_cast<U>(bits == magnitude ? kSign + magnitude : kSign - magnitude);
      return magnitude > kInfinity ? kAll : key ^ reversed;
    }
    if constexpr (kKind == Kind::kSigned) return bits ^ kSign ^ reversed;
    return settled(bits) ^ reversed;
  }

  // What a class without a value has.
  TORCHEXT_HD static U worst(U reversed) {
    if constexpr (kKind == Kind::kFloat) return reversed == 0 ? kInfinity | kSign : kInfinity;
    if constexpr (kKind == Kind::kSigned) return kSign ^ reversed;
    return settled(reversed);
  }

  // An element as it is written: any byte but 0 is true.
  TORCHEXT_HD static U settled(U bits) {
    if constexpr (kKind == Kind::kBool) return bits != 0;
    return bits;
  }
};

// Calls body with the order of the task's dtype.
template <class Body>
void with_order(const ExtremesTask& task, const Body& body) {
  using torch::headeronly::ScalarType;
  switch (task.type) {
    case ScalarType::Half:
      return body(ValueOrder<uint16_t, Kind::kFloat, 0x7c00>{});
    case ScalarType::BFloat16:
      return body(ValueOrder<uint16_t, Kind::kFloat, 0x7f80>{});
    case ScalarType::Float:
      return body(ValueOrder<uint32_t, Kind::kFloat, 0x7f800000>{});
    case ScalarType::Double:
      return body(ValueOrder<uint64_t, Kind::kFloat, 0x7ff0000000000000>{});
    case ScalarType::Bool:
      return body(ValueOrder<uint8_t, Kind::kBool>{});
    case ScalarType::Byte:
      return body(ValueOrder<uint8_t, Kind::kUnsigned>{});
    case ScalarType::Char:
      return body(ValueOrder<uint8_t, Kind::kSigned>{});
    case ScalarType::Short:
      return body(ValueOrder<uint16_t, Kind::kSigned>{});
    case ScalarType::UInt16:
      return body(ValueOrder<uint16_t, Kind::kUnsigned>{});
    case ScalarType::Int:
      return body(ValueOrder<uint32_t, Kind::kSigned>{});
    case ScalarType::UInt32:
      return body(ValueOrder<uint32_t, Kind::kUnsigned>{});
    case ScalarType::Long:
      return body(ValueOrder<uint64_t, Kind::kSigned>{});
    default:
      return body(ValueOrder<uint64_t, Kind::kUnsigned>{});
  }
}

}  // namespace torchext
