#include "common/block_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "common/huge_pages.h"
#include "common/settings.h"

namespace torchext {

using Clock = std::chrono::steady_clock;

struct Block {
  void* data;
  size_t bytes;
  Clock::time_point unused_since;
  bool is_fresh = true;
};

namespace {

constexpr size_t kSmallestLimit = size_t{256} << 20;
constexpr size_t kLargestLimit = size_t{1} << 30;
constexpr std::chrono::seconds kLongestUnused{10};

void* map_memory(size_t bytes) {
#if defined(__linux__)
  // One huge page more than necessary, so that the block can start at a huge page. The rest is returned at once.
  void* const mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* const begin = static_cast<char*>(mapped);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, kHugePage - before);
  hint_huge_pages(begin + before, bytes);
  return begin + before;
#else
  return std::aligned_alloc(kHugePage, bytes);
#endif
}

void unmap_memory(Block* block) {
#if defined(__linux__)
  munmap(block->data, block->bytes);
#else
  std::free(block->data);
#endif
  delete block;
}

// The number in a file such as the memory limit of a control group; the largest number if there is none.
size_t number_in(const char* path) {
  size_t number = SIZE_MAX;
  if (std::FILE* const file = std::fopen(path, "r")) {
    unsigned long long found = 0;
    if (std::fscanf(file, "%llu", &found) == 1) number = static_cast<size_t>(found);
    std::fclose(file);
  }
  return number;
}

// TORCHEXT_CPU_CACHE in bytes, or a sixteenth of the memory that the process may use.
size_t initial_limit() {
  if (const auto setting = bytes_in_setting("TORCHEXT_CPU_CACHE")) return *setting;
  size_t memory =
      std::min(number_in("/sys/fs/cgroup/memory.max"), number_in("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
#if defined(_SC_PHYS_PAGES)
  memory = std::min(memory, static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE)));
#endif
  return std::clamp(memory / 16, kSmallestLimit, kLargestLimit);
}

class BlockPool {
 public:
  Block* take(size_t bytes) {
    if (bytes > limit_ || bytes == 0) return nullptr;
    bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    Released released;
    {
      const std::lock_guard lock(mutex);
      release_old(released);
      const auto larger = unused_.lower_bound(bytes);
      if (larger != unused_.end() && larger->first <= bytes + std::max(bytes / 4, kHugePage)) {
        // Of several blocks of this size, the one that was used last, which may still be in the cache.
        const auto found = std::prev(unused_.upper_bound(larger->first));
        Block* const block = found->second;
        unused_.erase(found);
        unused_bytes_ -= block->bytes;
        used_bytes_ += block->bytes;
        ++reused_;
        return block;
      }
    }
    void* data = map_memory(bytes);
    if (data == nullptr && release() > 0) data = map_memory(bytes);
    if (data == nullptr) return nullptr;
    Block* const block = new (std::nothrow) Block{data, bytes, {}};
    if (block == nullptr) std::terminate();  // as for the map of blocks
    const std::lock_guard lock(mutex);
    used_bytes_ += bytes;
    ++allocated_;
    return block;
  }

  void give(Block* block) {
    Released released;
    const std::lock_guard lock(mutex);
    used_bytes_ -= block->bytes;
    block->unused_since = Clock::now();
    block->is_fresh = false;
    unused_.emplace(block->bytes, block);
    unused_bytes_ += block->bytes;
    release_old(released);
  }

  size_t release() {
    Released released;
    const std::lock_guard lock(mutex);
    const size_t bytes = unused_bytes_;
    for (const auto& [size, block] : unused_) released.blocks.push_back(block);
    unused_.clear();
    unused_bytes_ = 0;
    return bytes;
  }

  void set_limit(size_t bytes) {
    Released released;
    const std::lock_guard lock(mutex);
    limit_ = bytes;
    release_old(released);
  }

  void statistics(int64_t* numbers) {
    const std::lock_guard lock(mutex);
    const size_t all[] = {limit_, used_bytes_, unused_bytes_, allocated_, reused_};
    std::transform(std::begin(all), std::end(all), numbers, [](size_t number) { return static_cast<int64_t>(number); });
  }

  std::mutex mutex;

 private:
  // Blocks whose memory is released when the pool is not locked any more, since that takes long.
  struct Released {
    std::vector<Block*> blocks;
    ~Released() {
      for (Block* block : blocks) unmap_memory(block);
    }
  };

  // Removes the blocks that have been unused for the longest time: all that exceed the limit, and those that have been
  // unused for several seconds.
  void release_old(Released& released) {
    const Clock::time_point oldest = Clock::now() - kLongestUnused;
    while (!unused_.empty()) {
      const auto first = std::min_element(unused_.begin(), unused_.end(), [](const auto& a, const auto& b) {
        return a.second->unused_since < b.second->unused_since;
      });
      if (unused_bytes_ <= limit_ && first->second->unused_since > oldest) return;
      released.blocks.push_back(first->second);
      unused_bytes_ -= first->second->bytes;
      unused_.erase(first);
    }
  }

  std::multimap<size_t, Block*> unused_;
  std::atomic<size_t> limit_ = initial_limit();
  size_t used_bytes_ = 0, unused_bytes_ = 0, allocated_ = 0, reused_ = 0;
};

// Never destroyed, since tensors may be deleted after static objects.
BlockPool& pool() {
  static BlockPool* const instance = [] {
    static BlockPool* const made = new BlockPool;
#if defined(__unix__) || defined(__APPLE__)
    // A forked process, such as a worker of a data loader, has a pool of its own only if one was requested.
    pthread_atfork([] { made->mutex.lock(); }, [] { made->mutex.unlock(); },
                   [] {
                     made->mutex.unlock();
                     made->release();
                     if (std::getenv("TORCHEXT_CPU_CACHE") == nullptr) made->set_limit(0);
                   });
#endif
    return made;
  }();
  return *instance;
}

}  // namespace

Block* take_block(size_t bytes) {
  return pool().take(bytes);
}

void* data_of(const Block* block) {
  return block->data;
}

bool is_fresh(const Block* block) {
  return block->is_fresh;
}

void give_block(Block* block) {
  pool().give(block);
}

size_t release_blocks() {
  return pool().release();
}

}  // namespace torchext

// Called through ctypes.
extern "C" __attribute__((visibility("default"))) int64_t torchext_release_blocks() {
  return static_cast<int64_t>(torchext::release_blocks());
}

extern "C" __attribute__((visibility("default"))) void torchext_limit_blocks(int64_t bytes) {
  torchext::pool().set_limit(static_cast<size_t>(bytes));
}

// The limit, the bytes of used and of unused blocks, and how many blocks were allocated and reused.
extern "C" __attribute__((visibility("default"))) void torchext_block_statistics(int64_t* numbers) {
  torchext::pool().statistics(numbers);
}
