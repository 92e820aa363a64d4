// What of a cross-entropy takes a sum over all classes: shares of the loss that every class has, and the statistics of a row.
//
//   share of class c:  w[c] * on_each                             smoothed class targets, beside what the target itself has
//                      w[c] * (on_target * t[c] + on_each)        probability targets t
//
// All sums are of terms that are never negative, relative to the largest logit so far: where that one grows by d, a sum of
// s * (max - x) grows by d * sum(s), and one of e * (max - x), with e = exp((x - max) / tau), is multiplied by exp(-d / tau)
// beside. Differences are those of Scores::difference: 1 / (pre * post) of them are missing until the end.
#pragma once

#include "common/cross_entropy.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"

/// The shares of one row's classes, without the factor `common`.
template <class T>
struct Shares {
  const LossTerms& terms;
  const ProbabilityTargets& targets;
  /// The first probability of the row; null where targets are classes.
  const char* row;
  /// What all shares are multiplied by in the end; 0 if there are none.
  float common;

  DEVICE Shares(const LossTerms& terms, const ProbabilityTargets& targets, const Positions& positions, uint64_t position)
      : terms(terms), targets(targets), row(nullptr), common(terms.on_each) {
    if (targets.operand.data == nullptr || position >= positions.count) return;
    const uint64_t offset = position_offset(positions, targets.operand.strides, position);
    row = static_cast<const char*>(targets.operand.data) + offset * bytes();
    common = 1.0f;
  }

  DEVICE uint32_t bytes() const { return targets.type == PROBABILITIES_F32 ? 4 : 2; }

  DEVICE float of(uint64_t index, float probability) const {
    const float weight = terms.class_weights == nullptr ? 1.0f : __ldg(terms.class_weights + index * terms.class_weight_stride);
    return row == nullptr ? weight : weight * __fmaf_rn(terms.on_target, probability, terms.on_each);
  }

  DEVICE float probability(uint64_t index) const {
    const uint64_t offset = index * targets.operand.stride;
    if (targets.type == PROBABILITIES_F32) return load_element<F32>(row, offset);
    return targets.type == PROBABILITIES_F16 ? load_element<F16>(row, offset) : load_element<BF16>(row, offset);
  }

  DEVICE float of(uint64_t index) const { return of(index, row == nullptr ? 0.0f : probability(index)); }

  /// The shares of the lane's vector number `v` of the elements `begin` to `begin + length`; 0 behind them.
  template <int kLanes>
  DEVICE void of_vector(float (&shares)[T::kPerVector], int v, uint64_t begin, uint32_t length, uint32_t lane, uint32_t unit_log2) const {
    const uint32_t first = v * T::kPerVector * kLanes;
    float probabilities[T::kPerVector] = {};
    if (row != nullptr && first < length) load<kLanes>(probabilities, begin + first, length - first, lane, unit_log2);
#pragma unroll
    for (int i = 0; i < T::kPerVector; ++i) {
      const uint32_t at = first + RowPiece<T, kLanes, 1>::index(i, lane, unit_log2);
      shares[i] = at < length ? of(begin + at, probabilities[i]) : 0.0f;
    }
  }

 private:
  template <int kLanes>
  DEVICE void load(float (&to)[T::kPerVector], uint64_t begin, uint32_t length, uint32_t lane, uint32_t unit_log2) const {
    if (targets.as_logits != 0) {
      RowPiece<T, kLanes, 1> piece;
      piece.fill(0);
      piece.load(row + begin * targets.operand.stride * T::kBytes, targets.operand.stride, length, lane, unit_log2, targets.units != 0);
#pragma unroll
      for (int i = 0; i < T::kPerVector; ++i) to[i] = piece.at(i);
      return;
    }
    // f32 beside 16-bit logits: the lane's 8 elements are two vectors where they are neighbours.
    if (T::kPerVector == 8 && targets.type == PROBABILITIES_F32 && unit_log2 == 3 && targets.units != 0) {
      const uint32_t at = lane * T::kPerVector;
      if (at >= length) return;
#pragma unroll
      for (int i = 0; i < T::kPerVector; i += 4) {
        const float4 four = __ldg(reinterpret_cast<const float4*>(row + (begin + at + i) * 4));
        to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < T::kPerVector; ++i) {
      const uint32_t at = RowPiece<T, kLanes, 1>::index(i, lane, unit_log2);
      if (at < length) to[i] = probability(begin + at);
    }
  }
};

/// Sums over the classes of a row, or over those of one lane, relative to the largest logit so far.
struct DenseSums {
  /// Of the shares, and of share * (max - x).
  double shares, gaps;
  /// Of exp((x - max) / tau) * (max - x).
  double heat;
  /// How many classes are ahead of the target. A whole number below 2^53.
  double ahead;
  /// The first index of the largest logit; of the first NaN, less 2^53; +inf if there is neither.
  double first;

