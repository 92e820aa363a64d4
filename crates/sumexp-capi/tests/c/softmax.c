/* The softmax family, with values that are worked out here in double. */
#include "world.h"
#include <math.h>

/* Two rows: an ordinary one, and one with a hidden class. */
static const float X[6] = {1, 2, 3, 0, -INFINITY, 0.5f};

/* Probabilities of one row, its elements `step` apart, over the classes that `keep` keeps. */
static void probabilities(const float *x, int length, int step, double temperature, const uint8_t *keep, double *y) {
  double sum = 0;
  for (int i = 0; i < length; ++i) sum += y[i * step] = keep != NULL && !keep[i] ? 0 : exp(x[i * step] / temperature);
  for (int i = 0; i < length; ++i) y[i * step] = sum == 0 ? 0 : y[i * step] / sum;
}

static void forward(void) {
  static const uint8_t KEEP[3] = {1, 1, 0};
  DLTensor *x = f32(X, 2, 2, 3), *y = f32(NULL, 2, 2, 3), *lse = f32(NULL, 1, 2);
  double p[6], log_p[6], sums[2];
  for (int masked = 0; masked < 3; ++masked) {
    for (int step = 0; step < 2; ++step) {
      double temperature = step == 0 ? 1 : 0.5;
      const uint8_t *keep = masked == 0 ? NULL : KEEP;
      DLTensor *mask = masked == 0 ? NULL : masked == 1 ? u8(KEEP, 1, 3) : boolean(KEEP, 2, 1, 3);
      for (int row = 0; row < 2; ++row) {
        probabilities(X + 3 * row, 3, 1, temperature, keep, p + 3 * row);
        sums[row] = 0;
        for (int i = 0; i < 3; ++i) {
          log_p[3 * row + i] = log(p[3 * row + i]);
          if (keep == NULL || keep[i]) sums[row] += exp(X[3 * row + i] / temperature);
        }
        sums[row] = log(sums[row]);
      }
      OK(sumexp_softmax(x, -1, (float)temperature, mask, y, stream));
      NEAR(y, p);
      OK(sumexp_softmax(x, 1, (float)temperature, mask, y, stream));
      NEAR(y, p);
      OK(sumexp_log_softmax(x, 1, (float)temperature, mask, y, stream));
      NEAR(y, log_p);
      OK(sumexp_logsumexp(x, -1, (float)temperature, mask, lse, stream));
      NEAR(lse, sums);
    }
  }
  for (int column = 0; column < 3; ++column) probabilities(X + column, 2, 3, 1, NULL, p + column);
  OK(sumexp_softmax(x, 0, 1, NULL, y, stream));
  NEAR(y, p);
  OK(sumexp_softmax(x, -2, 1, NULL, y, stream));
  NEAR(y, p);
}

static void backward(void) {
  static const float DY[6] = {1, 0, -2, 3, 5, 0.25f}, DLSE[2] = {2, -1};
  static const double T = 0.5;
  DLTensor *x = f32(X, 2, 2, 3), *y = f32(NULL, 2, 2, 3), *dy = f32(DY, 2, 2, 3), *dx = f32(NULL, 2, 2, 3);
  DLTensor *lse = f32(NULL, 1, 2), *dlse = f32(DLSE, 1, 2);
  double p[6], linear[6], logs[6], sums[6];
  for (int row = 0; row < 2; ++row) {
    double *q = p + 3 * row, dot = 0, sum = 0;
    probabilities(X + 3 * row, 3, 1, T, NULL, q);
    for (int i = 0; i < 3; ++i) {
      dot += q[i] * DY[3 * row + i];
      /* The gradient of a hidden logarithm counts for nothing. */
      sum += q[i] == 0 ? 0 : DY[3 * row + i];
    }
    for (int i = 0; i < 3; ++i) {
      linear[3 * row + i] = q[i] * (DY[3 * row + i] - dot) / T;
      logs[3 * row + i] = q[i] == 0 ? 0 : (DY[3 * row + i] - q[i] * sum) / T;
      sums[3 * row + i] = q[i] * DLSE[row] / T;
    }
  }
  OK(sumexp_softmax(x, -1, (float)T, NULL, y, stream));
  OK(sumexp_softmax_backward(y, dy, -1, (float)T, dx, stream));
  NEAR(dx, linear);
  OK(sumexp_log_softmax(x, -1, (float)T, NULL, y, stream));
  OK(sumexp_log_softmax_backward(y, dy, -1, (float)T, dx, stream));
  NEAR(dx, logs);
  OK(sumexp_logsumexp(x, -1, (float)T, NULL, lse, stream));
  OK(sumexp_logsumexp_backward(x, lse, dlse, -1, (float)T, NULL, dx, stream));
  NEAR(dx, sums);
}

/* Halves are exact in every type. */
static void half_types(void) {
  static const uint16_t ZEROS[4] = {0, 0, 0, 0};
  static const uint16_t HALF_F16[4] = {0x3800, 0x3800, 0x3800, 0x3800}, HALF_BF16[4] = {0x3F00, 0x3F00, 0x3F00, 0x3F00};
  DLTensor *y = f16(NULL, 2, 2, 2);
  OK(sumexp_softmax(f16(ZEROS, 2, 2, 2), -1, 1, NULL, y, stream));
  BITS(y, HALF_F16);
  y = bf16(NULL, 2, 2, 2);
  OK(sumexp_softmax(bf16(ZEROS, 2, 2, 2), -1, 1, NULL, y, stream));
  BITS(y, HALF_BF16);
}

void softmax_values(void) {
  forward();
  backward();
  half_types();
}
