#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

namespace torchext {

[[noreturn, gnu::noinline]] inline void throw_no_scratch(const char* operation, int64_t count, size_t size) {
  throw std::runtime_error(std::string(operation) + ": no memory for " + std::to_string(count) + " times " +
                           std::to_string(size) + " bytes, which it needs in addition to its result");
}

// Allocates memory that a call needs in addition to its result. It is not initialised; that of zeroed_scratch is 0.
template <class T>
std::unique_ptr<T[]> scratch(const char* operation, int64_t count) {
  if (count < 0 || count > std::numeric_limits<int64_t>::max() / static_cast<int64_t>(sizeof(T)))
    throw_no_scratch(operation, count, sizeof(T));
  T* memory = new (std::nothrow) T[static_cast<size_t>(count)];
  if (memory == nullptr) throw_no_scratch(operation, count, sizeof(T));
  return std::unique_ptr<T[]>(memory);
}

template <class T>
std::unique_ptr<T[]> zeroed_scratch(const char* operation, int64_t count) {
  std::unique_ptr<T[]> memory = scratch<T>(operation, count);
  std::fill_n(memory.get(), count, T{});
  return memory;
}

}  // namespace torchext
