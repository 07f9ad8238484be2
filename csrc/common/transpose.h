#include "common/isa.h"
#include "common/simd.h"

#if defined(TORCHEXT_TRANSPOSE) == defined(TORCHEXT_SECOND_ISA)  // see isa.h
#if defined(TORCHEXT_TRANSPOSE)
#undef TORCHEXT_TRANSPOSE
#else
#define TORCHEXT_TRANSPOSE
#endif

namespace torchext::TORCHEXT_ISA {

// The tile that is transposed in registers has `side` rows of `lane` columns. Shuffles within 16 bytes are the cheap
// ones. So rows that are `lane` apart are loaded next to each other, as the lanes of one register of `width` bytes, and
// no element is moved from one lane to another.
template <class U, int width>
struct Tile {
  static constexpr int lane = std::min<int>(8, 16 / sizeof(U));
  static constexpr int lanes = sizeof(U) == 4 || sizeof(U) == 8 ? width / 16 : 1;
  static constexpr int side = lane * lanes;
  typedef UnsignedOf<sizeof(U)> Lane __attribute__((vector_size(lane * sizeof(U))));
  typedef UnsignedOf<sizeof(U)> Row __attribute__((vector_size(side * sizeof(U))));
};

// Returns a0 b0 a1 b1 ... within each lane, from the lower halves of the lanes (from = 0) or from the upper halves.
template <int lane, int from, class Row, int... I>
inline Row interleave(const Row& a, const Row& b, std::integer_sequence<int, I...>) {
  constexpr int side = sizeof...(I);
  return __builtin_shufflevector(a, b, (I % 2 * side + I / lane * lane + from + I % lane / 2)...);
}

template <class Vector, int... I>
inline auto side_by_side(const Vector& a, const Vector& b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, I...);
}

// Loads `lanes` lanes that are `distance` elements apart into one register.
template <class U, int lanes>
inline auto load_lanes(const U* from, int64_t distance) {
  if constexpr (lanes == 1) {
    typename Tile<U, 16>::Lane lane;
    std::memcpy(&lane, from, sizeof lane);
    return lane;
  } else {
    constexpr int count = lanes * Tile<U, 16>::lane;
    return side_by_side(load_lanes<U, lanes / 2>(from, distance),
                        load_lanes<U, lanes / 2>(from + lanes / 2 * distance, distance),
                        std::make_integer_sequence<int, count>{});
  }
}

template <int width, class U>
[[gnu::always_inline]] inline void transpose_tile(const U* in, int64_t in_pitch, U* out, int64_t out_pitch) {
  using T = Tile<U, width>;
  constexpr auto kSide = std::make_integer_sequence<int, T::side>{};
  typename T::Row rows[T::lane], next[T::lane];
#pragma GCC unroll 8
  for (int i = 0; i < T::lane; ++i) rows[i] = load_lanes<U, T::lanes>(in + i * in_pitch, T::lane * in_pitch);
#pragma GCC unroll 3
  // each step interleaves the rows pairwise; log2(lane) steps transpose
  for (int step = 1; step < T::lane; step *= 2) {
    constexpr int half = T::lane / 2;
#pragma GCC unroll 4
    for (int i = 0; i < half; ++i) {
      next[2 * i] = interleave<T::lane, 0>(rows[i], rows[i + half], kSide);
      next[2 * i + 1] = interleave<T::lane, half>(rows[i], rows[i + half], kSide);
    }
#pragma GCC unroll 8
    for (int i = 0; i < T::lane; ++i) rows[i] = next[i];
  }
  // This loop has to be unrolled, because the compiler would otherwise pass the rows through memory.
#pragma GCC unroll 8
  for (int i = 0; i < T::lane; ++i) std::memcpy(out + i * out_pitch, &rows[i], sizeof rows[i]);
}

#if defined(TORCHEXT_AVX512)
// Transposes a tile of 16 packed rows of four elements: such rows are loaded as whole registers.
template <class U, int... I>
[[gnu::always_inline]] inline void split_packed_tile(const U* in, U* out, int64_t out_pitch,
                                                     std::integer_sequence<int, I...>) {
  using Row = typename Tile<U, 64>::Row;
  Row rows[4], pairs[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&rows[i], in + i * 16, sizeof rows[i]);
  for (int i = 0; i < 2; ++i) {
    // Columns 0 and 1, or columns 2 and 3, of eight rows.
    pairs[i] = __builtin_shufflevector(rows[2 * i], rows[2 * i + 1], (I % 8 * 4 + I / 8)...);
    pairs[2 + i] = __builtin_shufflevector(rows[2 * i], rows[2 * i + 1], (I % 8 * 4 + I / 8 + 2)...);
  }
  for (int i = 0; i < 2; ++i) {
    const Row low = __builtin_shufflevector(pairs[2 * i], pairs[2 * i + 1], (I % 8 + I / 8 * 16)...);
    const Row high = __builtin_shufflevector(pairs[2 * i], pairs[2 * i + 1], (I % 8 + I / 8 * 16 + 8)...);
    std::memcpy(out + 2 * i * out_pitch, &low, sizeof low);
    std::memcpy(out + (2 * i + 1) * out_pitch, &high, sizeof high);
  }
}

template <class U>
void split_packed_tiles(const U* in, int64_t rows, U* out, int64_t out_pitch) {
  for (int64_t next = 0; next < rows; next += 16) {
    const int64_t i = std::min(next, rows - 16);
    split_packed_tile(in + 4 * i, out + i, out_pitch, std::make_integer_sequence<int, 16>{});
  }
}

