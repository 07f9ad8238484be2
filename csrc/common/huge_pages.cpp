#include "common/huge_pages.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace torchext {

void hint_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  static const bool enabled = [] {
    const char* setting = std::getenv("TORCHEXT_HUGE_PAGES");
    return setting == nullptr || std::strcmp(setting, "0") != 0;
  }();
  if (!enabled || bytes < kSmallestWorthHinting) return;
  // The hint covers only whole huge pages inside the block: the pages at its edges may belong to other allocations too.
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  // If the hint is rejected (an old Linux kernel, a container without the feature), the memory keeps ordinary pages.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace torchext

// Called through ctypes for tensors that Python allocates and PyTorch's own kernels fill.
extern "C" __attribute__((visibility("default"))) void torchext_hint_huge_pages(void* data, size_t bytes) {
  torchext::hint_huge_pages(data, bytes);
}
