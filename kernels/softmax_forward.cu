// softmax, log-softmax, logsumexp (and its gradient) along the last dim, for rows that fit in the registers of one block.
//
//   y[i] = exp((x[i] - max) / tau) / sum        log y[i] = (x[i] - max) / tau - ln(sum)        lse = max / tau + ln(sum)
//
// Each logit is read once and each result written once; nothing else touches global memory. A row is shared by kLanes
// lanes, which hold it as packed words (common/row.cuh says which lane holds what): 8 or 32 lanes of a warp, or a block.
// The maximum comes first, then the weights relative to it, so each row costs two reductions and its bits do not depend
// on how rows are dealt to blocks. f32 rows keep their weights in the place of the logits; 16-bit rows compute them twice,
// which costs less than the registers.
//
// Softmin flips the signs as the logits arrive, and a mask puts -inf there; from then on both are like any other row.
#include "common/entry.cuh"
#include "common/index.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"


/// Reads the lane's piece of the row at `position`; what lies outside the row or the positions is hidden.
template <class T, int kLanes, int kVectors>
DEVICE void load_logits(RowPiece<T, kLanes, kVectors>& x, const SoftmaxForwardParams& p, uint64_t position, uint32_t lane) {
  x.fill(T::kMinusInfinity ^ p.sign_flip);
  if (position >= p.positions.count) return;
  const uint32_t length = static_cast<uint32_t>(p.length);
  load(x, p.input, p.input_units, p, position, length, lane);
#pragma unroll
  for (int i = 0; i < x.kWords; ++i) x.words[i] ^= p.sign_flip;
  if (p.mask.data == nullptr) return;
  const uint64_t mask_offset = position_offset(p.positions, p.mask.strides, position);
  x.hide(static_cast<const uint8_t*>(p.mask.data) + mask_offset, p.mask.stride, length, lane, p.unit_log2,
         p.mask_units != 0, p.mask_hides != 0);
}

/// Puts the results of one row in the place of its logits (of its weights, where `kept` says that they are there already).
template <class T, int kLanes, int kVectors>
DEVICE void finish_row(RowPiece<T, kLanes, kVectors>& x, const SoftmaxForwardParams& p, const Scores<T>& scores,
                       const SoftmaxState& state, uint64_t position) {
  using Piece = RowPiece<T, kLanes, kVectors>;
  const auto replace = [&](auto result) {
#pragma unroll
    for (int i = 0; i < Piece::kElements; i += T::kPerWord) {
      if (i > 0 && i % T::kPerVector == 0 && Piece::ends_before(i, static_cast<uint32_t>(p.length))) break;
      x.words[i / T::kPerWord] = T::pack(result(x.at(i)), result(x.at(i + T::kPerWord - 1)));
    }
  };
  if (p.kind == SOFTMAX_LOG_PROBABILITIES) {
    const float log_sum = state.log_sum();
    replace([&](float logit) { return scores.log_probability(logit, log_sum); });
    return;
  }
  const Pair inverse = state.inverse();
  if (p.kind == SOFTMAX_PROBABILITIES) {
    replace([&](float kept) { return T::kPerWord == 1 ? scaled<T>(kept, inverse) : scaled<T>(scores.weight(kept), inverse); });
    return;
  }
  const uint64_t offset = position_offset(p.positions, p.upstream.strides, position);
  const float upstream = __ldg(static_cast<const float*>(p.upstream.data) + offset) * p.upstream_scale;
  const Pair factor = {inverse.high * upstream, inverse.low * upstream};
  replace([&](float logit) {
    // Whatever the upstream gradient is, a hidden logit gets 0; only a NaN row stays NaN.
    if (logit == -INFINITY) return 0.0f * inverse.high;
    return scaled<T>(scores.weight(logit), factor) * p.upstream_scale_rest;
  });
}

/// Blocks that a multiprocessor must be able to hold: 64 registers a thread for rows of a block, 80 for those of a warp.
template <int kLanes>
constexpr int kBlocks = kLanes < 128 ? 6 : 1024 / kLanes;

