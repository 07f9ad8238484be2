#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "common/bits.h"
#include "common/dtypes.h"
#include "onehot/labels/task.h"

namespace torchext {

// The best value of each class and feature: (outer, inner, features) to (outer, classes, features). Values are compared
// and copied as bits.
struct ExtremesTask : ValuesTask {
  bool largest;
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

// The order of a dtype, as keys computed from the bits of its elements: the better an element, the larger its key. A
// NaN has the largest key, and zeros of both signs have the same key. `reversed` is 0 if the largest value is the best,
// and all ones if the smallest is.
template <class T>
struct ValueOrder {
  using U = UnsignedOf<sizeof(T)>;
  using Bits = U;
  static constexpr bool kIsBool = std::is_same_v<T, Truth>, kIsFloat = !kIsBool && !std::is_integral_v<T>;
  static constexpr U kAll = static_cast<U>(~U{0});
  static constexpr U kSign = static_cast<U>(kAll / 2 + 1);
  static constexpr U kInfinity = std::bit_cast<U>(std::numeric_limits<T>::infinity());

  TORCHEXT_HD static U key(U bits, U reversed) {
    if constexpr (kIsFloat) {
      const U magnitude = bits & static_cast<U>(~kSign);
      const U key = static_cast<U>(bits == magnitude ? kSign + magnitude : kSign - magnitude);
      return magnitude > kInfinity ? kAll : key ^ reversed;
    }
    if constexpr (std::is_signed_v<T>) return bits ^ kSign ^ reversed;
    return settled(bits) ^ reversed;
  }

  // The value of a class without labels.
  TORCHEXT_HD static U worst(U reversed) {
    if constexpr (kIsFloat) return reversed == 0 ? kInfinity | kSign : kInfinity;
    if constexpr (std::is_signed_v<T>) return kSign ^ reversed;
    return settled(reversed);
  }

  // The bits to write for an element: for bool, any byte but 0 becomes 1.
  TORCHEXT_HD static U settled(U bits) {
    if constexpr (kIsBool) return bits != 0;
    return bits;
  }
};

// Calls body with the order of the task's dtype.
template <class Body>
void with_order(const ExtremesTask& task, const Body& body) {
  with_number_type(task.type, [&](auto type) { body(ValueOrder<decltype(type)>{}); });
}

}  // namespace torchext
