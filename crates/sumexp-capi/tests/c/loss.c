/* Losses and their gradients, with values that are worked out here in double. */
#include "world.h"
#include <math.h>
#include <string.h>

enum { ROWS = 3, CLASSES = 4 };
static const float X[ROWS * CLASSES] = {1, 2, 3, 4, 0, -1, 0.5f, 2, 30, 0, -5, 1};
static const int64_t TARGETS[ROWS] = {3, -100, 0};

/* Losses of the rows, and probabilities minus the one-hot targets. Ignored rows are 0. */
static void reference(double temperature, double *losses, double *gradients, double *sums) {
  for (int row = 0; row < ROWS; ++row) {
    double sum = 0;
    for (int i = 0; i < CLASSES; ++i) sum += exp(X[row * CLASSES + i] / temperature);
    int target = (int)TARGETS[row], counts = target >= 0;
    losses[row] = counts ? log(sum) - X[row * CLASSES + target] / temperature : 0;
    sums[row] = counts ? log(sum) : 0;
    for (int i = 0; i < CLASSES; ++i) {
      double p = exp(X[row * CLASSES + i] / temperature) / sum;
      gradients[row * CLASSES + i] = counts ? (p - (i == target)) / temperature : 0;
    }
  }
}

static void cross_entropy(void) {
  static const int32_t TARGETS_32[ROWS] = {3, -100, 0};
  static const float ONE[1] = {1}, UPSTREAM[ROWS] = {1, 7, -2};
  DLTensor *logits = f32(X, 2, ROWS, CLASSES), *dlogits = f32(NULL, 2, ROWS, CLASSES), *lse = f32(NULL, 1, ROWS);
  double losses[ROWS], gradients[ROWS * CLASSES], sums[ROWS], scaled[ROWS * CLASSES];
  for (int wide = 0; wide < 2; ++wide) {
    DLTensor *targets = wide ? i64(TARGETS, 1, ROWS) : i32(TARGETS_32, 1, ROWS);
    sumexp_cross_entropy_options options;
    OK(sumexp_cross_entropy_options_init(&options));
    options.temperature = wide ? 1.0f : 2.0f;
    reference(options.temperature, losses, gradients, sums);

    options.reduction = 0;
    DLTensor *loss = f32(NULL, 1, ROWS);
    OK(sumexp_cross_entropy(logits, targets, &options, loss, lse, stream));
    NEAR(loss, losses);
    NEAR(lse, sums);
    for (int i = 0; i < ROWS * CLASSES; ++i) scaled[i] = gradients[i] * UPSTREAM[i / CLASSES];
    OK(sumexp_cross_entropy_backward(logits, targets, lse, f32(UPSTREAM, 1, ROWS), &options, dlogits, stream));
    NEAR(dlogits, scaled);

    /* One number is [] or [1]. */
    for (int rank = 0; rank < 2; ++rank) {
      double total = losses[0] + losses[1] + losses[2], mean = total / 2;
      loss = f32(NULL, rank, 1);
      options.reduction = 1;
      OK(sumexp_cross_entropy(logits, targets, &options, loss, NULL, stream));
      NEAR(loss, &total);
      options.reduction = 2;
      OK(sumexp_cross_entropy(logits, targets, &options, loss, NULL, stream));
      NEAR(loss, &mean);
      for (int i = 0; i < ROWS * CLASSES; ++i) scaled[i] = gradients[i] / 2;
      OK(sumexp_cross_entropy_backward(logits, targets, lse, f32(ONE, rank, 1), &options, dlogits, stream));
      NEAR(dlogits, scaled);
    }
  }

  /* Without options: a mean, over the last dim, -100 ignored. */
  DLTensor *loss = f32(NULL, 0), *targets = i64(TARGETS, 1, ROWS);
  double mean;
  reference(1, losses, gradients, sums);
  mean = (losses[0] + losses[2]) / 2;
  OK(sumexp_cross_entropy(logits, targets, NULL, loss, NULL, stream));
  NEAR(loss, &mean);

  /* The gradient at a confident winner is the sum of the others, where an lse in f32 would leave 0 of it. */
  static const float CONFIDENT[2] = {40, 0}, UNIT[1] = {1};
  static const int64_t WINNER[1] = {0};
  DLTensor *x = f32(CONFIDENT, 2, 1, 2), *dx = f32(NULL, 2, 1, 2), *one = f32(UNIT, 0);
  float got[2];
  lse = f32(NULL, 1, 1);
  OK(sumexp_cross_entropy(x, i64(WINNER, 1, 1), NULL, loss, lse, stream));
  OK(sumexp_cross_entropy_backward(x, i64(WINNER, 1, 1), lse, one, NULL, dx, stream));
  fetch(dx, got);
  HOLDS(fabs(got[0] / -exp(-40) - 1) < 1e-6 && fabs(got[1] / exp(-40) - 1) < 1e-6);

  /* Classes along another dim than the last: [classes, rows]. */
  float turned[ROWS * CLASSES];
  for (int i = 0; i < ROWS * CLASSES; ++i) turned[i % CLASSES * ROWS + i / CLASSES] = X[i];
  sumexp_cross_entropy_options options;
  OK(sumexp_cross_entropy_options_init(&options));
  options.dim = 0;
  OK(sumexp_cross_entropy(f32(turned, 2, CLASSES, ROWS), targets, &options, loss, NULL, stream));
  NEAR(loss, &mean);
}

