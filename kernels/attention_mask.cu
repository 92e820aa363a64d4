// What attention wants to know of a mask before it starts: the bytes of a mask as bits, and what cells of neighbouring queries and keys
// have in common, so that tiles without a visible key are skipped and tiles without a hidden one need no look.
//
// Bytes are read once, as 16 of a lane and 512 of a warp. A lane's 16 keys are the width of a cell, so 32 queries later a vote of the
// warp makes two words of 32 cells. Nothing is written of dims that repeat: a mask for all heads is packed once.
//
// Segments leave no bits: 16 of them become a span, and tiles whose spans do not meet are hidden. If segments ascend, as they do where
// sequences are packed, no other tile is.
#include "common/dtype.cuh"
#include "params/attention.h"

constexpr int kWarps = 4;
/// Keys that a warp looks at.
constexpr uint32_t kWarpKeys = 32 * ATTENTION_CELL_KEYS;
static_assert(ATTENTION_CELL_KEYS == 16);

/// The bytes of a word that are not 0, as its lowest four bits.
DEVICE uint32_t nonzero_bytes(uint32_t word) {
  const uint32_t flags = (((word & 0x7f7f7f7fu) + 0x7f7f7f7fu) | word) >> 7 & 0x01010101u;
  // Moves bits 0, 8, 16 and 24 to 28, 29, 30 and 31; the other products stay below, each in a place of its own.
  return flags * 0x10204080u >> 28;
}

/// Which of `there` bytes from key `key` of a row on are not 0; at most 16.
DEVICE uint32_t nonzero_keys(const AttentionMaskBitsParams& p, const uint8_t* row, uint32_t key, uint32_t there) {
  if (p.vectors != 0 && there == 16) {
    const uint4 words = __ldg(reinterpret_cast<const uint4*>(row + key));
    return nonzero_bytes(words.x) | nonzero_bytes(words.y) << 4 | nonzero_bytes(words.z) << 8 | nonzero_bytes(words.w) << 12;
  }
  uint32_t nonzero = 0;
#pragma unroll 4
  for (uint32_t i = 0; i < there; ++i) nonzero |= uint32_t{__ldg(row + (uint64_t{key} + i) * p.bytes.key) != 0} << i;
  return nonzero;
}

extern "C" __global__ void __launch_bounds__(32 * kWarps) attention_mask_bits(const __grid_constant__ AttentionMaskBitsParams p) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t parts = (p.keys + kWarpKeys - 1) / kWarpKeys;
  const uint32_t cell_rows = (p.queries + ATTENTION_CELL_QUERIES - 1) / ATTENTION_CELL_QUERIES;
  // Behind the last key, rows of bits go on to a multiple of 16 bytes.
  const uint32_t key_end = (p.keys + 127) / 128 * 128;
  const uint64_t items = uint64_t{p.batch} * p.heads * cell_rows * parts;
  for (uint64_t item = uint64_t{blockIdx.x} * kWarps + threadIdx.x / 32; item < items; item += uint64_t{gridDim.x} * kWarps) {
    const uint32_t part = item % parts, cell_row = item / parts % cell_rows;
    const uint64_t of_head = item / parts / cell_rows, head = of_head % p.heads, batch = of_head / p.heads;
    const uint32_t key = part * kWarpKeys + lane * ATTENTION_CELL_KEYS;
    const uint32_t there = key < p.keys ? min(p.keys - key, 16u) : 0u, all = (1u << there) - 1;
    const uint8_t* bytes = static_cast<const uint8_t*>(p.bytes.data) + batch * p.bytes.batch + head * p.bytes.head;
    uint32_t* bits = const_cast<uint32_t*>(p.out.bits) + batch * p.out.bits_batch + head * p.out.bits_head;
    uint32_t visible_somewhere = 0, hidden_somewhere = 0;
    const uint32_t end = min((cell_row + 1) * ATTENTION_CELL_QUERIES, p.queries);
#pragma unroll 4
    for (uint32_t query = cell_row * ATTENTION_CELL_QUERIES; query < end; ++query) {
      uint32_t visible = nonzero_keys(p, bytes + query * p.bytes.query, key, there);
      if (p.hide != 0) visible ^= all;
      visible_somewhere |= visible;
      hidden_somewhere |= visible ^ all;
      const uint32_t next = __shfl_down_sync(0xffffffffu, visible, 1);
      if (lane % 2 == 0 && key < key_end) bits[query * p.out.bits_query + key / 32] = visible | next << 16;
    }
    const uint32_t some = __ballot_sync(0xffffffffu, visible_somewhere != 0);
    const uint32_t whole = __ballot_sync(0xffffffffu, hidden_somewhere == 0);
    if (lane == 0) {
      const uint64_t row = batch * p.out.cells_batch + head * p.out.cells_head + cell_row * p.out.cells_row;
      *reinterpret_cast<uint2*>(const_cast<uint32_t*>(p.out.cells) + row + 2 * part) = {some, whole};
    }
  }
}

extern "C" __global__ void __launch_bounds__(32 * kWarps) attention_mask_spans(const __grid_constant__ AttentionMaskSpansParams p) {
  const uint32_t lane = threadIdx.x % 32, positions = p.segments.positions, parts = (positions + 31) / 32;
  const uint64_t items = uint64_t{p.batch} * parts;
  for (uint64_t item = uint64_t{blockIdx.x} * kWarps + threadIdx.x / 32; item < items; item += uint64_t{gridDim.x} * kWarps) {
    const uint64_t batch = item / parts;
    const uint32_t position = item % parts * 32 + lane;
    int32_t smallest = 0x7fffffff, largest = -0x7fffffff - 1;
    if (position < positions) smallest = largest = __ldg(p.segments.data + batch * p.segments.batch + position * p.segments.position);
#pragma unroll
    for (int distance = 1; distance < ATTENTION_CELL_KEYS; distance *= 2) {
      smallest = min(smallest, __shfl_xor_sync(0xffffffffu, smallest, distance));
      largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
    }
    if (lane % ATTENTION_CELL_KEYS == 0 && position < positions) {
      AttentionSpan* spans = const_cast<AttentionSpan*>(p.segments.spans) + batch * p.segments.spans_batch;
      spans[position / ATTENTION_CELL_KEYS] = {smallest, largest};
    }
  }
}
