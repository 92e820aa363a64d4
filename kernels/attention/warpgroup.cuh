// The two products of attention by warpgroups of 128 threads, which multiply 64 rows at once.
//
// A tile lies in blocks of 64 columns, 128 bytes of every row, in which chunk c of a row has place c ^ (row % 8): as copies by tensor
// maps leave them and products read them. Tiles begin at multiples of 1024 bytes. Sums lie as in product.cuh, warp by warp, and
// weights enter the second product from the registers in which they left the first.
#pragma once

#include "attention/product.cuh"
#include "common/sm90a.cuh"

/// How a tile of kRows rows of kBytes bytes lies in shared memory; see Tile.
template <int kRows, int kBytes>
struct BlockTile {
  static constexpr int kChunks = kBytes / 16;
  static constexpr int kGroup = 8;
  static constexpr int kSize = kRows * kBytes;
  static constexpr int kRowBytes = 128;
  static constexpr int kGroupBytes = kRows * kRowBytes;
  static constexpr int kBlocks = kBytes / kRowBytes;
  static constexpr int kOddTurn = 1;
  static_assert(kBytes % kRowBytes == 0 && kRows % 8 == 0);

  static DEVICE uint32_t at(uint32_t row, uint32_t chunk) {
    return chunk / kGroup * kGroupBytes + row * kRowBytes + (chunk % kGroup ^ row % 8) * 16;
  }
};

/// The tiles of a kernel. kWarpgroups of them multiply, and one more copies.
template <class Type, int kHeadSize, int kWarpgroupCount, int kKeyCount, int kStageCount>
struct WarpgroupShape {
  using T = Type;
  static constexpr int kHead = kHeadSize;  // columns of q, k and v, padded with zeros
  static constexpr int kWarpgroups = kWarpgroupCount;
  static constexpr int kKeys = kKeyCount;     // rows of a key tile
  static constexpr int kStages = kStageCount;  // pairs of a key tile and a value tile
  static constexpr int kRowTiles = 1;
  static constexpr int kWarpQueries = 16;
  static constexpr int kQueries = 64 * kWarpgroups;
  static constexpr int kThreads = 128 * kWarpgroups;  // that multiply
  static constexpr int kDepth = 16;
  static constexpr int kHeadBytes = kHead * T::kBytes;
  using QueryTile = BlockTile<kQueries, kHeadBytes>;
  using KeyTile = BlockTile<kKeys, kHeadBytes>;
  using ValueTile = KeyTile;
  static_assert(T::kBytes == 2);
};

/// What a product needs to know of a tile: where it begins, and how far apart groups of eight rows are (1024 bytes), and blocks of 64
/// columns of a tile whose rows are summed over; that chunks change places within 128 bytes.
template <class Tile>
DEVICE uint64_t descriptor(uint32_t address) {
  constexpr uint64_t kLayout = uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32 | uint64_t{Tile::kGroupBytes >> 4} << 16;
  return kLayout | (address & 0x3ffff) >> 4;
}
/// Where columns from 16 `step` on begin, in units of a descriptor.
template <class Tile>
DEVICE uint64_t column_step(int step) {
  return (step / 4 * Tile::kGroupBytes + step % 4 * 32) >> 4;
}
/// Where rows from 16 `step` on begin.
DEVICE uint64_t row_step(int step) { return step * (16 * 128) >> 4; }

#define SUMS_4(d, j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define SUMS_32(d, j)                                                                                                        \
  SUMS_4(d, j), SUMS_4(d, j + 1), SUMS_4(d, j + 2), SUMS_4(d, j + 3), SUMS_4(d, j + 4), SUMS_4(d, j + 5), SUMS_4(d, j + 6), \
      SUMS_4(d, j + 7)
#define NAMES_32                                                                                                         \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, " \
  "%25, %26, %27, %28, %29, %30, %31"
#define NAMES_64                                                                                                          \
  NAMES_32                                                                                                                \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, " \
  "%55, %56, %57, %58, %59, %60, %61, %62, %63"

