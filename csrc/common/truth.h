#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace torchext {

// An element of bool memory. Any byte except 0 is true, whereas a C++ bool may only hold 0 or 1. A sum is a logical or.
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

TORCHEXT_HD Truth read_once(const Truth& value) {
  return {read_once(value.byte)};
}

}  // namespace torchext
