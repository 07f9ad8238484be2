#pragma once

#include <cstddef>
#include <cstdlib>
#include <optional>

namespace torchext {

// The number of bytes in an environment variable. Python warns of other texts, which are ignored.
inline std::optional<size_t> bytes_in_setting(const char* name) {
  const char* const setting = std::getenv(name);
  if (setting == nullptr) return std::nullopt;
  char* end = nullptr;
  const unsigned long long bytes = std::strtoull(setting, &end, 10);
  if (end == setting || *end != '\0') return std::nullopt;
  return static_cast<size_t>(bytes);
}

}  // namespace torchext
