// Rows of 16-bit elements that lie anywhere, one behind the other and each a multiple of 16 bytes long, so that tensor maps can
// describe them. A thread copies 16 bytes at a time; threads side by side have neighbouring ones.
#include "attention/copy.cuh"
#include "params/attention_pack.h"

extern "C" __global__ void __launch_bounds__(128) attention_pack_sm90a(const __grid_constant__ AttentionPackParams p) {
  const uint32_t chunks = (p.length + 7) / 8;
  const uint64_t all = uint64_t{p.batch} * p.heads * p.rows * chunks;
  for (uint64_t i = uint64_t{blockIdx.x} * 128 + threadIdx.x; i < all; i += uint64_t{gridDim.x} * 128) {
    const uint32_t begin = static_cast<uint32_t>(i % chunks) * 8;
    const uint64_t row = i / chunks, of_head = row / p.rows;
    const uint64_t at = of_head / p.heads * p.from.batch + of_head % p.heads * p.from.head + row % p.rows * p.from.row + begin;
    static_cast<uint4*>(p.to)[i] = gather<F16>(static_cast<const char*>(p.from.data) + at * 2, (p.length - begin) * 2);
  }
}
