// Sums of a warp to rows of global memory, by way of a tile in shared memory.
#pragma once

#include "attention/copy.cuh"

/// Two neighbouring elements of a row of sums, those of the calling lane in block `j` of eight columns, into a tile.
template <class T, class Tile>
DEVICE void store_pair(uint32_t tile, uint32_t row, uint32_t j, float low, float high) {
  const uint32_t column_bytes = (8 * j + threadIdx.x % 4 * 2) * T::kBytes;
  const uint32_t to = tile + Tile::at(row, column_bytes / 16) + column_bytes % 16;
  if constexpr (T::kBytes == 2) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(T::pack(low, high)) : "memory");
  } else {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(low), "f"(high) : "memory");
  }
}

/// The calling warp's kRows rows of a tile to memory. Row 0 of the tile is row `first` there, and rows from `end` on are left out.
template <class T, class Tile, int kRows>
DEVICE void store_rows(uint32_t tile, const Rows& rows, int32_t first, int32_t end) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 4
  for (uint32_t i = lane; i < kRows * Tile::kChunks; i += 32) {
    const uint32_t row = warp * kRows + i / Tile::kChunks, begin = i % Tile::kChunks * 16;
    if (first + static_cast<int32_t>(row) >= end || begin >= rows.bytes) continue;
    const uint4 words = load_shared(tile + Tile::at(row, begin / 16));
    char* to = const_cast<char*>(rows.first) + (uint64_t{static_cast<uint32_t>(first)} + row) * rows.stride + begin;
    if (rows.vectors && begin + 16 <= rows.bytes) {
      *reinterpret_cast<uint4*>(to) = words;
      continue;
    }
    const uint32_t all[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int element = 0; element < T::kPerVector; ++element) {
      if (begin + element * T::kBytes >= rows.bytes) continue;
      const uint32_t word = all[element / T::kPerWord] >> (element % T::kPerWord * 16);
      if constexpr (T::kBytes == 2) {
        reinterpret_cast<uint16_t*>(to)[element] = static_cast<uint16_t>(word);
      } else {
        reinterpret_cast<uint32_t*>(to)[element] = word;
      }
    }
  }
}

/// `factor` times the sums of a warp to its 16 * kRowTiles rows of the block's, as store_rows does. Of the tile the warp writes its own
/// rows alone, so that no barrier is needed but one of the warp. All 32 lanes must call, and a barrier must stand between what they read of
/// those rows before and this.
template <class T, class Tile, int kRowTiles, int kBlocks>
DEVICE void store_sums(const float (&sums)[kRowTiles][kBlocks][4], float factor, uint32_t tile, const Rows& rows, int32_t first, int32_t end) {
#pragma unroll
  for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t row = threadIdx.x / 32 * 16 * kRowTiles + 16 * t + 8 * half + threadIdx.x % 32 / 4;
#pragma unroll
      for (int j = 0; j < kBlocks; ++j) {
        store_pair<T, Tile>(tile, row, j, __fmul_rn(sums[t][j][2 * half], factor), __fmul_rn(sums[t][j][2 * half + 1], factor));
      }
    }
  }
  __syncwarp();
  store_rows<T, Tile, 16 * kRowTiles>(tile, rows, first, end);
}
