/* What is asked of logits without a gradient. */
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
  enum { ROWS = 64, CLASSES = 5 };
  float x[ROWS * CLASSES];
  int64_t largest[ROWS], first[ROWS], again[ROWS], other[ROWS];
  uint8_t all[ROWS], two[2] = {1, 0};
  for (int i = 0; i < ROWS * CLASSES; ++i) x[i] = (float)(i * 7 % 11) / 4;
  for (int row = 0; row < ROWS; ++row) {
    all[row] = 1, largest[row] = 0;
    for (int i = 1; i < CLASSES; ++i) {
      if (x[row * CLASSES + i] > x[row * CLASSES + largest[row]]) largest[row] = i;
    }
  }
  DLTensor *logits = f32(x, 2, ROWS, CLASSES), *ids = i64(NULL, 1, ROWS), *valid = u8(NULL, 1, ROWS);
  sumexp_sample_options options;
  OK(sumexp_sample_options_init(&options));
  HOLDS(options.size == sizeof options && options.temperature == 1 && options.top_k == 0 && options.top_p == 1 && options.min_p == 0);

  /* Each filter alone leaves the largest. */
  options.top_k = 1;
  OK(sumexp_sample(logits, &options, ids, valid, stream));
  IDS(ids, largest);
  BYTES(valid, all);
  options.top_k = 0, options.top_p = 1e-6f;
  OK(sumexp_sample(logits, &options, ids, valid, stream));
  IDS(ids, largest);
  options.top_p = 1, options.min_p = 1;
  OK(sumexp_sample(logits, &options, ids, boolean(NULL, 1, ROWS), stream));
  IDS(ids, largest);

  /* The same seed and offset draw the same; another offset, and another seed, something else. */
  options.min_p = 0, options.seed = 7;
  OK(sumexp_sample(logits, &options, ids, valid, stream));
  fetch(ids, first);
  OK(sumexp_sample(logits, &options, ids, valid, stream));
  fetch(ids, again);
  HOLDS(memcmp(first, again, sizeof first) == 0);
  HOLDS(memcmp(first, largest, sizeof first) != 0);
  options.offset = 1;
  OK(sumexp_sample(logits, &options, ids, valid, stream));
  fetch(ids, other);
  HOLDS(memcmp(first, other, sizeof first) != 0);
  options.offset = 0, options.seed = 8;
  OK(sumexp_sample(logits, &options, ids, valid, stream));
  fetch(ids, other);
  HOLDS(memcmp(first, other, sizeof first) != 0);
  int counts[CLASSES] = {0};
  for (int row = 0; row < ROWS; ++row) {
    HOLDS(first[row] >= 0 && first[row] < CLASSES);
    ++counts[first[row]];
  }
  for (int i = 0; i < CLASSES; ++i) HOLDS(counts[i] > 0);

  /* A row that cannot be drawn from. */
  static const float BAD[4] = {0, -INFINITY, 0, NAN};
  DLTensor *pair = f32(BAD, 2, 2, 2), *drawn = i64(NULL, 1, 2), *marks = u8(NULL, 1, 2);
  static const int64_t ZEROS[2] = {0, 0};
  OK(sumexp_sample(pair, NULL, drawn, marks, stream));
  BYTES(marks, two);
  IDS(drawn, ZEROS);

  static const struct {
    float temperature;
    int32_t top_k;
    float top_p, min_p;
    const char *message;
  } WRONG[] = {
      {0, 0, 1, 0, "temperature is 0"},  {NAN, 0, 1, 0, "temperature is NaN"}, {1, -1, 1, 0, "top_k is -1"},
      {1, 3, 1, 0, "top_k is 3"},        {1, 0, 0, 0, "top_p is 0"},           {1, 0, 1.5f, 0, "top_p is 1.5"},
      {1, 0, NAN, 0, "top_p is NaN"},    {1, 0, -1, 0, "top_p is -1"},         {1, 0, 1, -0.5f, "min_p is -0.5"},
      {1, 0, 1, 1.5f, "min_p is 1.5"},   {1, 0, 1, NAN, "min_p is NaN"},
  };
  for (size_t i = 0; i < sizeof WRONG / sizeof WRONG[0]; ++i) {
    OK(sumexp_sample_options_init(&options));
    options.temperature = WRONG[i].temperature, options.top_k = WRONG[i].top_k;
    options.top_p = WRONG[i].top_p, options.min_p = WRONG[i].min_p;
    REFUSED(SUMEXP_OPTION, WRONG[i].message, sumexp_sample(pair, &options, drawn, marks, stream));
  }
  REFUSED(SUMEXP_NULL, "valid is NULL", sumexp_sample(pair, NULL, drawn, NULL, stream));
  REFUSED(SUMEXP_DTYPE, "ids is u8, it must be i64", sumexp_sample(pair, NULL, u8(NULL, 1, 2), marks, stream));
  REFUSED(SUMEXP_SHAPE, "shapes differ", sumexp_sample(pair, NULL, ids, marks, stream));
}

void inference_values(void) {
  argmax();
  confidence();
  sample();
}