/* Class weights and z-loss, apart and together. */
static void weighted(void) {
  static const float WEIGHTS[CLASSES] = {0.5f, 1, 1, 2}, UPSTREAM[ROWS] = {1, 7, -2}, Z = 0.125f;
  DLTensor *logits = f32(X, 2, ROWS, CLASSES), *targets = i64(TARGETS, 1, ROWS), *weights = f32(WEIGHTS, 1, CLASSES);
  DLTensor *loss = f32(NULL, 1, ROWS), *lse = f32(NULL, 1, ROWS), *mean = f32(NULL, 0), *dlogits = f32(NULL, 2, ROWS, CLASSES);
  double losses[ROWS], gradients[ROWS * CLASSES], sums[ROWS], want[ROWS], slopes[ROWS * CLASSES], total = 0;
  for (int zed = 0; zed < 2; ++zed) {
    sumexp_cross_entropy_options options;
    OK(sumexp_cross_entropy_options_init(&options));
    options.class_weights = weights;
    options.z_loss = zed ? Z : 0;
    reference(1, losses, gradients, sums);
    total = 0;
    for (int row = 0; row < ROWS; ++row) {
      double weight = TARGETS[row] < 0 ? 0 : WEIGHTS[TARGETS[row]];
      want[row] = weight * losses[row] + options.z_loss * sums[row] * sums[row];
      total += want[row];
      for (int i = 0; i < CLASSES; ++i) {
        double p = exp(X[row * CLASSES + i] - sums[row]);
        slopes[row * CLASSES + i] = weight * gradients[row * CLASSES + i] + 2 * options.z_loss * sums[row] * p;
        slopes[row * CLASSES + i] *= UPSTREAM[row];
      }
    }
    options.reduction = 0;
    OK(sumexp_cross_entropy(logits, targets, &options, loss, lse, stream));
    NEAR(loss, want);
    OK(sumexp_cross_entropy_backward(logits, targets, lse, f32(UPSTREAM, 1, ROWS), &options, dlogits, stream));
    NEAR(dlogits, slopes);
    options.reduction = 2;
    total /= WEIGHTS[TARGETS[0]] + WEIGHTS[TARGETS[2]];
    OK(sumexp_cross_entropy(logits, targets, &options, mean, NULL, stream));
    NEAR(mean, &total);
  }
}

/* A target that is no class: an error of the call on the host, and of the next look on a GPU. */
static void bad_target(void) {
  static const int64_t BAD[ROWS] = {3, 77, -5};
  DLTensor *logits = f32(X, 2, ROWS, CLASSES), *targets = i64(BAD, 1, ROWS), *loss = f32(NULL, 1, ROWS);
  sumexp_cross_entropy_options options;
  OK(sumexp_cross_entropy_options_init(&options));
  options.reduction = 0;
  if (device.device_type == kDLCPU) {
    REFUSED(SUMEXP_TARGET, "cross_entropy: target 77 in row 1", sumexp_cross_entropy(logits, targets, &options, loss, NULL, stream));
    OK(sumexp_check(device, NULL));
    return;
  }
  float got[ROWS];
  OK(sumexp_cross_entropy(logits, targets, &options, loss, NULL, stream));
  REFUSED(SUMEXP_TARGET, "cross_entropy: target 77 in row 1", sumexp_check(device, stream));
  fetch(loss, got);
  HOLDS(!isnan(got[0]) && isnan(got[1]) && isnan(got[2]));
  /* A record is given once, and the device goes on. */
  OK(sumexp_check(device, stream));
  OK(sumexp_cross_entropy(logits, i64(TARGETS, 1, ROWS), &options, loss, NULL, stream));
  OK(sumexp_check(device, stream));
}