  static DEVICE DenseSums none() { return {0.0, 0.0, 0.0, 0.0, INFINITY}; }

  /// Goes over to scores relative to a larger maximum; `weights` is the sum that goes with the old one.
  template <class T>
  DEVICE void move(const Scores<T>& scores, float old_max, const WeightSum& weights) {
    const Pair step = scores.difference(old_max);
    // From -inf there is nothing to take along: the shares of hidden classes are in `gaps`, as +inf.
    const double grown = step.high == -INFINITY ? INFINITY : -(static_cast<double>(step.high) + step.low);
    if (shares != 0.0) gaps += shares * grown;
    const float weight = scores.weight(old_max);
    heat = weight == 0.0f ? 0.0 : (heat + (weights.below() + weights.ties) * grown) * weight;
    first = first < 0.0 ? first : static_cast<double>(INFINITY);
  }

  /// Adds `kCount` classes with their shares.
  template <int kCount, class T>
  DEVICE void add_shares(const Scores<T>& scores, const float (&x)[kCount], const float (&of)[kCount]) {
    shares += tree_sum<kCount>([&](int i) { return of[i]; });
    gaps += tree_sum<kCount>([&](int i) { return of[i] == 0.0f ? 0.0f : -scores.difference(x[i]).high * of[i]; });
  }

  /// Adds what the statistics need; index(i) is a class, or beyond `classes`.
  template <int kCount, class T, class F>
  DEVICE void add_statistics(const Scores<T>& scores, const float (&x)[kCount], F index, uint64_t classes, float max, float logit,
                             uint64_t target) {
    heat += tree_sum<kCount>([&](int i) {
      const float weight = scores.weight(x[i]);
      return weight == 0.0f ? 0.0f : -scores.difference(x[i]).high * weight;
    });
    uint32_t before = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const uint64_t at = index(i);
      if (at >= classes) continue;
      const bool no_number = x[i] != x[i];
      before += larger(x[i], logit) || (at < target && !larger(logit, x[i]));
      if (no_number || x[i] == max) first = fmin(first, static_cast<double>(at) - (no_number ? 0x1p53 : 0.0));
    }
    ahead += before;
  }

  /// Adds the elements `begin` to `begin + length` of a row, of which the lane holds `x`.
  template <int kLanes, class Piece, class T>
  DEVICE void add_piece(const CrossEntropyForwardParams& p, const Shares<T>& row_shares, const Piece& x, uint64_t begin,
                        uint32_t length, uint32_t lane, float max, float logit, uint64_t target) {
    const Scores<T> scores(p.terms.temperature, max);
    const bool with_shares = p.probabilities.operand.data != nullptr || p.terms.on_each != 0.0f;
#pragma unroll
    for (int v = 0; v < Piece::kVectorCount; ++v) {
      if (v > 0 && Piece::ends_before(v * T::kPerVector, length)) continue;
      float logits[T::kPerVector], of[T::kPerVector];
#pragma unroll
      for (int i = 0; i < T::kPerVector; ++i) logits[i] = x.at(v * T::kPerVector + i);
      if (with_shares) {
        row_shares.template of_vector<kLanes>(of, v, begin, length, lane, p.unit_log2);
        add_shares(scores, logits, of);
      }
      if (p.statistics.nll != nullptr) {
        const uint64_t classes = p.targets.classes;
        const auto index = [&](int i) {
          const uint32_t at = Piece::index(v * T::kPerVector + i, lane, p.unit_log2);
          return at < length ? begin + at : classes;
        };
        add_statistics(scores, logits, index, classes, max, logit, target);
      }
    }
  }

  /// What becomes of a row that counts, of which these are all. `logit` is the target's, if it has a class.
  DEVICE RowLoss row_loss(const CrossEntropyForwardParams& p, const Target& target, float logit, float common,
                          const SoftmaxState& state) const {
    const bool has_class = p.targets.type != TARGETS_NONE;
    const float nll = has_class ? nll_of(p.terms, state, logit) : 0.0f;
    const float on_target = has_class ? p.terms.on_target * class_weight(p.terms, static_cast<uint64_t>(target.value)) : 0.0f;
    return RowLoss::of(p.terms, state, nll, on_target, shares * common, gaps * common * natural(p));
  }

