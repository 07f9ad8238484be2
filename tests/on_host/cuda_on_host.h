// Runs CUDA kernels on the CPU: every thread of every block, in an order shuffled by a seed, so that a missing barrier
// gives wrong results. A thread runs until it waits for others at a barrier or a warp operation. It keeps its fiber
// until all threads for which it waits have arrived. In some blocks one warp at a time is delayed. The compiler
// includes this file before everything else.
//
// Shared memory is one array. At the start of each block it contains NaNs, and AddressSanitizer reports accesses beyond
// the size of the launch. This does not test races between blocks, or speed.
// launch said. What this cannot show: races between blocks, and speed.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#include <torch/csrc/stable/library.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// The sources register kernels for CUDA; here they are registered for the CPU.
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(name, key, library) _STABLE_TORCH_LIBRARY_IMPL(name, CPU, library, C10_UID)

#define __CUDA_ON_HOST__
#define __global__
#define __device__
#define __host__
#define __shared__  // kernels only use dynamic shared memory
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__
#define __restrict__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

constexpr size_t kMostSharedBytes = 48 * 1024;
extern unsigned char torchext_shared[kMostSharedBytes];

namespace cuda_on_host {

// The values that a test sets and reads.
struct Device {
  int64_t processors = 1;
  int64_t most_32_bit_indices = INT32_MAX - (1 << 22);  // kMost32 of common/kernel.cuh; -1 makes all indices 64 bits
  int64_t launches = 0;                                 // of kernels and of fills
  int64_t threads = 0;
  int64_t argument_bytes = 0;  // the maximum over all kernels; larger with 64-bit indices, which tests detect by it
  std::mt19937 random{0};
};

inline Device device;

constexpr size_t kStackBytes = 32 * 1024;
constexpr unsigned kLanes = 32;

constexpr unsigned kNone = ~0u;
constexpr int kMostRoundsHeld = 100;  // limited, because others may only be waiting for a lock of the delayed warp

enum class State { kNew, kRunning, kAtBarrier, kAtWarp, kDone };

// Switches from one stack to another and saves only what the compiler saves. The functions of the C library also ask
// the kernel for the signal mask, and are checked by AddressSanitizer, which takes even longer.
using Place = void* [5];

[[noreturn]] __attribute__((noinline, no_sanitize_address)) inline void go(Place& to) {
  __builtin_longjmp(to, 1);
}

__attribute__((noinline, no_sanitize_address)) inline void jump(Place& from, Place& to) {
  if (__builtin_setjmp(from) == 0) go(to);
}

struct Fiber {
  ucontext_t start;
  Place here;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* fake_stack = nullptr;
};

struct Thread {
  State state = State::kNew;
  size_t fiber = 0;
  unsigned mask = 0, source = 0;  // of a warp operation: the lanes that take part, and the lane whose value is read
  uint64_t value = 0;             // of a warp operation: the thread's own value, then the value that it read
};

inline std::string in_this_thread(const char* what) {
  return "block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(threadIdx.x) + ": " + what;
}

class Block {
 public:
  void run(unsigned threads, const std::function<void()>& body, std::mt19937& random) {
    body_ = &body;
    threads_.assign(threads, {});
    order_.resize(threads);
    std::iota(order_.begin(), order_.end(), 0u);
    held_ = kNone;
    const bool lags = random() % 4 == 0;
    try {
      do {
        std::shuffle(order_.begin(), order_.end(), random);
        if (lags && held_ == kNone && random() % 2 == 0) {
          held_ = static_cast<unsigned>(random() % order_.size()) / kLanes;
          rounds_held_ = kMostRoundsHeld;
        }
        for (next_ = 0; next_ < order_.size();) {
          Thread& thread = threads_[order_[next_]];
          if (is_held(order_[next_]))
            ++next_;
          else if (thread.state == State::kNew)
            start();
          else if (thread.state == State::kRunning)
            resume(order_[next_++]);
          else
            ++next_;
          if (!failure_.empty()) throw std::runtime_error(std::exchange(failure_, {}));
        }
      } while (release());
    } catch (...) {
      free_.clear();  // threads on these fibers never finish
      fibers_.clear();
      throw;
    }
  }

  void wait(State state) {
    Thread& thread = threads_[current_];
    thread.state = state;
    leave(*fibers_[thread.fiber]);
  }

