// What the row kernels and the split kernels of the softmax family do with one piece of a row.
#pragma once

#include "common/gradient.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"

/// Reads the lane's piece of the elements `first` to `first + length` of the row at `position`, signs flipped and masked.
/// What lies outside, and a row outside the positions, is hidden.
template <class T, int kLanes, int kVectors>
DEVICE void load_logits(RowPiece<T, kLanes, kVectors>& x, const SoftmaxForwardParams& p, uint64_t position, uint64_t first,
                        uint32_t length, uint32_t lane) {
  x.fill(T::kMinusInfinity ^ p.sign_flip);
  if (position >= p.positions.count) return;
  load(x, p.input, p.input_units, p, position, first, length, lane);
#pragma unroll
  for (int i = 0; i < x.kWords; ++i) x.words[i] ^= p.sign_flip;
  if (p.mask.data == nullptr) return;
  const uint64_t mask_offset = position_offset(p.positions, p.mask.strides, position) + first * p.mask.stride;
  x.hide(static_cast<const uint8_t*>(p.mask.data) + mask_offset, p.mask.stride, length, lane, p.unit_log2,
         p.mask_units != 0, p.mask_hides != 0);
}

/// Puts the results in the place of the logits; for probabilities with `kKeptWeights`, in the place of the weights that the
/// caller has put there already. `length` is that of the loaded part. Every kind but SOFTMAX_LSE.
template <class T, bool kKeptWeights, int kLanes, int kVectors>
DEVICE void finish_row(RowPiece<T, kLanes, kVectors>& x, const SoftmaxForwardParams& p, const Scores<T>& scores,
                       const SoftmaxState& state, uint64_t position, uint32_t length) {
  using Piece = RowPiece<T, kLanes, kVectors>;
  const auto replace = [&](auto result) {
#pragma unroll
    for (int i = 0; i < Piece::kElements; i += T::kPerWord) {
      if (i > 0 && i % T::kPerVector == 0 && Piece::ends_before(i, length)) break;
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
    constexpr float kUnscale = 1.0f / Scores<T>::kScale;
    const Pair factor = {inverse.high * kUnscale, inverse.low * kUnscale};
    replace([&](float value) { return scaled<T>(kKeptWeights ? value : scores.scaled_weight(value), factor); });
    return;
  }
  const uint64_t offset = position_offset(p.positions, p.upstream.strides, position);
  const float upstream = __ldg(static_cast<const float*>(p.upstream.data) + offset) * p.upstream_scale;
  const Pair factor = {inverse.high * upstream, inverse.low * upstream};
  replace([&](float logit) {
    // Whatever the upstream gradient is, a hidden logit gets 0; only a NaN row stays NaN.
    if (logit == -INFINITY) return 0.0f * inverse.high;
    return scores.weighted(logit, factor) * p.upstream_scale_rest;
  });
}

/// The lane's weights relative to `scores.max`, added up. With `keep`, which only f32 may ask for, the scaled weights replace the
/// logits. `holds_max`: whether one of them may be the row's maximum; only then are weights of 1 told from the others.
template <class T, int kLanes, int kVectors, bool kReadOnly>
DEVICE WeightSum sum_of_weights(RowPiece<T, kLanes, kVectors, kReadOnly>& x, const Scores<T>& scores, uint32_t length, bool keep,
                                bool holds_max = true) {
  using Piece = RowPiece<T, kLanes, kVectors, kReadOnly>;
  constexpr float kScale = Scores<T>::kScale;
  int ties = 0;
  double below = 0.0;
  const auto add_up = [&](auto weight_of) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      // Vectors behind the end of the row hold nothing but hidden logits.
      if (v > 0 && Piece::ends_before(v * T::kPerVector, length)) continue;
      const auto kept = [&](int i) {
        const float weight = scores.scaled_weight(x.at(i));
        if (T::kPerWord == 1 && keep) x.words[i] = __float_as_uint(weight);
        return weight_of(weight);
      };
      accumulate(below, tree_sum<T::kPerVector>(kept, v * T::kPerVector));
    }
  };
  if (kVectors == 1 || holds_max) {
    add_up([&](float weight) {
      ties += weight == kScale;
      return weight == kScale ? 0.0f : weight;
    });
  } else {
    // The maximum is elsewhere: beside another weight of 1 a small weight need not keep its digits.
    add_up([](float weight) { return weight; });
  }
  return WeightSum::of(below * (1.0 / kScale), static_cast<float>(ties));
}

/// The lane's part of the row's sum. Contains no barrier.
template <class T, bool kLog, class Piece>
DEVICE TermSum<T> sum_of_terms(const Gradient<T, kLog>& gradient, const Piece& y, const Piece& dy, uint32_t length) {
  TermSum<T> of_vector[Piece::kVectorCount];
#pragma unroll
  for (int v = 0; v < Piece::kVectorCount; ++v) {
    of_vector[v] = {};
    if (v > 0 && Piece::ends_before(v * T::kPerVector, length)) continue;
#pragma unroll
    for (int i = v * T::kPerVector; i < (v + 1) * T::kPerVector; ++i) gradient.add_term(of_vector[v], y.at(i), dy.at(i));
  }
  return tree_of(of_vector, Sum());
}

/// Puts the gradients in the place of dy. All lanes of the warp must call.
template <class T, bool kLog, class Piece>
DEVICE void replace_by_gradients(const Gradient<T, kLog>& gradient, const Piece& y, Piece& dy, const SettledSum<T>& sum,
                                 uint32_t length) {
#pragma unroll
  for (int i = 0; i < Piece::kElements; i += T::kPerWord) {
    if (i > 0 && i % T::kPerVector == 0 && Piece::ends_before(i, length)) break;
    const int next = i + T::kPerWord - 1;
    dy.words[i / T::kPerWord] =
        T::pack(gradient.of_logit(y.at(i), dy.at(i), sum), gradient.of_logit(y.at(next), dy.at(next), sum));
  }
}