/// sums (+)= a b^T for 64 rows of a and 8 kBlocks of b, 16 columns of both, whose descriptors these are; `adds` says whether what the
/// sums hold is kept. To be followed by products_commit.
template <class T, int kBlocks>
DEVICE void multiply_tiles(float (&sums)[kBlocks][4], uint64_t a, uint64_t b, int adds);
/// sums += a b for 64 rows of a in registers and 16 rows of b.
template <class T, int kBlocks>
DEVICE void multiply_registers(float (&sums)[kBlocks][4], const uint32_t (&a)[4], uint64_t b);

#define PRODUCTS(T, type)                                                                                                      \
  template <>                                                                                                                  \
  DEVICE void multiply_tiles<T, 16>(float (&sums)[16][4], uint64_t a, uint64_t b, int adds) {                                  \
    asm volatile("{\n\t.reg .pred adds;\n\tsetp.ne.b32 adds, %66, 0;\n\twgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type \
                 " {" NAMES_64 "}, %64, %65, adds, 1, 1, 0, 0;\n\t}"                                                           \
                 : SUMS_32(sums, 0), SUMS_32(sums, 8)                                                                          \
                 : "l"(a), "l"(b), "r"(adds));                                                                                 \
  }                                                                                                                            \
  template <>                                                                                                                  \
  DEVICE void multiply_tiles<T, 8>(float (&sums)[8][4], uint64_t a, uint64_t b, int adds) {                                    \
    asm volatile("{\n\t.reg .pred adds;\n\tsetp.ne.b32 adds, %34, 0;\n\twgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type  \
                 " {" NAMES_32 "}, %32, %33, adds, 1, 1, 0, 0;\n\t}"                                                           \
                 : SUMS_32(sums, 0)                                                                                            \
                 : "l"(a), "l"(b), "r"(adds));                                                                                 \
  }                                                                                                                            \
  template <>                                                                                                                  \
  DEVICE void multiply_registers<T, 16>(float (&sums)[16][4], const uint32_t (&a)[4], uint64_t b) {                            \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" NAMES_64                                    \
                 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"                                                                   \
                 : SUMS_32(sums, 0), SUMS_32(sums, 8)                                                                          \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                        \
  }                                                                                                                            \
  template <>                                                                                                                  \
  DEVICE void multiply_registers<T, 8>(float (&sums)[8][4], const uint32_t (&a)[4], uint64_t b) {                              \
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" NAMES_32                                     \
                 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"                                                                   \
                 : SUMS_32(sums, 0)                                                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                        \
  }
PRODUCTS(F16, "f16")
PRODUCTS(BF16, "bf16")
#undef PRODUCTS
#undef NAMES_64
#undef NAMES_32
#undef SUMS_32
#undef SUMS_4

/// The uses of all registers of sums on their side of this place; see keep().
template <int kBlocks>
DEVICE void keep_all(float (&sums)[kBlocks][4]) {
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) keep(sums[j][e]);
  }
}
template <class S>
DEVICE void keep_all(Weights<S>& weights) {
#pragma unroll
  for (int step = 0; step < Weights<S>::kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) keep(weights.words[0][step][i]);
  }
}

/// Starts scores = q k^T of a warpgroup, whose queries begin at `q_rows`. All its threads must call, between products_begin and
/// products_commit.
template <class S>
DEVICE void start_scores(float (&scores)[1][S::kKeys / 8][4], uint32_t q_rows, uint32_t k_tile) {
  const uint64_t q = descriptor<typename S::QueryTile>(q_rows), k = descriptor<typename S::KeyTile>(k_tile);
#pragma unroll
  for (int step = 0; step < S::kHead / 16; ++step) {
    multiply_tiles<typename S::T>(scores[0], q + column_step<typename S::QueryTile>(step), k + column_step<typename S::KeyTile>(step), step > 0);
  }
}

/// Starts output += weights v, likewise.
template <class S>
DEVICE void start_output(float (&output)[1][S::kHead / 8][4], const Weights<S>& weights, uint32_t v_tile) {
  const uint64_t v = descriptor<typename S::ValueTile>(v_tile);
#pragma unroll
  for (int step = 0; step < Weights<S>::kSteps; ++step) {
    multiply_registers<typename S::T>(output[0], weights.words[0][step], v + row_step(step));
  }
}
