// Copies and prefetches runs of memory, for elements that are only moved, not computed with.
#include "common/isa.h"
#include "common/streams.h"

#if defined(TORCHEXT_RUNS) == defined(TORCHEXT_SECOND_ISA)  // see isa.h
#if defined(TORCHEXT_RUNS)
#undef TORCHEXT_RUNS
#else
#define TORCHEXT_RUNS
#endif

namespace torchext::TORCHEXT_ISA {

template <class U>
void fill(U* out, int64_t count, U value) {
  for (int64_t i = 0; i < count; ++i) out[i] = value;
}

typedef char Bytes64 __attribute__((vector_size(64), aligned(1), may_alias));

template <int bytes>
__attribute__((always_inline)) inline void move_bytes(const char* from, char* to) {
  if constexpr (bytes == 64)
    *reinterpret_cast<Bytes64*>(to) = *reinterpret_cast<const Bytes64*>(from);
  else
    std::memcpy(to, from, bytes);
}

// Calls body(part) with the largest power of two, up to 64 bytes, that is not larger than the run. Two copies of `part`
// bytes, which may overlap, copy a run of less than 128 bytes; longer runs take several copies of 64. Runs are short,
// and a call of memcpy often takes longer than the copy itself.
template <class Body>
__attribute__((always_inline)) inline void with_part(int64_t bytes, const Body& body) {
  if (bytes >= 64) return body(std::integral_constant<int, 64>{});
  if (bytes >= 32) return body(std::integral_constant<int, 32>{});
  if (bytes >= 16) return body(std::integral_constant<int, 16>{});
  if (bytes >= 8) return body(std::integral_constant<int, 8>{});
  if (bytes >= 4) return body(std::integral_constant<int, 4>{});
  if (bytes >= 2) return body(std::integral_constant<int, 2>{});
  if (bytes == 1) return body(std::integral_constant<int, 1>{});
}

template <int part>
__attribute__((always_inline)) inline void move_run(const char* from, int64_t bytes, char* to) {
  int64_t i = 0;
  if constexpr (part == 64)
    for (; i + 128 < bytes; i += 64) move_bytes<64>(from + i, to + i);
  move_bytes<part>(from + i, to + i);
  move_bytes<part>(from + bytes - part, to + bytes - part);
}

// Copies rows of `count` elements that are `pitch` elements apart in `from` and `to_pitch` apart in `to`. The way to
// copy a row is chosen once for all rows.
template <class U>
inline void copy_rows(const U* from, int64_t pitch, int64_t rows, int64_t count, U* to, int64_t to_pitch) {
  const int64_t bytes = count * int64_t{sizeof(U)};
  const char* source = reinterpret_cast<const char*>(from);
  char* target = reinterpret_cast<char*>(to);
  pitch *= sizeof(U);
  to_pitch *= sizeof(U);
  with_part(bytes, [&](auto part) {
    int64_t row = 0;
    // Where the rows of the output follow each other, a copy may write beyond its row: the copy of the next row
    // overwrites the excess.
    if (part < 64 && to_pitch == bytes && pitch >= 2 * part - bytes)
      for (; row + 1 < rows; ++row, source += pitch, target += to_pitch)
        move_bytes < part<64 ? 2 * part : 64>(source, target);
    for (; row < rows; ++row, source += pitch, target += to_pitch) move_run<part>(source, bytes, target);
  });
}

template <class U>
inline void copy_run(const U* from, int64_t count, U* to) {
  copy_rows(from, 0, 1, count, to, 0);
}

constexpr int64_t kCacheLine = 64;

// Copies a run with stores that bypass the caches. They write whole cache lines; the rest is copied as usual.
inline void stream_bytes(const char* from, char* to, int64_t bytes) {
  int64_t i = std::min<int64_t>(bytes, -reinterpret_cast<uintptr_t>(to) % kCacheLine);
  std::memcpy(to, from, static_cast<size_t>(i));
#if defined(TORCHEXT_AVX512)
  for (; i + kCacheLine <= bytes; i += kCacheLine)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
#elif defined(__x86_64__)
  for (; i + kCacheLine <= bytes; i += kCacheLine)
    for (int64_t k = i; k < i + kCacheLine; k += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + k), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + k)));
#endif
  std::memcpy(to + i, from + i, static_cast<size_t>(bytes - i));
}

template <class U>
inline void stream(const U* from, int64_t count, U* to) {
  stream_bytes(reinterpret_cast<const char*>(from), reinterpret_cast<char*>(to), count * int64_t{sizeof(U)});
}

// Calls write(first, count, to) for the parts of a run. If `streams` is set, it writes to a buffer in the first-level
// cache, which is then copied with stores that bypass the caches.
template <class U, class Write>
inline void write_run(bool streams, U* out, int64_t count, const Write& write) {
  if (!streams) return write(int64_t{0}, count, out);
  constexpr int64_t kPart = kStreamedBytes / sizeof(U);
  alignas(kCacheLine) U buffer[kPart];
  // Parts after the first begin at a cache line.
  int64_t begin = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % kCacheLine / sizeof(U));
  for (int64_t i = 0; i < count; begin = 0) {
    const int64_t length = std::min(kPart - begin, count - i);
    write(i, length, buffer + begin);
    stream(buffer + begin, length, out + i);
    i += length;
  }
}

// Prefetches a run that the hardware prefetcher does not reach, for example because it is on another page.
template <int write, int locality = write ? 3 : 2, class U>
inline void prefetch(const U* run, int64_t count) {
  const int64_t bytes = std::min<int64_t>(4096, count * int64_t{sizeof(U)});
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(reinterpret_cast<const char*>(run) + i, write, locality);
}

}  // namespace torchext::TORCHEXT_ISA

#endif
