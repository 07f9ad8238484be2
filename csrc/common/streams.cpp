#include "common/streams.h"

#include <cstdint>
#include <cstdio>
#include <optional>

#include "common/settings.h"

namespace torchext {

#if defined(__x86_64__)

// The size of the cache that is shared by several cores, as the kernel reports it. sysconf may report the sum of all of
// them, or nothing.
static size_t last_level_cache() {
  constexpr size_t kUsual = size_t{32} << 20;
  unsigned long kilobytes = 0;
  if (std::FILE* const file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    if (std::fscanf(file, "%luK", &kilobytes) != 1) kilobytes = 0;
    std::fclose(file);
  }
  return kilobytes == 0 ? kUsual : size_t{kilobytes} << 10;
}

bool worth_streaming(size_t bytes, bool is_fresh) {
  static const std::optional<size_t> setting = bytes_in_setting("TORCHEXT_STREAM_BYTES");
  static const size_t smallest = setting.value_or(2 * last_level_cache());
  return bytes >= smallest && (setting.has_value() || !is_fresh);
}

#else

bool worth_streaming(size_t, bool) {
  return false;
}

#endif

}  // namespace torchext
