#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace torchext {

// An element of bool memory: any byte but 0 is true, where C++'s bool may hold nothing but 0 and 1. Sums are unions.
struct Truth {
  uint8_t byte = 0;

  template <class T>
  TORCHEXT_HD explicit operator T() const {
    return static_cast<T>(byte != 0);
  }

  TORCHEXT_HD Truth& operator+=(const Truth& other) {
    byte = byte != 0 || other.byte != 0;
    return *this;
  }
};

}  // namespace torchext