// The inverse of split_packed_tile: four rows become 16 packed rows of four elements.
template <class U, int... I>
[[gnu::always_inline]] inline void interleave_packed_tile(const U* in, int64_t in_pitch, U* out,
                                                          std::integer_sequence<int, I...>) {
  using Row = typename Tile<U, 64>::Row;
  Row rows[4], pairs[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&rows[i], in + i * in_pitch, sizeof rows[i]);
  for (int i = 0; i < 2; ++i) {
    // The first eight columns, or the last eight, of rows 0 and 1, or of rows 2 and 3.
    pairs[i] = __builtin_shufflevector(rows[2 * i], rows[2 * i + 1], (I / 2 + I % 2 * 16)...);
    pairs[2 + i] = __builtin_shufflevector(rows[2 * i], rows[2 * i + 1], (I / 2 + I % 2 * 16 + 8)...);
  }
  for (int i = 0; i < 2; ++i) {
    const Row low = __builtin_shufflevector(pairs[2 * i], pairs[2 * i + 1], (I / 4 * 2 + I % 2 + I / 2 % 2 * 16)...);
    const Row high =
        __builtin_shufflevector(pairs[2 * i], pairs[2 * i + 1], (I / 4 * 2 + I % 2 + I / 2 % 2 * 16 + 8)...);
    std::memcpy(out + 2 * i * 16, &low, sizeof low);
    std::memcpy(out + (2 * i + 1) * 16, &high, sizeof high);
  }
}

template <class U>
void interleave_packed_tiles(const U* in, int64_t in_pitch, int64_t columns, U* out) {
  for (int64_t next = 0; next < columns; next += 16) {
    const int64_t j = std::min(next, columns - 16);
    interleave_packed_tile(in + j, in_pitch, out + 4 * j, std::make_integer_sequence<int, 16>{});
  }
}
#endif

// Transposes a matrix of at least one tile. The last tiles overlap their neighbours, so that no rows or columns remain.
template <int width, class U>
void transpose_tiles(const U* in, int64_t in_pitch, int64_t rows, int64_t columns, U* out, int64_t out_pitch) {
  constexpr int64_t side = Tile<U, width>::side, lane = Tile<U, width>::lane;
  const int64_t last = rows - side;
  for (int64_t j = 0; j < columns; j += lane) {
    const int64_t column = std::min(j, columns - lane);
    const U* from = in + column;
    U* to = out + column * out_pitch;
    for (int64_t i = 0; i <= last; i += side) transpose_tile<width>(from + i * in_pitch, in_pitch, to + i, out_pitch);
    if (rows % side != 0) transpose_tile<width>(from + last * in_pitch, in_pitch, to + last, out_pitch);
  }
}

// Transposes with the widest tiles for which there are enough rows. Returns false if the matrix is smaller than any
// tile.
template <int width, class U>
bool transpose_by_tiles(const U* in, int64_t in_pitch, int64_t rows, int64_t columns, U* out, int64_t out_pitch) {
  if (rows >= Tile<U, width>::side && columns >= Tile<U, width>::lane) {
    transpose_tiles<width>(in, in_pitch, rows, columns, out, out_pitch);
    return true;
  }
  if constexpr (width > 16 && Tile<U, width>::lanes > 1)
    return transpose_by_tiles<width / 2>(in, in_pitch, rows, columns, out, out_pitch);
  return false;
}

// Transposes `rows` packed rows of a few columns.
template <int columns, class U>
void split_columns(const U* __restrict in, int64_t rows, U* __restrict out, int64_t out_pitch) {
#pragma GCC ivdep
  for (int64_t i = 0; i < rows; ++i)
    for (int j = 0; j < columns; ++j) out[j * out_pitch + i] = in[i * columns + j];
}

// Transposes a few rows to packed columns.
template <int rows, class U>
void interleave_rows(const U* __restrict in, int64_t in_pitch, int64_t columns, U* __restrict out) {
#pragma GCC ivdep
  for (int64_t j = 0; j < columns; ++j)
    for (int i = 0; i < rows; ++i) out[j * rows + i] = in[i * in_pitch + j];
}

// out[j * out_pitch + i] = in[i * in_pitch + j] for i < rows and j < columns.
template <class U>
void transpose(const U* in, int64_t in_pitch, int64_t rows, int64_t columns, U* out, int64_t out_pitch) {
#if defined(TORCHEXT_AVX512)
  if constexpr (sizeof(U) == 4)
    if (in_pitch == 4 && columns == 4 && rows >= 16) return split_packed_tiles(in, rows, out, out_pitch);
  if constexpr (sizeof(U) == 4)
    if (out_pitch == 4 && rows == 4 && columns >= 16) return interleave_packed_tiles(in, in_pitch, columns, out);
#endif
  if constexpr (sizeof(U) <= 8)
    if (transpose_by_tiles<kSimdBytes>(in, in_pitch, rows, columns, out, out_pitch)) return;
  if (in_pitch == columns) {
    if (columns == 2) return split_columns<2>(in, rows, out, out_pitch);
    if (columns == 3) return split_columns<3>(in, rows, out, out_pitch);
    if (columns == 4) return split_columns<4>(in, rows, out, out_pitch);
  }
  if (out_pitch == rows) {
    if (rows == 2) return interleave_rows<2>(in, in_pitch, columns, out);
    if (rows == 3) return interleave_rows<3>(in, in_pitch, columns, out);
    if (rows == 4) return interleave_rows<4>(in, in_pitch, columns, out);
  }
  if (rows == 1 && out_pitch == 1) return void(std::memcpy(out, in, columns * sizeof(U)));
  if (columns <= rows)
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t i = 0; i < rows; ++i) out[j * out_pitch + i] = in[i * in_pitch + j];
  else
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) out[j * out_pitch + i] = in[i * in_pitch + j];
}

}  // namespace torchext::TORCHEXT_ISA

#endif
