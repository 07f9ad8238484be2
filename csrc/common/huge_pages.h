#pragma once

#include <cstddef>

namespace torchext {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSmallestWorthHinting = size_t{4} << 20;

// Advises the operating system to use huge pages for fresh, large memory. The page faults of writing 256 MB into fresh
// 4 KiB pages take ten times as long as the write itself; the hint removes most of them. Call it before the first
// write, and only for memory that was just allocated. TORCHEXT_HUGE_PAGES=0 switches it off.
void hint_huge_pages(void* data, size_t bytes);

}  // namespace torchext
