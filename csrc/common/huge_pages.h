#pragma once

#include <cstddef>

namespace torchext {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSmallestWorthHinting = size_t{4} << 20;

// Asks the kernel to back fresh, large memory with huge pages. Writing 256 MB into fresh 4 KiB pages costs ten times
// the write itself in page faults; the hint removes most of that. Call it before the first write, and only for memory
// that was just allocated. TORCHEXT_HUGE_PAGES=0 switches it off.
void hint_huge_pages(void* data, size_t bytes);

}  // namespace torchext
