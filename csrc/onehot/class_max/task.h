#pragma once

#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

#include "common/axis.h"
#include "common/host_device.h"
#include "onehot/labels/task.h"

namespace torchext {

// The best value of each class and feature: (outer, inner, features) to (outer, classes, features). Values are compared
// and copied as bits.
struct ExtremesTask : LabelTask {
  torch::headeronly::ScalarType type;
  bool largest;
  const void* values;
  int outer_value_axes = 0, inner_value_axes = 0, feature_axes = 0;
  Axis outer_value_axis[kMaxDims], inner_value_axis[kMaxDims], feature_axis[kMaxDims];
  int64_t value_size, features = 1;
  void* best = nullptr;
  int64_t* positions = nullptr;  // of the best values, counted within an outer index; -1 for a class without a value

  // On the CPU, an item is a block of labels of one outer index and a group of columns. The first block of each outer
  // index writes to the result. The other blocks write to (parts - 1) tables of the same size.
  int64_t block = 1, parts = 1, columns = 1, groups = 1;
  void* other_best = nullptr;
  int64_t* other_positions = nullptr;
};

inline int64_t entries_of(const ExtremesTask& task) {
  return task.outer * task.classes * task.features;
}

enum class Kind : int { kFloat, kSigned, kUnsigned, kBool };

// The order of a dtype, as keys computed from the bits of its elements: the better an element, the larger its key. A
// NaN has the largest key, and zeros of both signs have the same key. `reversed` is 0 if the largest value is the best,
// and all ones if the smallest is.
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

  // The value of a class without labels.
  TORCHEXT_HD static U worst(U reversed) {
    if constexpr (kKind == Kind::kFloat) return reversed == 0 ? kInfinity | kSign : kInfinity;
    if constexpr (kKind == Kind::kSigned) return kSign ^ reversed;
    return settled(reversed);
  }

  // The bits to write for an element: for bool, any byte but 0 becomes 1.
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
