#include "common/loops.h"

#include <cstdlib>
#include <string_view>

namespace torchext {

namespace baseline {
extern const Loops table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Loops table;
}
namespace avx512 {
extern const Loops table;
}
#endif

static const Loops& choose() {
#if defined(__x86_64__)
  const char* value = std::getenv("TORCHEXT_CPU_CAPABILITY");
  const std::string_view limit = value == nullptr ? "" : value;  // what is unknown limits nothing: the doctor names it
  __builtin_cpu_init();
  if (limit != "baseline" && limit != "avx2" && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return avx512::table;
  if (limit != "baseline" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return avx2::table;
#endif
  return baseline::table;
}

const Loops& loops() {
  static const Loops& chosen = choose();
  return chosen;
}

}  // namespace torchext

// For torchext.doctor(), which asks through ctypes.
extern "C" __attribute__((visibility("default"))) const char* torchext_cpu_capability() {
  return torchext::loops().name;
}