  // Other threads may run between any two instructions of a thread. Here they do.
  void let_others_run() { leave(*fibers_[threads_[current_].fiber]); }

  uint64_t exchange(unsigned mask, uint64_t value, unsigned source) {
    if (!(mask >> lane() & 1u)) {
      failure_ = in_this_thread("the mask of a warp operation lacks the lane itself");
      let_others_run();
    }
    Thread& thread = threads_[current_];
    thread.mask = mask;
    thread.value = value;
    thread.source = source;
    wait(State::kAtWarp);
    return threads_[current_].value;
  }

  unsigned lane() const { return current_ % kLanes; }

  // A fiber runs one thread after the other, until one of them must wait.
  [[noreturn]] void run_threads() {
    for (;;) {
      (*body_)();
      const size_t fiber = threads_[current_].fiber;
      threads_[current_].state = State::kDone;
      if (next_ < order_.size() && threads_[order_[next_]].state == State::kNew && !is_held(order_[next_])) {
        take(order_[next_++], fiber);
      } else {
        free_.push_back(fiber);
        leave(*fibers_[fiber]);
      }
    }
  }

 private:
  bool is_held(unsigned index) const { return index / kLanes == held_; }

  void take(unsigned index, size_t fiber) {
    current_ = index;
    threadIdx = {index, 0, 0};
    threads_[index].fiber = fiber;
    threads_[index].state = State::kRunning;
  }

  void start() {
    const bool fresh = free_.empty();
    if (fresh) {
      free_.push_back(fibers_.size());
      fibers_.push_back(std::make_unique<Fiber>());
    }
    const size_t fiber = free_.back();
    free_.pop_back();
    take(order_[next_++], fiber);
    enter(*fibers_[fiber], fresh);
  }

  void resume(unsigned index) {
    current_ = index;
    threadIdx = {index, 0, 0};
    enter(*fibers_[threads_[index].fiber], false);
  }

  void enter(Fiber& fiber, bool fresh) {
    [[maybe_unused]] void* fake_stack = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake_stack, fiber.stack.get(), kStackBytes);
#endif
    if (fresh)
      begin(fiber);
    else
      jump(main_, fiber.here);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  __attribute__((noinline, no_sanitize_address)) void begin(Fiber& fiber) {
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStackBytes;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, entry, 0);
    if (__builtin_setjmp(main_) == 0) setcontext(&fiber.start);
  }

  // Switches back to the scheduler, until it enters the fiber again.
  void leave(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fiber.fake_stack, main_stack_, main_size_);
#endif
    jump(fiber.here, main_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &main_stack_, &main_size_);
#endif
  }

  static void entry();

  // Lets threads run whose wait is over; false if all threads are done.
  bool release() {
    bool progress = false, done = true, all_at_barrier = true;
    for (unsigned first = 0; first < threads_.size(); first += kLanes) progress |= release_warp(first);
    bool others_run = progress;
    for (unsigned index = 0; index < threads_.size(); ++index) {
      const State state = threads_[index].state;
      const bool runs = state == State::kRunning || state == State::kNew;
      progress = progress || runs;
      others_run = others_run || (runs && !is_held(index));
      done = done && state == State::kDone;
      all_at_barrier = all_at_barrier && (state == State::kAtBarrier || state == State::kDone);
    }
    if (held_ != kNone && (!others_run || --rounds_held_ == 0)) held_ = kNone;
    if (done || progress) return !done;
    if (!all_at_barrier) throw std::runtime_error("some threads wait at a barrier, others at a warp operation");
    for (Thread& thread : threads_)
      if (thread.state == State::kAtBarrier) thread.state = State::kRunning;
    return true;
  }

  bool release_warp(unsigned first) {
    const unsigned lanes = std::min<unsigned>(kLanes, static_cast<unsigned>(threads_.size()) - first);
    bool progress = false;
    for (unsigned lane = 0; lane < lanes; ++lane) {
      if (threads_[first + lane].state != State::kAtWarp) continue;
      const unsigned mask = threads_[first + lane].mask;
      uint64_t values[kLanes] = {};
      bool complete = true;
      for (unsigned l = 0; l < lanes; ++l) {
        if (!(mask >> l & 1u)) continue;
        const Thread& other = threads_[first + l];
        if (other.state == State::kDone)
          throw std::runtime_error("a warp operation waits for a lane that has returned");
        complete = complete && other.state == State::kAtWarp && other.mask == mask;
        values[l] = other.value;
      }
      if (!complete) continue;
      for (unsigned l = 0; l < lanes; ++l) {
        if (!(mask >> l & 1u)) continue;
        Thread& other = threads_[first + l];
        if (other.source >= lanes || !(mask >> other.source & 1u))
          throw std::runtime_error("a shuffle reads a lane that takes no part");
        other.value = values[other.source];
        other.state = State::kRunning;
      }
      progress = true;
    }
    return progress;
  }

  const std::function<void()>* body_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<unsigned> order_;
  size_t next_ = 0;
  unsigned current_ = 0;
  unsigned held_ = kNone;  // the delayed warp, which does not run while others can
  int rounds_held_ = 0;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<size_t> free_;
  std::string failure_;
  Place main_;
  const void* main_stack_ = nullptr;
  size_t main_size_ = 0;

  friend void enter_fiber(Block&);
};

