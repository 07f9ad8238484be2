#include "common/capability.h"

#include <cstdlib>
#include <string_view>

namespace torchext {

static Capability choose() {
#if defined(TORCHEXT_AVX512_ALONE)  // see each_isa.h
  return Capability::kAvx512;
#elif defined(TORCHEXT_AVX2_ALONE)
  return Capability::kAvx2;
#elif defined(__x86_64__) && !defined(TORCHEXT_BASELINE_ALONE)
  const char* value = std::getenv("TORCHEXT_CPU_CAPABILITY");
  // an unknown value sets no limit; torchext.doctor() reports it
  const std::string_view limit = value == nullptr ? "" : value;
  __builtin_cpu_init();
  if (limit != "baseline" && limit != "avx2" && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return Capability::kAvx512;
  if (limit != "baseline" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return Capability::kAvx2;
  return Capability::kBaseline;
#else
  return Capability::kBaseline;
#endif
}

Capability cpu_capability() {
  static const Capability chosen = choose();
  return chosen;
}

}  // namespace torchext

// torchext.doctor() calls this function through ctypes.
extern "C" __attribute__((visibility("default"))) const char* torchext_cpu_capability() {
  static constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};
  return kNames[static_cast<int>(torchext::cpu_capability())];
}
