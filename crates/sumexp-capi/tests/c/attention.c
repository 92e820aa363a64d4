/* Attention: every option against sums in double, packed sequences against each of them alone, and bad input one by one. */
#include "world.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Two batch entries, four heads of queries on two of keys, more keys than queries, values of another size. */
enum { B = 2, HQ = 4, HK = 2, SQ = 3, SK = 5, D = 4, DV = 3 };
static float q[B * HQ * SQ * D], k[B * HK * SK * D], v[B * HK * SK * DV], dout[B * HQ * SQ * DV], dlse[B * HQ * SQ];

/* What the options say, in numbers on the host. */
typedef struct {
  double scale, softcap;
  int causal;
  long left, right;
  const uint8_t *keep;                              /* [SQ, SK] */
  const float *bias;                                /* [HQ, 1, SK] */
  const float *slopes;                              /* [HQ] */
  const int32_t *lengths, *q_segments, *k_segments; /* [B], [B, SQ], [B, SK] */
} Meaning;

static const Meaning PLAIN = {0.5, 0, 0, -1, -1, NULL, NULL, NULL, NULL, NULL, NULL};

static int visible(const Meaning *m, int b, int i, int j) {
  long distance = j - i - (m->causal == 1 ? 0 : SK - SQ);
  return (m->causal == 0 || distance <= 0) && (m->left < 0 || distance >= -m->left) && (m->right < 0 || distance <= m->right) &&
         (m->keep == NULL || m->keep[i * SK + j] != 0) && (m->lengths == NULL || j < m->lengths[b]) &&
         (m->q_segments == NULL || m->q_segments[b * SQ + i] == m->k_segments[b * SK + j]);
}

/* Results, in the order of the tensors. */
typedef struct {
  double out[B * HQ * SQ * DV], lse[B * HQ * SQ], weights[B * HQ * SQ * SK];
  double dq[B * HQ * SQ * D], dk[B * HK * SK * D], dv[B * HK * SK * DV], dbias[HQ * SK];
} Want;

static void want_of(const Meaning *m, Want *want) {
  memset(want, 0, sizeof *want);
  for (int row = 0; row < B * HQ * SQ; ++row) {
    int b = row / (HQ * SQ), h = row / SQ % HQ, i = row % SQ, first = (b * HK + h / (HQ / HK)) * SK;
    double sum = 0, dot = 0, *mean = want->out + row * DV, *weight = want->weights + row * SK, slope[SK], through[SK];
    for (int j = 0; j < SK; ++j) {
      double score = 0;
      through[j] = 0;
      if (!visible(m, b, i, j)) continue;
      for (int d = 0; d < D; ++d) score += (double)q[row * D + d] * k[(first + j) * D + d];
      score *= m->scale;
      if (m->bias != NULL) score += m->bias[h * SK + j];
      if (m->slopes != NULL) score -= m->slopes[h] * fabs((double)(j - i - (m->causal == 1 ? 0 : SK - SQ)));
      double squeezed = m->softcap != 0 ? tanh(score / m->softcap) : 0;
      slope[j] = 1 - squeezed * squeezed;
      if (m->softcap != 0) score = m->softcap * squeezed;
      sum += weight[j] = exp(score);
      for (int d = 0; d < DV; ++d) mean[d] += exp(score) * v[(first + j) * DV + d];
      for (int d = 0; d < DV; ++d) through[j] += (double)dout[row * DV + d] * v[(first + j) * DV + d];
    }
    want->lse[row] = sum > 0 ? log(sum) : -INFINITY;
    for (int d = 0; d < DV && sum > 0; ++d) dot += dout[row * DV + d] * (mean[d] /= sum);
    for (int j = 0; j < SK && sum > 0; ++j) {
      if (weight[j] == 0) continue;
      double du = (weight[j] /= sum) * (through[j] - dot + dlse[row]) * slope[j];
      want->dbias[h * SK + j] += du;
      for (int d = 0; d < D; ++d) want->dq[row * D + d] += m->scale * du * k[(first + j) * D + d];
      for (int d = 0; d < D; ++d) want->dk[(first + j) * D + d] += m->scale * du * q[row * D + d];
      for (int d = 0; d < DV; ++d) want->dv[(first + j) * DV + d] += weight[j] * dout[row * DV + d];
    }
  }
}

static DLTensor *tq, *tk, *tv, *out, *lse, *weights, *tdout, *tdlse, *dq, *dk, *dv;

