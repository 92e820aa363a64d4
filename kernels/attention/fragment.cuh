// Tiles in shared memory, and the fragments of them that tensor cores multiply.
//
// A tile has rows of kHead elements, one behind the other, cut into chunks of 16 bytes. Chunk c of a row lies at place c ^ turn(row):
// eight rows show eight different groups of four banks at the same chunk, and so do eight chunks that follow each other. Neither
// copies nor ldmatrix meet a bank twice.
#pragma once

#include "common/dtype.cuh"

/// How a tile of kRows rows of kBytes bytes lies in shared memory. `kWords` says that lanes read it word by word, from four rows two
/// apart at once, and not by ldmatrix.
template <int kRows, int kBytes, bool kWords = false>
struct Tile {
  static constexpr int kChunks = kBytes / 16;
  /// Chunks that change places with each other. Rows of an odd number of 64 bytes begin at two places of the banks in turn.
  static constexpr int kGroup = kChunks % 8 == 0 ? 8 : 4;
  static constexpr int kSize = kRows * kBytes;
  /// From a row to the next, and from a group of chunks to the next.
  static constexpr int kRowBytes = kBytes;
  static constexpr int kGroupBytes = kGroup * 16;
  /// How the place of a chunk changes from an even row to the odd one below.
  static constexpr int kOddTurn = kWords ? 0 : 1;
  static_assert(kChunks % kGroup == 0 && (!kWords || kGroup == 8));

  static DEVICE uint32_t turn(uint32_t row) {
    if constexpr (kWords) return row & 6u;
    return kGroup == 8 ? row & 7u : (row >> 1) & 3u;
  }
  /// Bytes from the beginning of the tile to a chunk.
  static DEVICE uint32_t at(uint32_t row, uint32_t chunk) { return row * kBytes + (chunk ^ turn(row)) * 16; }
};

/// Where a lane reads a tile: its own row, and its own chunk of the first two; steps along the tile are constants.
template <class Tile>
struct LaneAddress {
  uint32_t first;

  DEVICE LaneAddress(uint32_t tile, uint32_t row, uint32_t chunk) : first(tile + Tile::at(row, chunk)) {}

  /// Address `rows` further down (a multiple of 8) and `chunks` further right (an even number). From an even row to the odd one below
  /// is one row and an exclusive or of the chunk with kOddTurn.
  DEVICE uint32_t step(uint32_t rows, uint32_t chunks) const {
    // Groups start at multiples of their size, so an exclusive or on the address is one on the chunk.
    return (first ^ (chunks % Tile::kGroup * 16)) + chunks / Tile::kGroup * Tile::kGroupBytes + rows * Tile::kRowBytes;
  }
};

/// Four 8 x 8 matrices of 16-bit elements. Lanes 8i to 8i + 7 give the addresses of the rows of matrix i; word i of lane l gets
/// elements 2 (l % 4) and the next of row l / 4 of matrix i. All 32 lanes must call.
DEVICE void load_matrices(uint32_t (&words)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}

/// As load_matrices, with rows and columns of each matrix exchanged.
DEVICE void load_transposed(uint32_t (&words)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}

DEVICE uint32_t load_word(uint32_t address) {
  uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}

/// sum += a * b for a 16 x 16, b 16 x 8. Lane l holds rows l / 4 and l / 4 + 8 of a and of the sum, columns 2 (l % 4) and the
/// next; column l / 4 of b. All 32 lanes must call.
template <class T>
DEVICE void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
DEVICE void multiply_add<F16>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
DEVICE void multiply_add<BF16>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// As above for a 16 x 8, b 8 x 8 of words that hold tf32. Lane l holds columns l % 4 and l % 4 + 4 of a.
template <>
DEVICE void multiply_add<F32>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