inline Block block;

inline void enter_fiber(Block& block) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.main_stack_, &block.main_size_);
#endif
  block.run_threads();
}

inline void Block::entry() {
  enter_fiber(block);
}

template <class T>
T shuffle(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = block.exchange(mask, bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes,
            const Arguments&... arguments) {
  if (blocks < 1 || blocks > INT32_MAX || threads < 1 || threads > 1024 || shared_bytes > kMostSharedBytes)
    throw std::runtime_error("no GPU takes this launch: " + std::to_string(blocks) + " blocks of " +
                             std::to_string(threads) + " threads with " + std::to_string(shared_bytes) +
                             " bytes of shared memory");
  ++device.launches;
  device.threads += blocks * threads;
  device.argument_bytes = std::max(device.argument_bytes, static_cast<int64_t>((sizeof(Arguments) + ... + 0)));
  gridDim = {static_cast<unsigned>(blocks), 1, 1};
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  const std::function<void()> body = [&] { kernel(arguments...); };
  std::vector<unsigned> order(static_cast<size_t>(blocks));
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), device.random);
  for (unsigned index : order) {
    blockIdx = {index, 0, 0};
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(torchext_shared, kMostSharedBytes);
#endif
    std::memset(torchext_shared, 0xff, shared_bytes);
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(torchext_shared + shared_bytes, kMostSharedBytes - shared_bytes);
#endif
    block.run(static_cast<unsigned>(threads), body, device.random);
  }
}

}  // namespace cuda_on_host

inline void __syncthreads() {
  cuda_on_host::block.wait(cuda_on_host::State::kAtBarrier);
}
inline void __syncwarp(unsigned mask = ~0u) {
  cuda_on_host::block.exchange(mask, 0, cuda_on_host::block.lane());
}
inline void __threadfence() {
  cuda_on_host::block.let_others_run();
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned bits) {
  return cuda_on_host::shuffle(mask, value, cuda_on_host::block.lane() ^ bits);
}

template <class T>
T atomicCAS(T* at, T expected, T desired) {
  cuda_on_host::block.let_others_run();
  const T old = *at;
  if (old == expected) *at = desired;
  return old;
}

template <class T>
T atomicExch(T* at, T value) {
  return std::exchange(*at, value);
}

template <class T>
T atomicAdd(T* at, T value) {
  cuda_on_host::block.let_others_run();
  const T old = *at;
  *at = old + value;
  return old;
}

// For all lanes of a warp.
inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  const unsigned lane = cuda_on_host::block.lane();
  unsigned lanes = static_cast<unsigned>(predicate) << lane;
  for (unsigned bits = 1; bits < cuda_on_host::kLanes; bits *= 2)
    lanes |= cuda_on_host::shuffle(mask, lanes, lane ^ bits);
  return lanes;
}

inline int __popc(unsigned bits) {
  return __builtin_popcount(bits);
}

template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  unsigned equals = 0;
  for (unsigned lane = 0; lane < cuda_on_host::kLanes; ++lane)
    if (mask >> lane & 1u) equals |= static_cast<unsigned>(cuda_on_host::shuffle(mask, value, lane) == value) << lane;
  return equals;
}
