// Softmax of logits with Gumbel noise on them: a differentiable stand-in for drawing an index.
//
//   z_i = (x_i - max(x)) + g_i,  g_i = -ln(-ln(u_i)),  u_i = (word_i + 1/2) / 2^32
//   y_i = exp((z_i - max(z)) / tau) / sum_j exp((z_j - max(z)) / tau)
//
// word_i is word i % 4 of the random words number i / 4 of the row (common/philox.cuh). u is never 0 or 1, and both it and 1 - u keep
// their digits: noise is never infinite, and its tails have the probabilities they should, to 2^-32. Logits are measured from the
// largest before noise is added, in f32, so what is added does not drown in them.
//
// Neither the noise nor z is written. kLanes lanes share a row, 16 elements of f32 each (common/row.cuh says which); a row that fits is
// read once. The largest kernel takes longer rows piece by piece, reads them four times and makes their noise three times.
#include "common/entry.cuh"
#include "common/philox.cuh"
#include "common/softmax_row.cuh"

/// -ln(-ln(u)) for u = (word + 1/2) / 2^32, from -3.14 to 22.88.
DEVICE float gumbel(uint32_t word) {
  const float u = __fmaf_rn(static_cast<float>(word), 0x1p-32f, 0x1p-33f);
  const float rest = __fmaf_rn(static_cast<float>(~word), 0x1p-32f, 0x1p-33f);
  // -ln(u) = ln(1 + (1 - u) / u), and ln(e) the same with the other sign, if need be of the inverse.
  const float e = log1p_accurate(quotient(rest, u));
  const float log = log1p_accurate(e < 1.0f ? quotient(1.0f - e, e) : e - 1.0f);
  return e < 1.0f ? log : -log;
}

/// An index in a row.
struct Index {
  uint32_t at;
};
DEVICE Index shuffle_xor(Index index, int mask) { return {__shfl_xor_sync(0xffffffffu, index.at, mask)}; }
struct First {
  DEVICE Index operator()(Index a, Index b) const { return {min(a.at, b.at)}; }
};

template <class T, int kLanes>
class GumbelRow {
  static constexpr int kElements = 16;
  using Piece = RowPiece<T, kLanes, kElements / T::kPerVector>;
  using Noisy = RowPiece<F32, kLanes, kElements / F32::kPerVector>;

 public:
  static constexpr uint32_t kCapacity = kLanes * kElements;

  DEVICE GumbelRow(const GumbelParams& p, uint64_t position, uint32_t lane)
      : p(p), random(p.random, p.positions, position), position(position), lane(lane) {}

  DEVICE uint32_t length_from(uint32_t begin) const { return min(p.length - begin, kCapacity); }

  /// The length of a piece for what takes its f32 for vectors of 4: units of T may be twice as long.
  DEVICE uint32_t noisy_length(uint32_t begin) const { return length_from(begin) + (T::kPerVector - F32::kPerVector) * kLanes; }

  /// The largest logit of a piece among the lane's.
  DEVICE float largest_of(uint32_t begin) const {
    Piece x;
    read(x, begin);
    return largest<T>(x.words);
  }

  /// Puts a piece into `z`, measured from `shift` and with noise on it. What lies behind its end is -inf.
  DEVICE void perturb(Noisy& z, uint32_t begin, float shift) const {
    Piece x;
    read(x, begin);
    z.fill(F32::kMinusInfinity);
    RandomWords words = {};
    uint32_t have = ~0u;
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (i > 0 && i % T::kPerVector == 0 && Piece::ends_before(i, length_from(begin))) break;
      const uint32_t at = begin + Piece::index(i, lane, p.unit_log2);
      if (at / 4 != have) words = philox(random.seed, random.offset, random.row * ((p.length - 1) / 4 + 1) + at / 4);
      have = at / 4;
      const uint32_t pair[2] = {at & 1 ? words.words[1] : words.words[0], at & 1 ? words.words[3] : words.words[2]};
      z.words[i] = __float_as_uint(__fadd_rn(__fsub_rn(x.at(i), shift), gumbel(at & 2 ? pair[1] : pair[0])));
    }
  }

  /// The first index of the lane's that has the largest z; the largest number if none has.
  DEVICE uint32_t winner(const Noisy& z, uint32_t begin, float max) const {
    uint32_t first = ~0u;
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (z.at(i) == max && max > -INFINITY) first = min(first, begin + Piece::index(i, lane, p.unit_log2));
    }
    return first;
  }

  /// Writes value(i) for every element i of a piece.
  template <class F>
  DEVICE void write(void* to, uint32_t units, uint32_t begin, F value) const {
    const uint32_t length = length_from(begin);
    Piece y;
#pragma unroll
    for (int i = 0; i < kElements; i += T::kPerWord) y.words[i / T::kPerWord] = T::pack(value(i), value(i + T::kPerWord - 1));
    char* data = static_cast<char*>(to) + (position_offset(p.positions, p.output_strides, position) + begin * p.output_stride) * T::kBytes;
    if (p.output_stride == 1) return y.store(data, length, lane, p.unit_log2, units != 0);
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const uint32_t at = Piece::index(i, lane, p.unit_log2);
      if (at >= length) continue;
      char* element = data + at * p.output_stride * T::kBytes;
      if constexpr (T::kPerWord == 1) {
        *reinterpret_cast<uint32_t*>(element) = y.words[i];
      } else {
        *reinterpret_cast<uint16_t*>(element) = static_cast<uint16_t>(y.words[i / 2] >> (i % 2 * 16));
      }
    }
  }

  /// The number of the lane's element `i` of a piece.
  DEVICE uint32_t number(uint32_t begin, int i) const { return begin + Piece::index(i, lane, p.unit_log2); }

 private:
  DEVICE void read(Piece& x, uint32_t begin) const {
    x.fill(T::kMinusInfinity);
    load(x, p.input, p.input_units, p, position, begin, length_from(begin), lane);
  }

  const GumbelParams& p;
  const RowRandom random;
  const uint64_t position;
  const uint32_t lane;
};

