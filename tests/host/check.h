// A test here is a program: it runs random cases from a seed and says which one failed.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

inline std::string this_case;  // what is being tested

#define CHECK(condition)                                                                                           \
  do {                                                                                                             \
    if (!(condition)) {                                                                                            \
      std::fprintf(stderr, "%s:%d: %s does not hold for %s\n", __FILE__, __LINE__, #condition, this_case.c_str()); \
      std::exit(1);                                                                                                \
    }                                                                                                              \
  } while (false)

class Random {
 public:
  explicit Random(uint32_t seed) : engine(seed) {}

  int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
  bool flip() { return between(0, 1) == 1; }
  template <class T, size_t n>
  T one_of(const T (&choices)[n]) {
    return choices[between(0, n - 1)];
  }

  std::mt19937 engine;
};

inline uint32_t seed_of(int argc, char** argv) {
  return argc > 1 ? static_cast<uint32_t>(std::strtoul(argv[1], nullptr, 10)) : 0;
}