template <class T, int kLanes, int kVectors, int kRows>
DEVICE void softmax_forward(const SoftmaxForwardParams& p) {
  using Piece = RowPiece<T, kLanes, kVectors>;
  constexpr int kGroups = kLanes < kThreads<kLanes> ? kThreads<kLanes> / kLanes : 1;
  __shared__ MergeSlots<float, kLanes> for_max;
  __shared__ MergeSlots<WeightSum, kLanes> for_sum;
  const uint32_t lane = threadIdx.x % kLanes;
  const uint32_t length = static_cast<uint32_t>(p.length);
  const bool keep_weights = T::kPerWord == 1 && p.kind == SOFTMAX_PROBABILITIES;

  // All threads of a block take part in every round, those without a row with hidden logits: barriers and shuffles need them.
  for (uint64_t first = uint64_t{blockIdx.x} * kGroups * kRows; first < p.positions.count;
       first += uint64_t{gridDim.x} * kGroups * kRows) {
    const uint64_t position = first + threadIdx.x / kLanes * kRows;
    Piece x[kRows];
    float max[kRows];
    WeightSum sum[kRows];
#pragma unroll
    for (int row = 0; row < kRows; ++row) load_logits(x[row], p, position + row, lane);
#pragma unroll
    for (int row = 0; row < kRows; ++row) max[row] = row_reduce<kLanes>(largest<T>(x[row].words), Larger(), for_max);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const Scores<T> scores(p.temperature, max[row]);
      int ties = 0;
      float of_vector[kVectors];
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        of_vector[v] = 0.0f;
        // Vectors behind the end of the row hold nothing but hidden logits.
        if (v > 0 && Piece::ends_before(v * T::kPerVector, length)) continue;
        of_vector[v] = tree_sum<T::kPerVector>([&](int i) {
          const float weight = scores.weight(x[row].at(i));
          if (keep_weights) x[row].words[i] = __float_as_uint(weight);
          ties += weight == 1.0f;
          return weight == 1.0f ? 0.0f : weight;
        }, v * T::kPerVector);
      }
      const float below = tree_sum<kVectors>([&](int v) { return of_vector[v]; });
      sum[row] = row_reduce<kLanes>(WeightSum{below, static_cast<float>(ties)}, Sum(), for_sum);
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (position + row >= p.positions.count) continue;
      const SoftmaxState state = SoftmaxState::of(max[row], sum[row]);
      if (p.kind == SOFTMAX_LSE) {
        if (lane == 0) static_cast<float*>(p.output)[position + row] = Scores<T>::lse(p.temperature, state);
        continue;
      }
      finish_row(x[row], p, Scores<T>(p.temperature, max[row]), state, position + row);
      x[row].store(static_cast<char*>(p.output) + (position + row) * p.length * T::kBytes, length, lane, p.unit_log2,
                   p.output_units != 0);
    }
  }
}

// kLanes x kVectors is the longest row in units of 16 bytes; short rows come several to a lane, so that enough loads are in flight.
#define SOFTMAX_FORWARD(name, T, lanes, vectors, rows)                                              \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)                                     \
      softmax_forward_##name##_##lanes##x##vectors(const __grid_constant__ SoftmaxForwardParams p) { \
    softmax_forward<T, lanes, vectors, rows>(p);                                                    \
  }

FOR_EACH_DTYPE(SOFTMAX_FORWARD, 8, 1, 4)
FOR_EACH_DTYPE(SOFTMAX_FORWARD, 32, 1, 4)
FOR_EACH_DTYPE(SOFTMAX_FORWARD, 32, 4, 1)
FOR_EACH_DTYPE(SOFTMAX_FORWARD, 128, 4, 1)
FOR_EACH_DTYPE(SOFTMAX_FORWARD, 512, 4, 1)
FOR_EACH_DTYPE(SOFTMAX_FORWARD, 1024, 8, 1)