  /// Writes the row's statistics, if anybody asks; `logit` and `state` are not read of a row that does not count.
  DEVICE void store_statistics(const CrossEntropyForwardParams& p, const Target& target, float logit, const SoftmaxState& state,
                               uint64_t position) const {
    if (p.statistics.nll == nullptr) return;
    float nll = RowLoss::of_none(target).loss, entropy = nll;
    double of_largest = -1.0, rank = -1.0;
    if (target.counts()) {
      nll = nll_of(p.terms, state, logit);
      entropy = __fmaf_rn(static_cast<float>(heat * natural(p)), state.inverse().high, state.log_sum());
      of_largest = first == INFINITY ? 0.0 : first < 0.0 ? first + 0x1p53 : first;
      rank = ahead;
    }
    p.statistics.nll[position] = nll;
    p.statistics.entropy[position] = entropy;
    p.statistics.argmax[position] = static_cast<int64_t>(of_largest);
    p.statistics.rank[position] = static_cast<int64_t>(rank);
    p.statistics.correct[position] = rank == 0.0;
  }

 private:
  static DEVICE double natural(const CrossEntropyForwardParams& p) {
    return static_cast<double>(p.terms.temperature.natural_high) + p.terms.temperature.natural_low;
  }

  /// A NaN is larger than any number.
  static DEVICE bool larger(float a, float b) { return !(a <= b) && b == b; }
};

/// DenseSums on their way between lanes: a struct of doubles would not lie in slots of one word's alignment.
struct DenseWords {
  Words parts[5];

  static DEVICE DenseWords of(const DenseSums& sums) {
    return {{Words::of(sums.shares), Words::of(sums.gaps), Words::of(sums.heat), Words::of(sums.ahead), Words::of(sums.first)}};
  }
  DEVICE DenseSums sums() const {
    return {parts[0].value(), parts[1].value(), parts[2].value(), parts[3].value(), parts[4].value()};
  }
};

struct MergeDense {
  DEVICE DenseWords operator()(const DenseWords& a, const DenseWords& b) const {
    DenseWords merged;
#pragma unroll
    for (int i = 0; i < 4; ++i) merged.parts[i] = Words::of(__dadd_rn(a.parts[i].value(), b.parts[i].value()));
    merged.parts[4] = Words::of(fmin(a.parts[4].value(), b.parts[4].value()));
    return merged;
  }
};

DEVICE DenseWords shuffle_xor(const DenseWords& words, int mask) {
  DenseWords other;
#pragma unroll
  for (int i = 0; i < 5; ++i) other.parts[i] = Words::of(shuffle_xor(words.parts[i].value(), mask));
  return other;
}

/// Puts the gradients in the place of the logits of a piece, the elements from `begin` on of a row whose target is `target`.
template <int kLanes, class T, class Piece>
DEVICE void replace_by_dense_gradients(Piece& x, const RowGradient<T>& gradient, const Shares<T>& shares, const Targets& targets,
                                       const Target& target, uint64_t begin, uint32_t length, uint32_t lane, uint32_t unit_log2) {
  // Without a class none of the elements is the target's.
  const bool has_class = targets.type != TARGETS_NONE;
  const uint64_t value = has_class ? static_cast<uint64_t>(target.value) - begin : ~uint64_t{0};
  const int mine = owned<kLanes, Piece::kElements>(value, lane, unit_log2);
#pragma unroll
  for (int v = 0; v < Piece::kVectorCount; ++v) {
    if (v > 0 && Piece::ends_before(v * T::kPerVector, length)) break;
    float of[T::kPerVector];
    shares.template of_vector<kLanes>(of, v, begin, length, lane, unit_log2);
#pragma unroll
    for (int i = 0; i < T::kPerVector; i += T::kPerWord) {
      const int at = v * T::kPerVector + i, last = at + T::kPerWord - 1;
      const float low = gradient.at(x.at(at), at == mine, of[i] * shares.common);
      x.words[at / T::kPerWord] = T::pack(low, gradient.at(x.at(last), last == mine, of[i + T::kPerWord - 1] * shares.common));
    }
  }
}
