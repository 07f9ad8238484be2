#pragma once

#include <cstddef>
#include <cstdint>

namespace torchext {

// What is streamed is first written to a buffer of about this size, which stays in the first-level cache.
constexpr int64_t kStreamedBytes = 16 * 1024;

// Whether loops should write a result with stores that bypass the caches (see runs.h). Such a store does not read the
// cache line that it overwrites, which is half of the traffic of writing memory. But a reader that follows finds
// nothing in the caches, so it is worth it only for results that do not fit there. It is not worth it for memory that
// is written for the first time: the operating system has just cleared it, and it is still in the caches.
//
// TORCHEXT_STREAM_BYTES is the size from which all results are written in this way. By default it is twice the size of
// the last-level cache, for memory that was written before.
bool worth_streaming(size_t bytes, bool is_fresh);

}  // namespace torchext
