// A ring of buffers in shared memory that tensor maps fill: one thread starts the copies, warpgroups multiply what has arrived.
//
// Each buffer has a barrier that is full when its bytes are there, and one that is empty when every warpgroup is done with it.
#pragma once

#include "attention/sequence.cuh"
#include "common/sm90a.cuh"

/// A place in the ring, and how often it was passed.
template <int kStages>
struct Turn {
  uint32_t stage = 0, parity = 0;

  DEVICE void advance() {
    stage = stage + 1 == kStages ? 0 : stage + 1;
    if (stage == 0) parity ^= 1;
  }
};

/// Starts to copy the rows of a head from `row` on, counted over the sequences of a batch entry, into a tile in blocks of 64 columns (see
/// BlockTile). `full` has to expect Tile::kSize bytes; rows behind the last one of the matrix are zeros. One thread must call.
template <class Tile>
DEVICE void copy_tile(uint32_t to, const AttentionMap& map, const AttentionMatrix& matrix, const Sequence& sequence, uint32_t head, int32_t row, uint32_t full) {
  // Dims that repeat have one entry, and packed sequences are one batch entry, whose stride is 0.
  const int32_t of_head = matrix.head == 0 ? 0 : head, of_batch = matrix.batch == 0 ? 0 : sequence.batch;
#pragma unroll
  for (int block = 0; block < Tile::kBlocks; ++block) copy_box(to + block * Tile::kGroupBytes, &map, 64 * block, row, of_head, of_batch, full);
}

/// One thread of each warpgroup that multiplies arrives: it reads a buffer no more.
DEVICE void warpgroup_arrive(uint32_t empty) {
  if (threadIdx.x % 128 == 0) barrier_arrive(empty);
}
