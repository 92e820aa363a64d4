/* What is asked of logits without a gradient, and attention. */
#include "world.h"
#include <math.h>
#include <string.h>

static void argmax(void) {
  static const float X[8] = {1, 5, 5, 2, NAN, 9, NAN, INFINITY};
  static const int64_t ROWS[2] = {1, 0}, COLUMNS[4] = {1, 1, 1, 1};
  DLTensor *x = f32(X, 2, 2, 4), *rows = i64(NULL, 1, 2), *columns = i64(NULL, 1, 4);
  OK(sumexp_argmax(x, -1, rows, stream));
  IDS(rows, ROWS);
  OK(sumexp_argmax(x, 0, columns, stream));
  IDS(columns, COLUMNS);
}

static void attention(void) {
  static const float X[4] = {0, 0, 0, 0};
  DLTensor *x = f32(X, 4, 1, 1, 2, 2), *lse = f32(NULL, 3, 1, 1, 2);
  sumexp_attention_options options;
  memset(&options, 0xFF, sizeof options);
  OK(sumexp_attention_options_init(&options));
  HOLDS(options.size == sizeof options && isnan(options.scale) && options.causal == 0 && options.softcap == 0);
  HOLDS(options.window_left == -1 && options.window_right == -1 && options.max_q == 0 && options.max_k == 0);
  HOLDS(options.keep == NULL && options.bias == NULL && options.alibi_slopes == NULL && options.key_lengths == NULL);
  HOLDS(options.q_segments == NULL && options.k_segments == NULL && options.q_offsets == NULL && options.k_offsets == NULL);
  REFUSED(SUMEXP_UNSUPPORTED, "attention_forward is not in this version",
          sumexp_attention_forward(x, x, x, &options, x, lse, NULL, stream));
  REFUSED(SUMEXP_UNSUPPORTED, "attention_backward is not in this version",
          sumexp_attention_backward(x, x, x, x, lse, x, NULL, &options, x, x, x, NULL, stream));
}

static void confidence(void) {
  static const float X[6] = {2, 1, -INFINITY, 0, 0, 0};
  DLTensor *x = f32(X, 2, 2, 3), *best = f32(NULL, 1, 2), *margin = f32(NULL, 1, 2), *entropy = f32(NULL, 1, 2);
  double p = 1 / (1 + exp(-1)), q = 1 - p;
  double want_best[2] = {p, 1.0 / 3}, want_margin[2] = {p - q, 0}, want_entropy[2] = {-p * log(p) - q * log(q), log(3)};
  OK(sumexp_confidence(x, -1, best, margin, entropy, stream));
  NEAR(best, want_best);
  NEAR(margin, want_margin);
  NEAR(entropy, want_entropy);
  REFUSED(SUMEXP_NULL, "margin is NULL", sumexp_confidence(x, -1, best, NULL, entropy, stream));
  REFUSED(SUMEXP_OVERLAP, "margin overlaps entropy", sumexp_confidence(x, -1, best, margin, margin, stream));
  REFUSED(SUMEXP_SHAPE, "shapes differ", sumexp_confidence(x, 0, best, margin, entropy, stream));
}

static void sample(void) {
  DLTensor *x = f32(NULL, 2, 2, 3), *ids = i64(NULL, 1, 2), *valid = u8(NULL, 1, 2);
  REFUSED(SUMEXP_UNSUPPORTED, "sample", sumexp_sample(x, NULL, ids, valid, stream));
}

void inference_values(void) {
  argmax();
  confidence();
  sample();
  attention();
}
