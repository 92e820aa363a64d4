// A row in registers: which lane holds which element, and how the elements get there and back.
//
// The row is cut into units of U elements, U the largest power of two that divides its length and fills at most 16 bytes, so
// every unit is whole. Unit s * kLanes + lane is the lane's unit number s. The assignment depends on the length of the row
// and the element type alone, hence the order of every sum does too; alignment and strides decide only how the same
// elements are moved: as units of U elements, or one by one.
#pragma once

#include "common/index.cuh"

/// Reads memory of which this kernel writes nothing (`kReadOnly`), or which it may write later.
template <bool kReadOnly = true>
DEVICE uint4 load_streaming(const uint4* from) {
  uint4 v;
  if constexpr (kReadOnly) {
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
  } else {
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from)
                 : "memory");
  }
  return v;
}

template <bool kReadOnly, class Word>
DEVICE Word load_word(const Word* from) {
  if constexpr (kReadOnly) return __ldg(from);
  return *from;
}

DEVICE void store_streaming(uint4* to, uint4 v) {
  asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

/// The piece of a row that one of `kLanes` lanes holds: `kVectors` times 16 bytes, as packed words.
/// `kReadOnly`: the kernel does not write the memory that it loads pieces from.
template <class T, int kLanes, int kVectors, bool kReadOnly = true>
struct RowPiece {
  static constexpr int kWords = 4 * kVectors;
  static constexpr int kElements = kVectors * T::kPerVector;
  static constexpr int kVectorCount = kVectors;
  static constexpr int kElementBytes = T::kBytes;

  uint32_t words[kWords];

  DEVICE float at(int i) const { return element<T>(words, i); }

  DEVICE void fill(uint32_t word) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = word;
  }

  /// Index in the row of the lane's element `i`.
  static DEVICE uint32_t index(int i, uint32_t lane, uint32_t unit_log2) {
    const uint32_t unit = (static_cast<uint32_t>(i) >> unit_log2) * kLanes + lane;
    return (unit << unit_log2) + (static_cast<uint32_t>(i) & ((1u << unit_log2) - 1u));
  }

  /// Whether no lane's element `i`, the first of a vector, lies below `length`. The loops over single elements and small units
  /// leave there: it saves the work, and the branch keeps the compiler from holding all elements in flight at once, for which
  /// there are not enough registers.
  static DEVICE bool ends_before(int i, uint32_t length) { return static_cast<uint32_t>(i) * kLanes >= length; }

  /// Loads what lies below `length`; the rest keeps its bits. `units`: whole units are aligned and contiguous.
  DEVICE void load(const void* row, uint64_t stride, uint32_t length, uint32_t lane, uint32_t unit_log2, bool units) {
    if (!units) return load_elements(row, stride, length, lane, unit_log2);
    if constexpr (T::kPerVector == 8) {
      if (unit_log2 == 3) return load_units<8>(row, length, lane);
    }
    if (unit_log2 == 2) return load_units<4>(row, length, lane);
    if (unit_log2 == 1) return load_units<2>(row, length, lane);
    load_units<1>(row, length, lane);
  }

  /// Stores what lies below `length` into a contiguous row.
  DEVICE void store(void* row, uint32_t length, uint32_t lane, uint32_t unit_log2, bool units) const {
    if (!units) return store_elements(row, length, lane, unit_log2);
    if constexpr (T::kPerVector == 8) {
      if (unit_log2 == 3) return store_units<8>(row, length, lane);
    }
    if (unit_log2 == 2) return store_units<4>(row, length, lane);
    if (unit_log2 == 1) return store_units<2>(row, length, lane);
    store_units<1>(row, length, lane);
  }

  /// Makes the compiler take `lane` for a new value. Otherwise it computes the addresses of all elements once, outside of the
  /// loop over rows or chunks, and spills them.
  static DEVICE uint32_t opaque(uint32_t lane) {
    asm volatile("" : "+r"(lane));
    return lane;
  }

  DEVICE void set_half(int i, uint32_t half) {
    words[i / 2] = i % 2 == 0 ? (words[i / 2] & 0xffff0000u) | half : (words[i / 2] & 0x0000ffffu) | (half << 16);
  }

  template <int kUnit>
  DEVICE void load_units(const void* row, uint32_t length, uint32_t lane) {
    lane = opaque(lane);
    constexpr int kBytes = kUnit * T::kBytes;
#pragma unroll
    for (int s = 0; s < kElements / kUnit; ++s) {
      if (kBytes < 16 && s * kUnit % T::kPerVector == 0 && ends_before(s * kUnit, length)) break;
      const uint32_t at = (s * kLanes + lane) * kUnit;
      if (at >= length) continue;
      const char* from = static_cast<const char*>(row) + uint64_t{at} * T::kBytes;
      if constexpr (kBytes == 16) {
        const uint4 v = load_streaming<kReadOnly>(reinterpret_cast<const uint4*>(from));
        words[4 * s] = v.x, words[4 * s + 1] = v.y, words[4 * s + 2] = v.z, words[4 * s + 3] = v.w;
      } else if constexpr (kBytes == 8) {
        const uint2 v = load_word<kReadOnly>(reinterpret_cast<const uint2*>(from));
        words[2 * s] = v.x, words[2 * s + 1] = v.y;
      } else if constexpr (kBytes == 4) {
        words[s] = load_word<kReadOnly>(reinterpret_cast<const unsigned int*>(from));
      } else {
        set_half(s, load_word<kReadOnly>(reinterpret_cast<const unsigned short*>(from)));
      }
    }
  }

  template <int kUnit>
  DEVICE void store_units(void* row, uint32_t length, uint32_t lane) const {
    lane = opaque(lane);
    constexpr int kBytes = kUnit * T::kBytes;
#pragma unroll
    for (int s = 0; s < kElements / kUnit; ++s) {
      if (kBytes < 16 && s * kUnit % T::kPerVector == 0 && ends_before(s * kUnit, length)) break;
      const uint32_t at = (s * kLanes + lane) * kUnit;
      if (at >= length) continue;
      char* to = static_cast<char*>(row) + uint64_t{at} * T::kBytes;
      if constexpr (kBytes == 16) {
        const uint4 v = {words[4 * s], words[4 * s + 1], words[4 * s + 2], words[4 * s + 3]};
        store_streaming(reinterpret_cast<uint4*>(to), v);
      } else if constexpr (kBytes == 8) {
        *reinterpret_cast<uint2*>(to) = {words[2 * s], words[2 * s + 1]};
      } else if constexpr (kBytes == 4) {
        *reinterpret_cast<uint32_t*>(to) = words[s];
      } else {
        *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(words[s / 2] >> (s % 2 * 16));
      }
    }
  }

  DEVICE void load_elements(const void* row, uint64_t stride, uint32_t length, uint32_t lane, uint32_t unit_log2) {
    lane = opaque(lane);
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (i % T::kPerVector == 0 && ends_before(i, length)) break;
      const uint32_t at = index(i, lane, unit_log2);
      if (at >= length) continue;
      const char* from = static_cast<const char*>(row) + at * stride * T::kBytes;
      if constexpr (T::kBytes == 4) {
        words[i] = load_word<kReadOnly>(reinterpret_cast<const unsigned int*>(from));
      } else {
        set_half(i, load_word<kReadOnly>(reinterpret_cast<const unsigned short*>(from)));
      }
    }
  }

  DEVICE void store_elements(void* row, uint32_t length, uint32_t lane, uint32_t unit_log2) const {
    lane = opaque(lane);
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (i % T::kPerVector == 0 && ends_before(i, length)) break;
      const uint32_t at = index(i, lane, unit_log2);
      if (at >= length) continue;
      char* to = static_cast<char*>(row) + uint64_t{at} * T::kBytes;
      if constexpr (T::kBytes == 4) {
        *reinterpret_cast<uint32_t*>(to) = words[i];
      } else {
        *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
      }
    }
  }

  /// Puts -inf in the place of what the mask hides, whatever bits are there.
  /// `units`: units of the mask are aligned and contiguous, and each fills a vector of the row.
  DEVICE void hide(const uint8_t* mask, uint64_t stride, uint32_t length, uint32_t lane, uint32_t unit_log2, bool units,
                   bool mask_hides) {
    lane = opaque(lane);
    if (units) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const uint32_t at = (v * kLanes + lane) * T::kPerVector;
        if (at >= length) continue;
        uint32_t bytes[T::kPerVector / 4];
        if constexpr (T::kPerVector == 8) {
          const uint2 both = __ldg(reinterpret_cast<const uint2*>(mask + at));
          bytes[0] = both.x, bytes[1] = both.y;
        } else {
          bytes[0] = __ldg(reinterpret_cast<const unsigned int*>(mask + at));
        }
#pragma unroll
        for (int j = 0; j < T::kPerVector; ++j) {
          if (((bytes[j / 4] >> (j % 4 * 8) & 0xffu) != 0) == mask_hides) hide_element(v * T::kPerVector + j);
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        if (i % T::kPerVector == 0 && ends_before(i, length)) break;
        const uint32_t at = index(i, lane, unit_log2);
        if (at < length && (__ldg(mask + at * stride) != 0) == mask_hides) hide_element(i);
      }
    }
  }

  DEVICE void hide_element(int i) {
    if constexpr (T::kPerWord == 1) {
      words[i] = T::kMinusInfinity;
    } else {
      set_half(i, T::kMinusInfinity & 0xffffu);
    }
  }
};

/// Loads the lane's piece of the elements `first` to `first + length` of the row of `operand` at `position`; the rest of the
/// piece keeps its bits.
template <class Piece, class Params>
DEVICE void load(Piece& piece, const Operand& operand, uint32_t units, const Params& p, uint64_t position, uint64_t first,
                 uint32_t length, uint32_t lane) {
  const uint64_t offset = position_offset(p.positions, operand.strides, position) + first * operand.stride;
  piece.load(static_cast<const char*>(operand.data) + offset * Piece::kElementBytes, operand.stride, length, lane, p.unit_log2,
             units != 0);
}
