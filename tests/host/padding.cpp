// The index math of padding: against its own inverse, and printed for the test that compares it with numpy.pad.
#include <vector>

#include "check.h"
#include "windows/padding.h"

using namespace torchext;

static const char* const kModes[] = {"constant", "reflect", "replicate", "circular", "symmetric"};

// The widest padding that a mode allows.
static int64_t most(PaddingMode mode, int64_t size) {
  if (mode == PaddingMode::kReflect) return size - 1;
  return mode == PaddingMode::kCircular || mode == PaddingMode::kSymmetric ? size : size + 3;
}

template <class Index>
static void check(int mode_index, Index size, Index padding) {
  const PaddingMode mode{mode_index};
  this_case =
      std::string(kModes[mode_index]) + ", size " + std::to_string(size) + ", padding " + std::to_string(padding);
  Index shown = 0;
  for (Index element = 0; element < size; ++element) {
    const PaddingCopies<Index> copies = padding_copies(mode, element, size, padding);
    for (Index i = 0; i < copies.count(); ++i, ++shown) {
      const Index position = copies.position(i);
      CHECK(position >= -padding && position < size + padding && (position < 0 || position >= size));
      CHECK(i == 0 || copies.position(i - 1) < position);
      CHECK(padding_source(mode, position, size) == element);
    }
  }
  CHECK(shown == (mode == PaddingMode::kConstant ? 0 : 2 * padding));
  for (Index position = -3 * size; position < 4 * size; ++position) {
    const Index source = padding_source(mode, position, size);
    CHECK(source < size && source >= (mode == PaddingMode::kConstant ? -1 : 0));
  }
}

static void print(int mode, int64_t size, int64_t padding) {
  std::printf("%s %d %d", kModes[mode], static_cast<int>(size), static_cast<int>(padding));
  for (int64_t position = -padding; position < size + padding; ++position)
    std::printf(" %d", static_cast<int>(padding_source(PaddingMode{mode}, position, size)));
  std::printf("\n");
}

int main() {
  for (int mode = 0; mode < 5; ++mode) {
    for (int64_t size = 1; size <= 7; ++size) {
      for (int64_t padding = 0; padding <= most(PaddingMode{mode}, size); ++padding) {
        check<int32_t>(mode, static_cast<int32_t>(size), static_cast<int32_t>(padding));
        check<int64_t>(mode, size, padding);
        print(mode, size, padding);
      }
    }
    // Where twice the size does not fit.
    const int32_t size = INT32_MAX - 100;
    for (int32_t i = 1; i < 50; ++i)
      for (int32_t position : {-i, size - 1 + i})
        CHECK(padding_source(PaddingMode{mode}, position, size) ==
              padding_source(PaddingMode{mode}, int64_t{position}, int64_t{size}));
  }
}