template <class T, int kLanes>
DEVICE void gumbel_softmax(const GumbelParams& p) {
  using Row = GumbelRow<T, kLanes>;
  constexpr int kRows = kThreads<kLanes> / kLanes;
  __shared__ MergeSlots<float, kLanes> for_shift, for_max;
  __shared__ MergeSlots<WeightSum, kLanes> for_sum;
  __shared__ MergeSlots<Index, kLanes> for_winner;
  const bool once = p.length <= Row::kCapacity;
  // Lanes that share a row come and go together; rows that share a block have warps of their own, and no barriers.
  for (uint64_t at = uint64_t{blockIdx.x} * kRows + threadIdx.x / kLanes; at < p.positions.count; at += uint64_t{gridDim.x} * kRows) {
    const Row row(p, at, threadIdx.x % kLanes);
    float shift = -INFINITY;
    for (uint32_t begin = 0; begin < p.length; begin += Row::kCapacity) shift = fmaxf(shift, row.largest_of(begin));
    shift = row_reduce<kLanes>(shift, Larger(), for_shift);
    if (shift == -INFINITY) shift = 0.0f;

    RowPiece<F32, kLanes, 4> z;
    float max = -INFINITY;
#pragma unroll 1
    for (uint32_t begin = 0; begin < p.length; begin += Row::kCapacity) {
      row.perturb(z, begin, shift);
      max = fmaxf(max, largest<F32>(z.words));
    }
    max = row_reduce<kLanes>(max, Larger(), for_max);

    const Scores<F32> scores(p.tau, max);
    WeightSum sum = WeightSum::of(0.0, 0.0f);
    uint32_t winner = ~0u;
#pragma unroll 1
    for (uint32_t begin = 0; begin < p.length; begin += Row::kCapacity) {
      if (!once) row.perturb(z, begin, shift);
      winner = min(winner, row.winner(z, begin, max));
      sum = add(sum, sum_of_weights(z, scores, row.noisy_length(begin), once));
    }
    const SoftmaxState state = SoftmaxState::of(max, row_reduce<kLanes>(sum, Sum(), for_sum));
    winner = row_reduce<kLanes>(Index{winner}, First(), for_winner).at;

    constexpr float kUnscale = 1.0f / Scores<F32>::kScale;
    const Pair inverse = state.inverse(), factor = {inverse.high * kUnscale, inverse.low * kUnscale};
    // Also in the one-hot result, NaN shows.
    const float zero = inverse.high * 0.0f;
#pragma unroll 1
    for (uint32_t begin = 0; begin < p.length; begin += Row::kCapacity) {
      if (!once) row.perturb(z, begin, shift);
      row.write(p.probabilities, p.probability_units, begin, [&](int i) {
        return scaled<F32>(once ? z.at(i) : scores.scaled_weight(z.at(i)), factor);
      });
      if (p.one_hot == nullptr) continue;
      row.write(p.one_hot, p.one_hot_units, begin, [&](int i) { return row.number(begin, i) == winner ? 1.0f + zero : zero; });
    }
  }
}

// 16 elements per lane are a piece. Rows of the largest kernel may have many.
#define GUMBEL(name, T, lanes)                                                                      \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>)                                     \
      gumbel_softmax_##name##_##lanes(const __grid_constant__ GumbelParams p) {                     \
    gumbel_softmax<T, lanes>(p);                                                                    \
  }

FOR_EACH_DTYPE(GUMBEL, 32)
FOR_EACH_DTYPE(GUMBEL, 512)