/* Calls in a graph of the caller, on a stream that the library does not know. */
static void captured(void) {
  static const int64_t BAD[ROWS] = {3, -100, 77};
  if (device.device_type == kDLCPU) return;
  DLTensor *logits = f32(X, 2, ROWS, CLASSES), *targets = i64(BAD, 1, ROWS), *loss = f32(NULL, 1, ROWS);
  sumexp_cross_entropy_options options;
  OK(sumexp_cross_entropy_options_init(&options));
  options.reduction = 0;
  OK(sumexp_forget_stream(device, stream));
  begin_capture();
  REFUSED(SUMEXP_CAPTURE, "the first operation that may meet bad data is refused",
          sumexp_cross_entropy(logits, targets, &options, loss, NULL, stream));
  end_capture();
  OK(sumexp_check(device, stream));
  begin_capture();
  OK(sumexp_cross_entropy(logits, targets, &options, loss, NULL, stream));
  end_capture();
  OK(sumexp_check(device, stream));
  for (int launch = 0; launch < 3; ++launch) {
    float got[ROWS];
    launch_captured();
    REFUSED(SUMEXP_TARGET, "cross_entropy: target 77 in row 2", sumexp_check(device, stream));
    fetch(loss, got);
    HOLDS(fabs(got[0] - 0.4401897) < 1e-6 && got[1] == 0 && isnan(got[2]));
  }
}

static void binary(void) {
  static const float LOGITS[4] = {0, 40, -INFINITY, 3}, EVENTS[4] = {0.5f, 1, 0, 0}, WEIGHT[2] = {2, 1}, RARE[1] = {3};
  static const float UPSTREAM[4] = {1, 1, 1, 2}, ONE[1] = {1};
  DLTensor *x = f32(LOGITS, 2, 2, 2), *t = f32(EVENTS, 2, 2, 2), *w = f32(WEIGHT, 1, 2), *p = f32(RARE, 1, 1);
  DLTensor *loss = f32(NULL, 2, 2, 2), *dx = f32(NULL, 2, 2, 2);
  double losses[4], slopes[4], sum = 0;
  for (int i = 0; i < 4; ++i) {
    double z = LOGITS[i], e = EVENTS[i], weight = WEIGHT[i % 2];
    double happens = z > 0 ? log1p(exp(-z)) : -z + log1p(exp(z)), not_so = z > 0 ? z + log1p(exp(-z)) : log1p(exp(z));
    losses[i] = weight * ((e == 0 ? 0 : e * 3 * happens) + (e == 1 ? 0 : (1 - e) * not_so));
    slopes[i] = weight * ((1 - e) / (1 + exp(-z)) - e * 3 / (1 + exp(z)));
    sum += losses[i];
  }
  OK(sumexp_bce_with_logits(x, t, w, p, 0, loss, stream));
  NEAR(loss, losses);
  OK(sumexp_bce_with_logits(x, t, w, p, 1, f32(NULL, 1, 1), stream));
  DLTensor *total = f32(NULL, 0);
  OK(sumexp_bce_with_logits(x, t, w, p, 1, total, stream));
  NEAR(total, &sum);
  sum /= 4;
  OK(sumexp_bce_with_logits(x, t, w, p, 2, total, stream));
  NEAR(total, &sum);
  double plain = (log(2) + log1p(exp(-40)) + 0 + 3 + log1p(exp(-3))) / 4;
  OK(sumexp_bce_with_logits(x, t, NULL, NULL, 2, total, stream));
  NEAR(total, &plain);

  double want[4];
  for (int i = 0; i < 4; ++i) want[i] = slopes[i] * UPSTREAM[i];
  OK(sumexp_bce_with_logits_backward(x, t, w, p, 0, f32(UPSTREAM, 2, 2, 2), dx, stream));
  NEAR(dx, want);
  for (int i = 0; i < 4; ++i) want[i] = slopes[i] / 4;
  OK(sumexp_bce_with_logits_backward(x, t, w, p, 2, f32(ONE, 1, 1), dx, stream));
  NEAR(dx, want);
}

static void distillation(void) {
  DLTensor *x = f32(X, 2, ROWS, CLASSES), *loss = f32(NULL, 0);
  REFUSED(SUMEXP_UNSUPPORTED, "distillation", sumexp_distillation(x, x, -1, 1, 0, 2, loss, stream));
  REFUSED(SUMEXP_UNSUPPORTED, "distillation_backward", sumexp_distillation_backward(x, x, -1, 1, 0, 2, loss, x, stream));
}

void loss_values(void) {
  cross_entropy();
  weighted();
  bad_target();
  captured();
  binary();
  distillation();
}
