#pragma once

#include <cstddef>

namespace torchext {

constexpr size_t kSmallestPooled = size_t{1} << 20;

// Memory of a large result. A system clears fresh memory when it is first written, which takes longer than most kernels
// of this library. So the memory of deleted results is kept and reused.
struct Block;

// Returns a block of at least `bytes` bytes, not initialised. It returns null if the pool is off or the block would be
// larger than the pool, and if there is no memory.
Block* take_block(size_t bytes);
void* data_of(const Block* block);

// Whether the memory of the block has not been written yet.
bool is_fresh(const Block* block);

// Returns a block to the pool.
void give_block(Block* block);

// Returns the memory of all unused blocks to the operating system. Returns its size in bytes.
size_t release_blocks();

}  // namespace torchext
