// Rows that run across memory: tensors [outer, length, inner] with inner > 1, reduced along `length`.
//
// A block is blockDim.x columns (or groups of columns) wide and blockDim.y threads tall. Thread (x, y) owns the elements y,
// y + blockDim.y, y + 2 * blockDim.y ... of kColumns neighbouring columns: 16 bytes of them where alignment allows, else one.
// Which thread of a column owns which of its elements, and the order of every sum, depend on blockDim.y and so on the length
// alone. Chunks of kDepth elements per thread fit in registers; a longer column is read again for every pass over it.
#pragma once

#include "common/index.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"

/// Elements of a column that a thread holds at a time.
constexpr int kDepth = 8;

template <class T, int kColumns>
struct ColumnPiece {
  static_assert(kColumns == 1 || kColumns == T::kPerVector, "one column, or as many as fill 16 bytes");
  static constexpr int kWordsPerElement = kColumns == 1 ? 1 : 4;

  uint32_t words[kDepth][kWordsPerElement];

  DEVICE float at(int k, int column) const { return element<T>(words[k], column); }

  /// Sets all columns of element `k`; value(column) gives them.
  template <class F>
  DEVICE void set(int k, F value) {
    if constexpr (kColumns == 1) {
      words[k][0] = T::pack(value(0), 0.0f);
    } else {
#pragma unroll
      for (int c = 0; c < kColumns; c += T::kPerWord) words[k][c / T::kPerWord] = T::pack(value(c), value(c + T::kPerWord - 1));
    }
  }

  DEVICE void hide(int k, int column) {
    if constexpr (T::kPerWord == 1) {
      words[k][column] = T::kMinusInfinity;
    } else {
      uint32_t& word = words[k][column / 2];
      word = column % 2 == 0 ? (word & 0xffff0000u) | (T::kMinusInfinity & 0xffffu) : (word & 0xffffu) | (T::kMinusInfinity << 16);
    }
  }

  /// Loads the thread's elements of a chunk; those outside the column become `filler`.
  /// `column` is the first element of the (first) column, null for a thread without one.
  DEVICE void load(const char* column, uint64_t stride, uint64_t chunk, uint64_t length, uint32_t filler) {
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
#pragma unroll
      for (int w = 0; w < kWordsPerElement; ++w) words[k][w] = filler;
      const uint64_t n = index(chunk, k);
      if (column == nullptr || n >= length) continue;
      const char* from = column + n * stride * T::kBytes;
      if constexpr (kColumns > 1) {
        const uint4 v = __ldg(reinterpret_cast<const uint4*>(from));
        words[k][0] = v.x, words[k][1] = v.y, words[k][2] = v.z, words[k][3] = v.w;
      } else if constexpr (T::kBytes == 4) {
        words[k][0] = __ldg(reinterpret_cast<const unsigned int*>(from));
      } else {
        words[k][0] = (filler & 0xffff0000u) | __ldg(reinterpret_cast<const unsigned short*>(from));
      }
    }
  }

  /// Stores the thread's elements of a chunk, `stride` apart.
  DEVICE void store(char* column, uint64_t stride, uint64_t chunk, uint64_t length) const {
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      const uint64_t n = index(chunk, k);
      if (column == nullptr || n >= length) continue;
      char* to = column + n * stride * T::kBytes;
      if constexpr (kColumns > 1) {
        store_streaming(reinterpret_cast<uint4*>(to), {words[k][0], words[k][1], words[k][2], words[k][3]});
      } else if constexpr (T::kBytes == 4) {
        *reinterpret_cast<uint32_t*>(to) = words[k][0];
      } else {
        *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(words[k][0]);
      }
    }
  }

  /// Index in the column of the thread's element `k` of a chunk.
  static DEVICE uint64_t index(uint64_t chunk, int k) { return (chunk * kDepth + k) * blockDim.y + threadIdx.y; }
};

/// Number of chunks of a column.
DEVICE uint64_t chunks_of(uint64_t length) {
  const uint64_t chunk = uint64_t{kDepth} * blockDim.y;
  return (length + chunk - 1) / chunk;
}

/// First element of the columns from `position` on in the output, which is contiguous [outer, length, inner].
DEVICE char* output_column(void* output, uint64_t position, uint64_t length, uint64_t inner, int bytes) {
  const uint64_t outer = position / inner;
  return static_cast<char*>(output) + (outer * length * inner + (position - outer * inner)) * bytes;
}

/// Dynamic shared memory, since blocks come in several forms: the slots of the collectives, one behind the other.
extern __shared__ uint32_t column_slots[];

/// Shared memory of one collective over columns: a value of each thread and column, and the result of each column.
///
/// The parts of a value lie in planes of their own: neighbouring threads then meet different banks, and a pair needs no two
/// neighbouring registers, of which the wide kernels have none to spare.
template <class Value, int kColumns>
class ColumnSlots {
 public:
  /// Slots from this index of `column_slots` on.
  explicit DEVICE ColumnSlots(uint32_t begin) : begin(begin) {}

  /// Where the next collective's slots may begin.
  DEVICE uint32_t end() const { return begin + kParts * plane(); }

  // One row more than there are threads keeps neighbouring columns in different banks when a warp spans several columns.
  DEVICE uint32_t of_thread(int column, uint32_t y) const { return (column * (blockDim.y + 1) + y) * blockDim.x + threadIdx.x; }
  DEVICE uint32_t of_column(int column) const { return (kColumns * (blockDim.y + 1) + column) * blockDim.x + threadIdx.x; }

  DEVICE void put(uint32_t slot, const Value& value) const {
    uint32_t words[kParts];
    memcpy(words, &value, sizeof(Value));
#pragma unroll
    for (int i = 0; i < kParts; ++i) column_slots[begin + i * plane() + slot] = words[i];
  }

  DEVICE Value get(uint32_t slot) const {
    uint32_t words[kParts];
#pragma unroll
    for (int i = 0; i < kParts; ++i) words[i] = column_slots[begin + i * plane() + slot];
    Value value;
    memcpy(&value, words, sizeof(Value));
    return value;
  }

 private:
  static constexpr int kParts = sizeof(Value) / sizeof(uint32_t);
  static DEVICE uint32_t plane() { return kColumns * (blockDim.y + 2) * blockDim.x; }

  const uint32_t begin;
};

/// Folds the values of all threads of each column, in the order of threadIdx.y, by a fold with `add(Value)` and `result()`.
/// All threads of the block must call; every thread gets the results of its columns. Contains two barriers (none if
/// blockDim.y is 1); the same slots may be used again by the next call.
template <class Fold, class Value, int kColumns>
DEVICE void column_reduce(Value (&values)[kColumns], const ColumnSlots<Value, kColumns>& slots) {
  if (blockDim.y == 1) return;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) slots.put(slots.of_thread(c, threadIdx.y), values[c]);
  __syncthreads();
  for (uint32_t c = threadIdx.y; c < kColumns; c += blockDim.y) {
    Fold fold;
    for (uint32_t y = 0; y < blockDim.y; ++y) fold.add(slots.get(slots.of_thread(c, y)));
    slots.put(slots.of_column(c), fold.result());
  }
  __syncthreads();
#pragma unroll
  for (int c = 0; c < kColumns; ++c) values[c] = slots.get(slots.of_column(c));
}

struct FoldMax {
  float max = -INFINITY;
  DEVICE void add(float value) { max = fmaxf(max, value); }
  DEVICE float result() const { return max; }
};

template <class Value>
struct FoldSum {
  Value sum = {};
  DEVICE void add(Value value) { sum = Sum()(sum, value); }
  DEVICE Value result() const { return sum; }
};
