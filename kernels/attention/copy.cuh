// Rows of global memory into tiles of shared memory.
#pragma once

#include "attention/fragment.cuh"

/// Dynamic shared memory as a 32-bit address; a multiple of 128.
DEVICE uint32_t shared_base() {
  extern __shared__ __align__(128) unsigned char shared[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

/// Rows in global memory.
struct Rows {
  const char* first;
  /// Bytes from one row to the next.
  uint64_t stride;
  /// Bytes of a row that are there; what a tile has beyond is 0.
  uint32_t bytes;
  /// Whether 16 bytes from any row on, in steps of as many, are aligned.
  bool vectors;
};

/// 16 bytes of which the first `bytes` are copied and the others are 0; without any, nothing is read.
DEVICE void copy_async(uint32_t to, const char* from, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for the calling thread's copies, but for those of the last kPending groups. Others see them after a barrier.
template <int kPending>
DEVICE void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

template <class T>
DEVICE uint32_t load_element(const char* from) {
  if constexpr (T::kBytes == 4) {
    return __ldg(reinterpret_cast<const uint32_t*>(from));
  } else {
    return __ldg(reinterpret_cast<const uint16_t*>(from));
  }
}

/// 16 bytes of elements that may lie at any address, zeros from `bytes` on.
template <class T>
DEVICE uint4 gather(const char* from, uint32_t bytes) {
  uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    words[w] = 0;
#pragma unroll
    for (int half = 0; half < T::kPerWord; ++half) {
      const uint32_t byte = 4 * w + half * T::kBytes;
      if (byte < bytes) words[w] |= load_element<T>(from + byte) << (16 * half);
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

DEVICE void store_shared(uint32_t to, uint4 words) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
}
DEVICE uint4 load_shared(uint32_t from) {
  uint4 words;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "r"(from)
               : "memory");
  return words;
}

/// Calls `visit(row, chunk)` for the chunks of a tile that belong to the calling thread, `kAtOnce` at a time.
template <int kRows, int kChunks, int kThreads, int kAtOnce, class Visit>
DEVICE void own_chunks(Visit visit) {
  constexpr int kAll = kRows * kChunks;
#pragma unroll kAtOnce
  for (int i = 0; i < (kAll + kThreads - 1) / kThreads; ++i) {
    const uint32_t chunk = threadIdx.x + i * kThreads;
    if (kAll % kThreads == 0 || chunk < kAll) visit(chunk / kChunks, chunk % kChunks);
  }
}

/// Starts to fill a tile with rows `first` to `first + kRows - 1`; those from `end` on are 0. Complete for the calling thread after
/// copies_wait, for others after a barrier behind that.
template <class T, class Tile, int kRows, int kThreads>
DEVICE void load_tile(uint32_t tile, const Rows& rows, uint32_t first, uint32_t end) {
  const auto load = [&](uint32_t row, uint32_t chunk, auto copy) {
    const uint32_t begin = chunk * 16;
    const bool there = first + row < end && begin < rows.bytes;
    const char* from = there ? rows.first + uint64_t{first + row} * rows.stride + begin : rows.first;
    copy(tile + Tile::at(row, chunk), from, there ? min(rows.bytes - begin, 16u) : 0u);
  };
  if (rows.vectors) {
    own_chunks<kRows, Tile::kChunks, kThreads, 4>([&](uint32_t row, uint32_t chunk) { load(row, chunk, copy_async); });
  } else {
    own_chunks<kRows, Tile::kChunks, kThreads, 1>([&](uint32_t row, uint32_t chunk) {
      load(row, chunk, [](uint32_t to, const char* from, uint32_t bytes) { store_shared(to, gather<T>(from, bytes)); });
    });
  }
}

/// 16-bit or 32-bit elements of a word that are infinite or NaN, as the highest bit of each.
template <class T>
DEVICE uint32_t not_finite(uint32_t word);
template <>
DEVICE uint32_t not_finite<F32>(uint32_t word) { return ((word & 0x7f800000u) + 0x00800000u) & 0x80000000u; }
template <>
DEVICE uint32_t not_finite<F16>(uint32_t word) { return ((word & 0x7c007c00u) + 0x04000400u) & 0x80008000u; }
template <>
DEVICE uint32_t not_finite<BF16>(uint32_t word) { return ((word & 0x7f807f80u) + 0x00800080u) & 0x80008000u; }

/// Whether an element that the calling thread loaded into a tile is infinite or NaN.
template <class T, class Tile, int kRows, int kThreads>
DEVICE bool own_not_finite(uint32_t tile) {
  uint32_t found = 0;
  own_chunks<kRows, Tile::kChunks, kThreads, 2>([&](uint32_t row, uint32_t chunk) {
    const uint4 words = load_shared(tile + Tile::at(row, chunk));
    found |= not_finite<T>(words.x) | not_finite<T>(words.y) | not_finite<T>(words.z) | not_finite<T>(words.w);
  });
  return found != 0;
}
