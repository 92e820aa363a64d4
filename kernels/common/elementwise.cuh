// Operations on single elements: which thread holds which elements, and how they are loaded.
//
// The result is contiguous, and kCount neighbouring elements of it are a thread's unit. In the operands a unit may be spread over
// rows of `length` elements (the longest runs that have one stride in every operand). The assignment does not depend on strides
// or alignment; they decide only whether a unit is moved whole or element by element.
#pragma once

#include "common/exact.cuh"
#include "common/index.cuh"
#include "common/row.cuh"

/// A unit: its first element's row and place in the row, and how many elements there are (fewer than kCount at the very end).
struct UnitPlace {
  uint64_t first, position, within;
  uint32_t count;

  DEVICE UnitPlace(const ElementRows& rows, uint64_t unit, uint32_t unit_size) : first(unit * unit_size), position(0), within(first) {
    if (rows.positions.count > 1) {
      position = (first | rows.length) >> 32 == 0 ? static_cast<uint32_t>(first) / static_cast<uint32_t>(rows.length)
                                                  : first / rows.length;
      within = first - position * rows.length;
    }
    const uint64_t rest = rows.positions.count * rows.length - first;
    count = static_cast<uint32_t>(rest < unit_size ? rest : unit_size);
  }
};

/// Loads a unit of an operand as f32. `whole`: it is aligned and contiguous in memory, and complete. What is not there is 0.
template <class T, int kCount>
DEVICE void load_unit(float (&values)[kCount], const Operand& operand, const ElementRows& rows, const UnitPlace& place, bool whole) {
  uint64_t position = place.position, within = place.within;
  uint64_t offset = position_offset(rows.positions, operand.strides, position);
  const char* data = static_cast<const char*>(operand.data);
  if (whole) {
    uint32_t words[kCount / T::kPerWord];
    const char* from = data + (offset + within) * T::kBytes;
    if constexpr (kCount * T::kBytes == 16) {
      const uint4 v = load_streaming(reinterpret_cast<const uint4*>(from));
      words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    } else {
      static_assert(kCount * T::kBytes == 8, "units are 8 or 16 bytes");
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
      words[0] = v.x, words[1] = v.y;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = element<T>(words, i);
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    values[i] = 0.0f;
    if (i >= place.count) continue;
    const uint64_t at = offset + within * operand.stride;
    if constexpr (T::kBytes == 4) {
      values[i] = __ldg(reinterpret_cast<const float*>(data) + at);
    } else {
      values[i] = T::low(__ldg(reinterpret_cast<const unsigned short*>(data) + at));
    }
    if (++within < rows.length || i + 1 >= place.count) continue;
    within = 0;
    offset = position_offset(rows.positions, operand.strides, ++position);
  }
}

/// Stores a unit of the contiguous result.
template <class T, int kCount>
DEVICE void store_unit(void* output, const UnitPlace& place, const float (&values)[kCount], bool whole) {
  char* to = static_cast<char*>(output) + place.first * T::kBytes;
  uint32_t words[kCount / T::kPerWord];
#pragma unroll
  for (int i = 0; i < kCount; i += T::kPerWord) words[i / T::kPerWord] = T::pack(values[i], values[i + T::kPerWord - 1]);
  if (whole) {
    if constexpr (kCount * T::kBytes == 16) {
      store_streaming(reinterpret_cast<uint4*>(to), {words[0], words[1], words[2], words[3]});
    } else {
      static_assert(kCount * T::kBytes == 8, "units are 8 or 16 bytes");
      *reinterpret_cast<uint2*>(to) = {words[0], words[1]};
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i >= place.count) break;
    if constexpr (T::kBytes == 4) {
      reinterpret_cast<uint32_t*>(to)[i] = words[i];
    } else {
      reinterpret_cast<uint16_t*>(to)[i] = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
    }
  }
}