static void check(int line, const Meaning *m, const sumexp_attention_options *options) {
  Want want;
  want_of(m, &want);
  expect_code(__FILE__, line, "forward", SUMEXP_OK, sumexp_attention_forward(tq, tk, tv, options, out, lse, weights, stream));
  expect_f32(__FILE__, line, out, want.out, 2e-6);
  expect_f32(__FILE__, line, lse, want.lse, 2e-6);
  expect_f32(__FILE__, line, weights, want.weights, 4e-6);
  int with_bias = options != NULL && options->bias != NULL && options->bias->dtype.bits == 32;
  DLTensor *dbias = with_bias ? f32(NULL, 3, HQ, 1, SK) : NULL;
  expect_code(__FILE__, line, "backward", SUMEXP_OK,
              sumexp_attention_backward(tq, tk, tv, out, lse, tdout, tdlse, options, dq, dk, dv, dbias, stream));
  if (with_bias) expect_f32(__FILE__, line, dbias, want.dbias, 8e-6);
  expect_f32(__FILE__, line, dq, want.dq, 8e-6);
  expect_f32(__FILE__, line, dk, want.dk, 8e-6);
  expect_f32(__FILE__, line, dv, want.dv, 8e-6);
}

static void each_option(void) {
  sumexp_attention_options options;
  Meaning m = PLAIN;
  check(__LINE__, &m, NULL);
  OK(sumexp_attention_options_init(&options));
  check(__LINE__, &m, &options);
  static const float SCALES[3] = {2, 0, -0.25f};
  for (int i = 0; i < 3; ++i) {
    options.scale = SCALES[i], m.scale = SCALES[i];
    check(__LINE__, &m, &options);
  }
  options.scale = NAN, m = PLAIN;
  for (int causal = 1; causal <= 2; ++causal) {
    options.causal = causal, m.causal = causal;
    check(__LINE__, &m, &options);
    options.window_left = 1, m.left = 1;
    check(__LINE__, &m, &options);
    options.window_left = -1, m.left = -1;
  }
  options.causal = 0, m.causal = 0;
  options.window_left = 1, options.window_right = 0, m.left = 1, m.right = 0;
  check(__LINE__, &m, &options);
  options.window_left = -1, options.window_right = 1, m.left = -1, m.right = 1;
  check(__LINE__, &m, &options);
  options.window_right = INT64_MAX, m.right = -1;
  check(__LINE__, &m, &options);
  options.window_right = -1;
  options.softcap = 1.5f, m.softcap = 1.5;
  check(__LINE__, &m, &options);
  options.softcap = 0, m.softcap = 0;

  /* Row 1 sees nothing. */
  static const uint8_t KEEP[SQ * SK] = {1, 0, 7, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  m.keep = KEEP;
  options.keep = u8(KEEP, 2, SQ, SK);
  check(__LINE__, &m, &options);
  options.keep = boolean(KEEP, 4, 1, 1, SQ, SK);
  check(__LINE__, &m, &options);
  options.keep = NULL, m.keep = NULL;
  static const float BIAS[HQ * SK] = {0, 1, -1, -INFINITY, 2, 0, 0, 0, 0, 0, 3, 1, 0, 1, 3, -1, -1, -1, -1, -INFINITY};
  m.bias = BIAS;
  options.bias = f32(BIAS, 3, HQ, 1, SK);
  check(__LINE__, &m, &options);
  static const uint16_t HALF[HQ * SK] = {0,      0x3C00, 0xBC00, 0xFC00, 0x4000, 0,      0,      0,      0,      0,
                                         0x4200, 0x3C00, 0,      0x3C00, 0x4200, 0xBC00, 0xBC00, 0xBC00, 0xBC00, 0xFC00};
  options.bias = f16(HALF, 3, HQ, 1, SK);
  check(__LINE__, &m, &options);
  uint16_t brain[HQ * SK];
  for (int i = 0; i < HQ * SK; ++i) {
    uint32_t bits;
    memcpy(&bits, &BIAS[i], 4);
    brain[i] = (uint16_t)(bits >> 16);
  }
  options.bias = bf16(brain, 3, HQ, 1, SK);
  check(__LINE__, &m, &options);
  options.bias = NULL, m.bias = NULL;
  static const float SLOPES[HQ] = {0.5f, 0.25f, 0.125f, 0.0625f};
  m.slopes = SLOPES;
  options.alibi_slopes = f32(SLOPES, 1, HQ);
  for (int causal = 0; causal <= 2; ++causal) {
    options.causal = causal, m.causal = causal;
    check(__LINE__, &m, &options);
  }
  options.causal = 0, m.causal = 0, options.alibi_slopes = NULL, m.slopes = NULL;
  static const int32_t LENGTHS[B] = {4, -1}, OF_Q[B * SQ] = {0, 1, 2, 5, 5, 6}, OF_K[B * SK] = {0, 0, 1, 1, 9, 6, 5, 5, 6, 6};
  m.lengths = LENGTHS;
  options.key_lengths = i32(LENGTHS, 1, B);
  check(__LINE__, &m, &options);
  m.q_segments = OF_Q, m.k_segments = OF_K;
  options.q_segments = i32(OF_Q, 2, B, SQ), options.k_segments = i32(OF_K, 2, B, SK);
  check(__LINE__, &m, &options);

  /* Positions in front of heads, in a larger tensor: nothing is copied, and the lse of f16 is f32. */
  static float turned[B * SQ * HQ * (D + 1)];
  for (int i = 0; i < B * HQ * SQ * D; ++i) {
    int b = i / (HQ * SQ * D), h = i / (SQ * D) % HQ, s = i / D % SQ;
    turned[((b * SQ + s) * HQ + h) * (D + 1) + i % D] = q[i];
  }
  DLTensor *kept = tq;
  tq = strided(f32(turned, 1, B * SQ * HQ * (D + 1)), 0, 4, B, SQ * HQ * (D + 1), HQ, D + 1, SQ, HQ * (D + 1), D, 1);
  check(__LINE__, &m, &options);
  tq = kept;
  static const uint16_t ONES[4] = {0x3C00, 0x3C00, 0x3C00, 0x3C00};
  DLTensor *half = f16(ONES, 4, 1, 1, 2, 2), *of_half = f16(NULL, 4, 1, 1, 2, 2), *lse_of_half = f32(NULL, 3, 1, 1, 2);
  double want[2] = {sqrt(2) + log(2), sqrt(2) + log(2)};
  OK(sumexp_attention_forward(half, half, half, NULL, of_half, lse_of_half, NULL, stream));
  BITS(of_half, ONES);
  NEAR(lse_of_half, want);
}

/* The batch as packed sequences of which one is empty: the same rows, whatever max_q and max_k say. */
static void packed(void) {
  static const int32_t OF_Q[4] = {0, SQ, SQ, 2 * SQ}, OF_K[4] = {0, SK, SK, 2 * SK};
  static float pq[B * SQ * HQ * D], pk[B * SK * HK * D], pv[B * SK * HK * DV];
  static float pdout[B * SQ * HQ * DV], pdlse[B * SQ * HQ];
  Want want, packed;
  sumexp_attention_options options;
  Meaning m = PLAIN;
  m.causal = 2;
  want_of(&m, &want);
  for (int row = 0; row < B * HQ * SQ; ++row) {
    int to = (row / (HQ * SQ) * SQ + row % SQ) * HQ + row / SQ % HQ;
    memcpy(pq + to * D, q + row * D, D * sizeof *q);
    memcpy(pdout + to * DV, dout + row * DV, DV * sizeof *dout);
    memcpy(packed.out + to * DV, want.out + row * DV, DV * sizeof *want.out);
    memcpy(packed.dq + to * D, want.dq + row * D, D * sizeof *want.dq);
    packed.lse[to] = want.lse[row], pdlse[to] = dlse[row];
  }
  for (int row = 0; row < B * HK * SK; ++row) {
    int to = (row / (HK * SK) * SK + row % SK) * HK + row / SK % HK;
    memcpy(pk + to * D, k + row * D, D * sizeof *k);
    memcpy(pv + to * DV, v + row * DV, DV * sizeof *v);
    memcpy(packed.dk + to * D, want.dk + row * D, D * sizeof *want.dk);
    memcpy(packed.dv + to * DV, want.dv + row * DV, DV * sizeof *want.dv);
  }
  DLTensor *x = f32(pq, 3, B * SQ, HQ, D), *y = f32(pk, 3, B * SK, HK, D), *z = f32(pv, 3, B * SK, HK, DV);
  DLTensor *got = f32(NULL, 3, B * SQ, HQ, DV), *got_lse = f32(NULL, 2, B * SQ, HQ);
  DLTensor *of_out = f32(pdout, 3, B * SQ, HQ, DV), *of_lse = f32(pdlse, 2, B * SQ, HQ);
  DLTensor *dx = f32(NULL, 3, B * SQ, HQ, D), *dy = f32(NULL, 3, B * SK, HK, D), *dz = f32(NULL, 3, B * SK, HK, DV);
  OK(sumexp_attention_options_init(&options));
  options.causal = 2, options.q_offsets = i32(OF_Q, 1, 4), options.k_offsets = i32(OF_K, 1, 4);
  for (int hint = 0; hint <= SK; hint += SK) {
    options.max_q = options.max_k = hint;
    OK(sumexp_attention_forward(x, y, z, &options, got, got_lse, NULL, stream));
    expect_f32(__FILE__, __LINE__, got, packed.out, 2e-6);
    expect_f32(__FILE__, __LINE__, got_lse, packed.lse, 2e-6);
    OK(sumexp_attention_backward(x, y, z, got, got_lse, of_out, of_lse, &options, dx, dy, dz, NULL, stream));
    expect_f32(__FILE__, __LINE__, dx, packed.dq, 8e-6);
    expect_f32(__FILE__, __LINE__, dy, packed.dk, 8e-6);
    expect_f32(__FILE__, __LINE__, dz, packed.dv, 8e-6);
  }
  REFUSED(SUMEXP_UNSUPPORTED, "weights of packed sequences", sumexp_attention_forward(x, y, z, &options, got, got_lse, weights, stream));
  REFUSED(SUMEXP_SHAPE, "q must have the dims", sumexp_attention_forward(tq, y, z, &options, got, got_lse, NULL, stream));
  options.q_offsets = i32(OF_Q, 1, 3);
  REFUSED(SUMEXP_SHAPE, "the offsets of q", sumexp_attention_forward(x, y, z, &options, got, got_lse, NULL, stream));
  options.q_offsets = NULL;
  REFUSED(SUMEXP_NULL, "q_offsets is NULL, while k_offsets is given", sumexp_attention_forward(x, y, z, &options, got, got_lse, NULL, stream));
  /* On a GPU nobody reads them on the host: no access out of bounds, whatever they are. (Where sequences overlap, two blocks write
     the same rows, which the software GPU reports.) */
  static const int32_t BAD[4][4] = {{0, 4, 2, 6}, {1, 2, 3, 6}, {0, 1, 2, 7}, {0, -5, INT32_MAX, 6}};
  static const char *const SAYS[4] = {"sequence 1 ends at 2, before its begin at 4", "the first offset is 1",
                                      "the last offset is 7", "sequence 0 ends at -5"};
  for (int i = 0; i < 4; ++i) {
    options.q_offsets = i32(BAD[i], 1, 4);
    if (device.device_type == kDLCPU) {
      REFUSED(SUMEXP_SHAPE, SAYS[i], sumexp_attention_forward(x, y, z, &options, got, got_lse, NULL, stream));
    } else if (i > 0) {
      OK(sumexp_attention_forward(x, y, z, &options, got, got_lse, NULL, stream));
      OK(sumexp_check(device, stream));
    }
  }
}

static void defaults(void) {
  sumexp_attention_options options;
  memset(&options, 0xFF, sizeof options);
  OK(sumexp_attention_options_init(&options));
  HOLDS(options.size == sizeof options && isnan(options.scale) && options.causal == 0 && options.softcap == 0);
  HOLDS(options.window_left == -1 && options.window_right == -1 && options.max_q == 0 && options.max_k == 0);
  HOLDS(options.keep == NULL && options.bias == NULL && options.alibi_slopes == NULL && options.key_lengths == NULL);
  HOLDS(options.q_segments == NULL && options.k_segments == NULL && options.q_offsets == NULL && options.k_offsets == NULL);
}

static sumexp_attention_options options;

static int32_t forward(void) { return sumexp_attention_forward(tq, tk, tv, &options, out, lse, NULL, stream); }

static void refused_options(void) {
  OK(sumexp_attention_options_init(&options));
  options.causal = 3;
  REFUSED(SUMEXP_OPTION, "attention_forward: causal is 3", forward());
  options.causal = 0, options.window_left = -2;
  REFUSED(SUMEXP_OPTION, "window_left is -2", forward());
  options.window_left = -1, options.window_right = INT64_MIN;
  REFUSED(SUMEXP_OPTION, "window_right is -9223372036854775808", forward());
  options.window_right = -1, options.max_k = -1;
  REFUSED(SUMEXP_OPTION, "max_k is -1", forward());
  options.max_k = 0, options.scale = INFINITY;
  REFUSED(SUMEXP_OPTION, "scale", forward());
  options.scale = NAN, options.softcap = -1;
  REFUSED(SUMEXP_OPTION, "softcap", forward());
  options.softcap = NAN;
  REFUSED(SUMEXP_OPTION, "softcap", forward());
  options.softcap = INFINITY;
  REFUSED(SUMEXP_OPTION, "softcap", forward());
  options.softcap = 0, options.keep = u8(NULL, 2, SQ, SK + 1);
  REFUSED(SUMEXP_SHAPE, "does not broadcast", forward());
  options.keep = f32(NULL, 2, SQ, SK);
  REFUSED(SUMEXP_DTYPE, "keep is f32, it must be u8", forward());
  options.keep = NULL, options.bias = f32(NULL, 2, SQ + 1, SK);
  REFUSED(SUMEXP_SHAPE, "the bias of shape", forward());
  options.bias = i32(NULL, 2, SQ, SK);
  REFUSED(SUMEXP_DTYPE, "bias is i32, it must be f16, bf16 or f32", forward());
  options.bias = NULL, options.alibi_slopes = f32(NULL, 1, HQ + 1);
  REFUSED(SUMEXP_SHAPE, "does not broadcast", forward());
  options.alibi_slopes = f16(NULL, 1, HQ);
  REFUSED(SUMEXP_DTYPE, "alibi_slopes is f16, it must be f32", forward());
  options.alibi_slopes = NULL, options.key_lengths = i32(NULL, 1, B + 1);
  REFUSED(SUMEXP_SHAPE, "does not broadcast", forward());
  options.key_lengths = i64(NULL, 1, B);
  REFUSED(SUMEXP_DTYPE, "key_lengths is i64, it must be i32", forward());
  options.key_lengths = NULL, options.q_segments = i32(NULL, 2, B, SQ);
  REFUSED(SUMEXP_NULL, "k_segments is NULL, while q_segments is given", forward());
  options.k_segments = i32(NULL, 2, B, SK - 1);
  REFUSED(SUMEXP_SHAPE, "does not broadcast", forward());
  DLTensor elsewhere = *tk;
  elsewhere.device.device_type = device.device_type == kDLCPU ? kDLCUDA : kDLCPU;
  options.q_segments = options.k_segments = NULL, options.key_lengths = &elsewhere;
  REFUSED(SUMEXP_DEVICE, "key_lengths is on", forward());
  options.key_lengths = NULL, options.size = 3;
  REFUSED(SUMEXP_OPTION, "options.size is 3", forward());
}

static void refused_tensors(void) {
  DLTensor *wrong;
  REFUSED(SUMEXP_NULL, "q is NULL", sumexp_attention_forward(NULL, tk, tv, NULL, out, lse, NULL, stream));
  REFUSED(SUMEXP_NULL, "v is NULL", sumexp_attention_forward(tq, tk, NULL, NULL, out, lse, NULL, stream));
  REFUSED(SUMEXP_NULL, "out is NULL", sumexp_attention_forward(tq, tk, tv, NULL, NULL, lse, NULL, stream));
  REFUSED(SUMEXP_NULL, "lse is NULL", sumexp_attention_forward(tq, tk, tv, NULL, out, NULL, NULL, stream));
  REFUSED(SUMEXP_DTYPE, "weights is f16, it must be f32",
          sumexp_attention_forward(tq, tk, tv, NULL, out, lse, f16(NULL, 4, B, HQ, SQ, SK), stream));
  REFUSED(SUMEXP_SHAPE, "weights has shape [2, 4, 3, 4], it must be [2, 4, 3, 5]",
          sumexp_attention_forward(tq, tk, tv, NULL, out, lse, f32(NULL, 4, B, HQ, SQ, SK - 1), stream));
  wrong = strided(f32(NULL, 1, B * HQ * SQ * 8), 0, 4, B, HQ * SQ * 8, HQ, SQ * 8, SQ, 8, SK, 1);
  REFUSED(SUMEXP_STRIDES, "weights has shape [2, 4, 3, 5] and strides [96, 24, 8, 1]",
          sumexp_attention_forward(tq, tk, tv, NULL, out, lse, wrong, stream));
  wrong = strided(f32(NULL, 1, 2 * B * HQ * SQ * SK), 0, 4, B, HQ * SQ * SK, HQ, SQ * SK, SQ, SK, SK, 1);
  REFUSED(SUMEXP_OVERLAP, "weights overlaps k",
          sumexp_attention_forward(tq, strided(wrong, 16, 4, B, HK * SK * D, HK, SK * D, SK, D, D, 1), tv, NULL, out, lse, wrong, stream));
  REFUSED(SUMEXP_OVERLAP, "lse overlaps weights",
          sumexp_attention_forward(tq, tk, tv, NULL, out, strided(wrong, 0, 3, B, HQ * SQ, HQ, SQ, SQ, 1), wrong, stream));
  REFUSED(SUMEXP_DTYPE, "q is i32, it must be f16, bf16 or f32",
          sumexp_attention_forward(i32(NULL, 4, B, HQ, SQ, D), tk, tv, NULL, out, lse, NULL, stream));
  REFUSED(SUMEXP_DTYPE, "k is f16, it must be f32", sumexp_attention_forward(tq, f16(NULL, 4, B, HK, SK, D), tv, NULL, out, lse, NULL, stream));
  REFUSED(SUMEXP_DTYPE, "lse is f16, it must be f32", sumexp_attention_forward(tq, tk, tv, NULL, out, f16(NULL, 3, B, HQ, SQ), NULL, stream));
  REFUSED(SUMEXP_SHAPE, "q must have the dims", sumexp_attention_forward(f32(NULL, 3, HQ, SQ, D), tk, tv, NULL, out, lse, NULL, stream));
  wrong = f32(NULL, 4, B + 1, HK, SK, D);
  REFUSED(SUMEXP_SHAPE, "batch sizes differ: 2 in q, 3 in k", sumexp_attention_forward(tq, wrong, tv, NULL, out, lse, NULL, stream));
  wrong = f32(NULL, 4, B, HK, SK, D + 1);
  REFUSED(SUMEXP_SHAPE, "head sizes differ: 4 in q, 5 in k", sumexp_attention_forward(tq, wrong, tv, NULL, out, lse, NULL, stream));
  wrong = f32(NULL, 4, B, HK, SK + 1, DV);
  REFUSED(SUMEXP_SHAPE, "lengths differ: 5 in k, 6 in v", sumexp_attention_forward(tq, tk, wrong, NULL, out, lse, NULL, stream));
  wrong = f32(NULL, 4, B, 3, SK, D);
  REFUSED(SUMEXP_SHAPE, "heads", sumexp_attention_forward(tq, wrong, f32(NULL, 4, B, 3, SK, DV), NULL, out, lse, NULL, stream));
  wrong = strided(f32(NULL, 1, B * HQ * SQ * D * 2), 0, 4, B, HQ * SQ * D * 2, HQ, SQ * D * 2, SQ, D * 2, D, 2);
  REFUSED(SUMEXP_STRIDES, "the last dim of q must be contiguous", sumexp_attention_forward(wrong, tk, tv, NULL, out, lse, NULL, stream));
  wrong = f32(NULL, 4, B, HQ, SQ, DV + 1);
  REFUSED(SUMEXP_SHAPE, "out", sumexp_attention_forward(tq, tk, tv, NULL, wrong, lse, NULL, stream));
  REFUSED(SUMEXP_SHAPE, "lse", sumexp_attention_forward(tq, tk, tv, NULL, out, f32(NULL, 3, B, HQ, SQ + 1), NULL, stream));
  REFUSED(SUMEXP_OVERLAP, "out overlaps", sumexp_attention_forward(tq, tk, tv, NULL, strided(tq, 0, 4, B, HQ * SQ * DV, HQ, SQ * DV, SQ, DV, DV, 1), lse, NULL, stream));
  REFUSED(SUMEXP_OVERLAP, "out overlaps lse", sumexp_attention_forward(tq, tk, tv, NULL, out, strided(out, 0, 3, B, HQ * SQ, HQ, SQ, SQ, 1), NULL, stream));
}

/* Without a gradient of the lse it is 0; positions in front of heads in out and in the gradients too. */
static void backward_values(void) {
  Want want;
  float kept[B * HQ * SQ];
  double turned_dq[B * SQ * HQ * D];
  memcpy(kept, dlse, sizeof kept);
  memset(dlse, 0, sizeof dlse);
  want_of(&PLAIN, &want);
  memcpy(dlse, kept, sizeof kept);
  OK(sumexp_attention_forward(tq, tk, tv, NULL, out, lse, NULL, stream));
  OK(sumexp_attention_backward(tq, tk, tv, out, lse, tdout, NULL, NULL, dq, dk, dv, NULL, stream));
  expect_f32(__FILE__, __LINE__, dq, want.dq, 8e-6);
  expect_f32(__FILE__, __LINE__, dk, want.dk, 8e-6);
  expect_f32(__FILE__, __LINE__, dv, want.dv, 8e-6);
  for (int i = 0; i < B * HQ * SQ * D; ++i) {
    int b = i / (HQ * SQ * D), h = i / (SQ * D) % HQ, s = i / D % SQ;
    turned_dq[((b * SQ + s) * HQ + h) * D + i % D] = want.dq[i];
  }
  DLTensor *memory = f32(NULL, 4, B, SQ, HQ, D);
  OK(sumexp_attention_backward(tq, tk, tv, out, lse, tdout, NULL, NULL, strided(memory, 0, 4, B, SQ * HQ * D, HQ, D, SQ, HQ * D, D, 1), dk,
                               dv, NULL, stream));
  expect_f32(__FILE__, __LINE__, memory, turned_dq, 8e-6);
}

#define BACKWARD(...) sumexp_attention_backward(__VA_ARGS__, NULL, stream)

static void refused_gradients(void) {
  sumexp_attention_options options;
  OK(sumexp_attention_options_init(&options));
#define DBIAS(dbias) sumexp_attention_backward(tq, tk, tv, out, lse, tdout, NULL, &options, dq, dk, dv, dbias, stream)
  REFUSED(SUMEXP_OPTION, "false without a bias", DBIAS(f32(NULL, 2, SQ, SK)));
  options.bias = f32(NULL, 2, SQ, SK);
  REFUSED(SUMEXP_DTYPE, "the bias is f32, dbias is bf16", DBIAS(bf16(NULL, 2, SQ, SK)));
  REFUSED(SUMEXP_DTYPE, "dbias is i32", DBIAS(i32(NULL, 2, SQ, SK)));
  REFUSED(SUMEXP_SHAPE, "dbias", DBIAS(f32(NULL, 2, SQ, SK + 1)));
  REFUSED(SUMEXP_OVERLAP, "dbias", DBIAS(options.bias));
  REFUSED(SUMEXP_NULL, "attention_backward: k is NULL", BACKWARD(tq, NULL, tv, out, lse, tdout, NULL, NULL, dq, dk, dv));
  REFUSED(SUMEXP_NULL, "out is NULL", BACKWARD(tq, tk, tv, NULL, lse, tdout, NULL, NULL, dq, dk, dv));
  REFUSED(SUMEXP_NULL, "lse is NULL", BACKWARD(tq, tk, tv, out, NULL, tdout, NULL, NULL, dq, dk, dv));
  REFUSED(SUMEXP_NULL, "dout is NULL", BACKWARD(tq, tk, tv, out, lse, NULL, NULL, NULL, dq, dk, dv));
  REFUSED(SUMEXP_NULL, "dk is NULL", BACKWARD(tq, tk, tv, out, lse, tdout, NULL, NULL, dq, NULL, dv));
  REFUSED(SUMEXP_DTYPE, "dlse is f16, it must be f32",
          BACKWARD(tq, tk, tv, out, lse, tdout, f16(NULL, 3, B, HQ, SQ), NULL, dq, dk, dv));
  REFUSED(SUMEXP_DTYPE, "dv is f16, it must be f32", BACKWARD(tq, tk, tv, out, lse, tdout, NULL, NULL, dq, dk, f16(NULL, 4, B, HK, SK, DV)));
  REFUSED(SUMEXP_SHAPE, "dout", BACKWARD(tq, tk, tv, out, lse, f32(NULL, 4, B, HQ, SQ, DV + 1), NULL, NULL, dq, dk, dv));
  REFUSED(SUMEXP_SHAPE, "lse", BACKWARD(tq, tk, tv, out, f32(NULL, 3, B, HQ, SQ + 1), tdout, NULL, NULL, dq, dk, dv));
  REFUSED(SUMEXP_SHAPE, "dlse", BACKWARD(tq, tk, tv, out, lse, tdout, f32(NULL, 2, B, HQ), NULL, dq, dk, dv));
  REFUSED(SUMEXP_SHAPE, "dq", BACKWARD(tq, tk, tv, out, lse, tdout, NULL, NULL, f32(NULL, 4, B, HK, SK, D), dk, dv));
  REFUSED(SUMEXP_STRIDES, "dout", BACKWARD(tq, tk, tv, out, lse, strided(tdout, 0, 4, B, 0, HQ, 0, SQ, 0, DV, 0), NULL, NULL, dq, dk, dv));
  REFUSED(SUMEXP_OVERLAP, "dq overlaps q", BACKWARD(tq, tk, tv, out, lse, tdout, NULL, NULL, tq, dk, dv));
  REFUSED(SUMEXP_OVERLAP, "dv overlaps out",
          BACKWARD(tq, tk, tv, out, lse, tdout, NULL, NULL, dq, dk, strided(out, 0, 4, B, HK * SK * DV, HK, SK * DV, SK, DV, DV, 1)));
  REFUSED(SUMEXP_OVERLAP, "dk overlaps dv",
          BACKWARD(tq, tk, tv, out, lse, tdout, NULL, NULL, dq, dk, strided(dk, 0, 4, B, HK * SK * DV, HK, SK * DV, SK, DV, DV, 1)));
}

/* No queries, no keys. */
static void empty(void) {
  double zeros[HQ * SQ * DV] = {0}, nothing[HQ * SQ];
  for (int i = 0; i < HQ * SQ; ++i) nothing[i] = -INFINITY;
  DLTensor *one = f32(q, 4, 1, HQ, SQ, D), *none = f32(NULL, 4, 1, HK, 0, D), *no_values = f32(NULL, 4, 1, HK, 0, DV);
  DLTensor *means = f32(NULL, 4, 1, HQ, SQ, DV), *sums = f32(NULL, 3, 1, HQ, SQ);
  OK(sumexp_attention_forward(one, none, no_values, NULL, means, sums, NULL, stream));
  NEAR(means, zeros);
  NEAR(sums, nothing);
  DLTensor *of_one = f32(NULL, 4, 1, HQ, SQ, D), *of_none = f32(NULL, 4, 1, HK, 0, D), *of_no_values = f32(NULL, 4, 1, HK, 0, DV);
  double no_gradient[HQ * SQ * D] = {0};
  OK(sumexp_attention_backward(one, none, no_values, means, sums, f32(dout, 4, 1, HQ, SQ, DV), NULL, NULL, of_one, of_none, of_no_values, NULL,
                               stream));
  NEAR(of_one, no_gradient);
  OK(sumexp_attention_forward(f32(NULL, 4, B, HQ, 0, D), tk, tv, NULL, f32(NULL, 4, B, HQ, 0, DV), f32(NULL, 3, B, HQ, 0), NULL, stream));
}

void attention(void) {
  for (int i = 0; i < B * HQ * SQ * D; ++i) q[i] = (float)(i * 37 % 64 - 32) / 16;
  for (int i = 0; i < B * HK * SK * D; ++i) k[i] = (float)(i * 29 % 64 - 32) / 16;
  for (int i = 0; i < B * HK * SK * DV; ++i) v[i] = (float)(i * 23 % 64 - 32) / 16;
  for (int i = 0; i < B * HQ * SQ * DV; ++i) dout[i] = (float)(i * 19 % 64 - 32) / 32;
  for (int i = 0; i < B * HQ * SQ; ++i) dlse[i] = (float)(i * 17 % 64 - 32) / 32;
  tdout = f32(dout, 4, B, HQ, SQ, DV), tdlse = f32(dlse, 3, B, HQ, SQ);
  dq = f32(NULL, 4, B, HQ, SQ, D), dk = f32(NULL, 4, B, HK, SK, D), dv = f32(NULL, 4, B, HK, SK, DV);
  tq = f32(q, 4, B, HQ, SQ, D), tk = f32(k, 4, B, HK, SK, D), tv = f32(v, 4, B, HK, SK, DV);
  out = f32(NULL, 4, B, HQ, SQ, DV), lse = f32(NULL, 3, B, HQ, SQ), weights = f32(NULL, 4, B, HQ, SQ, SK);
  defaults();
  each_option();
  packed();
  backward_values();
  empty();
  uint8_t before[B * HQ * SQ * DV * 4], after[sizeof before];
  fetch(out, before);
  refused_options();
  refused_tensors();
  refused_gradients();
  fetch(out, after);
  HOLDS(memcmp(before, after, sizeof before) == 0);
}
