/* Bad input, one kind after the other: code, message, and that nothing was written. */
#include "world.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const float X[6] = {1, 2, 3, 4, 5, 6};
static DLTensor *x, *y;

static int32_t softmax_of(const DLTensor *bad) { return sumexp_softmax(bad, -1, 1, NULL, y, stream); }

static void tensors(void) {
  REFUSED(SUMEXP_NULL, "softmax: x is NULL", sumexp_softmax(NULL, -1, 1, NULL, y, stream));
  REFUSED(SUMEXP_NULL, "softmax: y is NULL", sumexp_softmax(x, -1, 1, NULL, NULL, stream));
  DLTensor bad = *x;
  bad.data = NULL;
  REFUSED(SUMEXP_NULL, "x has shape [2, 3] and data that are NULL", softmax_of(&bad));
  bad = *x, bad.shape = NULL;
  REFUSED(SUMEXP_NULL, "x has 2 dims and a shape that is NULL", softmax_of(&bad));

  bad = *x, bad.dtype.lanes = 2;
  REFUSED(SUMEXP_DTYPE, "x has 2 lanes", softmax_of(&bad));
  bad = *x, bad.dtype.lanes = 0;
  REFUSED(SUMEXP_DTYPE, "x has 0 lanes", softmax_of(&bad));
  bad = *x, bad.dtype.code = 99;
  REFUSED(SUMEXP_DTYPE, "x has type code 99 with 32 bits", softmax_of(&bad));
  bad = *x, bad.dtype.bits = 64;
  REFUSED(SUMEXP_DTYPE, "x has type code 2 with 64 bits", softmax_of(&bad));
  bad = *x, bad.dtype.code = kDLInt;
  REFUSED(SUMEXP_DTYPE, "x is i32, it must be f16, bf16 or f32", softmax_of(&bad));
  REFUSED(SUMEXP_DTYPE, "y is f16, it must be f32", sumexp_softmax(x, -1, 1, NULL, f16(NULL, 2, 2, 3), stream));
  REFUSED(SUMEXP_DTYPE, "keep is f32, it must be u8", sumexp_softmax(x, -1, 1, x, y, stream));

  bad = *x, bad.device.device_type = (DLDeviceType)4;
  REFUSED(SUMEXP_DEVICE, "x has device type 4", softmax_of(&bad));
  bad = *x, bad.device.device_type = kDLCUDAHost;
  REFUSED(SUMEXP_DEVICE, "pass it as kDLCPU", softmax_of(&bad));
  bad = *x, bad.device.device_type = kDLCUDA, bad.device.device_id = -1;
  REFUSED(SUMEXP_DEVICE, "x is on GPU -1", softmax_of(&bad));
  bad = *y, bad.device.device_type = device.device_type == kDLCPU ? kDLCUDA : kDLCPU;
  REFUSED(SUMEXP_DEVICE, "while x is on", sumexp_softmax(x, -1, 1, NULL, &bad, stream));
  DLDevice nowhere = device;
  nowhere.device_type = (DLDeviceType)0;
  REFUSED(SUMEXP_DEVICE, "has device type 0", sumexp_check(nowhere, stream));
  REFUSED(SUMEXP_DEVICE, "has device type 0", sumexp_forget_stream(nowhere, stream));

  bad = *x, bad.ndim = -1;
  REFUSED(SUMEXP_SHAPE, "x has ndim -1", softmax_of(&bad));
  bad = *x, bad.ndim = 9;
  REFUSED(SUMEXP_SHAPE, "x has ndim 9", softmax_of(&bad));
  int64_t lengths[3] = {2, -3, 1}, strides[3] = {3, 1, 1};
  bad = *x, bad.shape = lengths;
  REFUSED(SUMEXP_SHAPE, "x has shape [2, -3]: a length is negative", softmax_of(&bad));
  lengths[0] = lengths[1] = (int64_t)1 << 32;
  REFUSED(SUMEXP_SHAPE, "needs more than", softmax_of(&bad));
  lengths[0] = 0, lengths[1] = INT64_MAX, bad.ndim = 3, lengths[2] = INT64_MAX;
  REFUSED(SUMEXP_SHAPE, "needs more than", softmax_of(&bad));
  bad = *x, bad.strides = strides, strides[0] = -3;
  REFUSED(SUMEXP_STRIDES, "a stride is negative", softmax_of(&bad));
  strides[0] = INT64_MAX;
  REFUSED(SUMEXP_STRIDES, "they span more than", softmax_of(&bad));
  lengths[0] = lengths[1] = 3, bad.shape = lengths, strides[1] = INT64_MAX;
  REFUSED(SUMEXP_STRIDES, "further than 2^64 elements", softmax_of(&bad));
  bad = *x, bad.byte_offset = UINT64_MAX - 3;
  REFUSED(SUMEXP_SHAPE, "no memory lies there", softmax_of(&bad));
  bad = *x, bad.byte_offset = 2;
  REFUSED(SUMEXP_ALIGNMENT, "which is not a multiple of 4, the size of a f32", softmax_of(&bad));
  bad = *y, bad.data = (char *)bad.data + 1;
  REFUSED(SUMEXP_ALIGNMENT, "y starts at", sumexp_softmax(x, -1, 1, NULL, &bad, stream));
}

static void operands(void) {
  static const uint8_t KEEP[4] = {1, 1, 1, 1};
  REFUSED(SUMEXP_DIM, "softmax: dim 2 is out of range for x of shape [2, 3]", sumexp_softmax(x, 2, 1, NULL, y, stream));
  REFUSED(SUMEXP_DIM, "dim -3 is out of range", sumexp_softmax(x, -3, 1, NULL, y, stream));
  REFUSED(SUMEXP_DIM, "dim -2147483648 is out of range", sumexp_softmax(x, INT32_MIN, 1, NULL, y, stream));
  REFUSED(SUMEXP_DIM, "dim 2147483647 is out of range", sumexp_softmax(x, INT32_MAX, 1, NULL, y, stream));
  REFUSED(SUMEXP_DIM, "dim 0 is out of range for x of shape []", sumexp_softmax(f32(X, 0), 0, 1, NULL, y, stream));
  static const float TEMPERATURES[5] = {0, -1, NAN, INFINITY, -INFINITY};
  for (int i = 0; i < 5; ++i) REFUSED(SUMEXP_OPTION, "temperature", sumexp_softmax(x, -1, TEMPERATURES[i], NULL, y, stream));
  REFUSED(SUMEXP_SHAPE, "does not broadcast", sumexp_softmax(x, -1, 1, u8(KEEP, 1, 4), y, stream));
  REFUSED(SUMEXP_SHAPE, "shapes differ", sumexp_softmax(x, -1, 1, NULL, f32(NULL, 2, 3, 2), stream));
  REFUSED(SUMEXP_SHAPE, "shapes differ", sumexp_logsumexp(x, -1, 1, NULL, f32(NULL, 1, 3), stream));
  REFUSED(SUMEXP_SHAPE, "lse has shape [3], it must be [2]",
          sumexp_logsumexp_backward(x, f32(X, 1, 3), f32(X, 1, 2), -1, 1, NULL, y, stream));
  REFUSED(SUMEXP_STRIDES, "must be contiguous", sumexp_softmax(x, -1, 1, NULL, strided(y, 0, 2, 2, 1, 3, 2), stream));
  REFUSED(SUMEXP_OVERLAP, "overlaps x", sumexp_softmax(x, -1, 1, NULL, x, stream));
  REFUSED(SUMEXP_OVERLAP, "overlaps", sumexp_softmax_backward(x, y, -1, 1, y, stream));
  DLTensor *pair = f32(X, 1, 12);
  REFUSED(SUMEXP_OVERLAP, "overlaps x",
          sumexp_softmax(strided(pair, 0, 2, 2, 3, 3, 1), -1, 1, NULL, strided(pair, 20, 2, 2, 3, 3, 1), stream));
  /* Side by side is apart. */
  OK(sumexp_softmax(strided(pair, 0, 2, 2, 3, 3, 1), -1, 1, NULL, strided(pair, 24, 2, 2, 3, 3, 1), stream));
}

static void losses(void) {
  static const int64_t TARGETS[2] = {0, 1};
  DLTensor *targets = i64(TARGETS, 1, 2), *loss = f32(NULL, 1, 2), *lse = f32(NULL, 1, 2), *one = f32(X, 0);
  sumexp_cross_entropy_options options;
  REFUSED(SUMEXP_NULL, "options is NULL", sumexp_cross_entropy_options_init(NULL));
  REFUSED(SUMEXP_NULL, "options is NULL", sumexp_sample_options_init(NULL));
  REFUSED(SUMEXP_NULL, "options is NULL", sumexp_attention_options_init(NULL));
  OK(sumexp_cross_entropy_options_init(&options));
  HOLDS(options.size == sizeof options);
  options.reduction = 0;
  REFUSED(SUMEXP_NULL, "targets is NULL", sumexp_cross_entropy(x, NULL, &options, loss, lse, stream));
  REFUSED(SUMEXP_NULL, "loss is NULL", sumexp_cross_entropy(x, targets, &options, NULL, lse, stream));
  REFUSED(SUMEXP_NULL, "lse is NULL", sumexp_cross_entropy_backward(x, targets, NULL, loss, &options, y, stream));
  REFUSED(SUMEXP_NULL, "dloss is NULL", sumexp_cross_entropy_backward(x, targets, lse, NULL, &options, y, stream));
  REFUSED(SUMEXP_DTYPE, "targets", sumexp_cross_entropy(x, u8(NULL, 1, 2), &options, loss, lse, stream));
  REFUSED(SUMEXP_SHAPE, "targets has shape [3], it must be [2]", sumexp_cross_entropy(x, i64(NULL, 1, 3), &options, loss, lse, stream));
  REFUSED(SUMEXP_SHAPE, "shapes differ", sumexp_cross_entropy(x, targets, &options, f32(NULL, 0), lse, stream));
  REFUSED(SUMEXP_SHAPE, "lse has shape [3]", sumexp_cross_entropy_backward(x, targets, f32(X, 1, 3), loss, &options, y, stream));
  REFUSED(SUMEXP_SHAPE, "no classes", sumexp_cross_entropy(f32(NULL, 2, 2, 0), targets, &options, loss, lse, stream));
  REFUSED(SUMEXP_OVERLAP, "loss overlaps lse", sumexp_cross_entropy(x, targets, &options, loss, loss, stream));
  REFUSED(SUMEXP_OVERLAP, "overlaps", sumexp_cross_entropy_backward(x, targets, lse, loss, &options, x, stream));
  options.reduction = 3;
  REFUSED(SUMEXP_OPTION, "reduction is 3", sumexp_cross_entropy(x, targets, &options, loss, lse, stream));
  options.reduction = 0, options.dim = 2;
  REFUSED(SUMEXP_DIM, "dim 2 is out of range for logits", sumexp_cross_entropy(x, targets, &options, loss, lse, stream));
  options.dim = -1, options.temperature = NAN;
  REFUSED(SUMEXP_OPTION, "temperature is NaN", sumexp_cross_entropy(x, targets, &options, loss, lse, stream));
  options.temperature = 1, options.z_loss = NAN;
  REFUSED(SUMEXP_OPTION, "z_loss is NaN", sumexp_cross_entropy(x, targets, &options, loss, lse, stream));
  options.z_loss = -1;
  REFUSED(SUMEXP_OPTION, "z_loss is -1", sumexp_cross_entropy(x, targets, &options, loss, lse, stream));
  options.z_loss = 0, options.class_weights = f32(X, 1, 2);
  REFUSED(SUMEXP_SHAPE, "class_weights", sumexp_cross_entropy(x, targets, &options, loss, lse, stream));
  options.class_weights = f16(NULL, 1, 3);
  REFUSED(SUMEXP_DTYPE, "class_weights is f16, it must be f32", sumexp_cross_entropy(x, targets, &options, loss, lse, stream));
  DLTensor *held = f32(X, 1, 3);
  options.class_weights = held;
  REFUSED(SUMEXP_OVERLAP, "overlaps", sumexp_cross_entropy(x, targets, &options, loss, strided(held, 0, 1, 2, 1), stream));

  REFUSED(SUMEXP_OPTION, "reduction is -1", sumexp_bce_with_logits(x, x, NULL, NULL, -1, loss, stream));
  REFUSED(SUMEXP_SHAPE, "shapes differ", sumexp_bce_with_logits(x, f32(X, 2, 3, 2), NULL, NULL, 1, one, stream));
  REFUSED(SUMEXP_SHAPE, "weight of shape [2] does not broadcast", sumexp_bce_with_logits(x, x, f32(X, 1, 2), NULL, 1, one, stream));
  REFUSED(SUMEXP_DTYPE, "target is f16", sumexp_bce_with_logits(x, f16(NULL, 2, 2, 3), NULL, NULL, 1, one, stream));
  REFUSED(SUMEXP_OVERLAP, "overlaps", sumexp_bce_with_logits_backward(x, x, NULL, NULL, 1, one, x, stream));
  REFUSED(SUMEXP_DTYPE, "index is f32, it must be i64", sumexp_argmax(x, -1, loss, stream));
  REFUSED(SUMEXP_SHAPE, "no classes", sumexp_argmax(f32(NULL, 2, 2, 0), -1, i64(NULL, 1, 2), stream));
}

/* Structs of other versions of this interface. */
static void sizes(void) {
  static const int64_t TARGETS[2] = {0, 2};
  DLTensor *targets = i64(TARGETS, 1, 2), *loss = f32(NULL, 0), *same = f32(NULL, 0);
  struct {
    sumexp_cross_entropy_options known;
    uint64_t later[4];
  } options;
  double want[1];
  float got;
  memset(&options, 0, sizeof options);
  OK(sumexp_cross_entropy_options_init(&options.known));
  OK(sumexp_cross_entropy(x, targets, &options.known, loss, NULL, stream));
  fetch(loss, &got);
  want[0] = got;
  /* A later version with nothing new set, and with something. */
  options.known.size = sizeof options;
  OK(sumexp_cross_entropy(x, targets, &options.known, same, NULL, stream));
  NEAR(same, want);
  options.later[2] = 1;
  REFUSED(SUMEXP_OPTION, "this version of the library knows", sumexp_cross_entropy(x, targets, &options.known, same, NULL, stream));
  /* An earlier version that ends behind `reduction`, or in the middle of it: the rest has its defaults, whatever stands there. */
  memset((char *)&options.known + 12, 0xFF, sizeof options - 12);
  options.known.size = 12, options.known.reduction = 1;
  OK(sumexp_cross_entropy(x, targets, &options.known, same, NULL, stream));
  want[0] *= 2;
  NEAR(same, want);
  want[0] /= 2;
  options.known.size = 10;
  OK(sumexp_cross_entropy(x, targets, &options.known, same, NULL, stream));
  NEAR(same, want);
  options.known.size = 4;
  OK(sumexp_cross_entropy(x, targets, &options.known, same, NULL, stream));
  NEAR(same, want);
  static const uint32_t NO_SIZES[5] = {0, 1, 3, 4097, UINT32_MAX};
  for (int i = 0; i < 5; ++i) {
    options.known.size = NO_SIZES[i];
    REFUSED(SUMEXP_OPTION, "call the _init function first", sumexp_cross_entropy(x, targets, &options.known, same, NULL, stream));
  }
}

static void streams(void) {
  if (device.device_type == kDLCPU) return;
  REFUSED(SUMEXP_DEVICE, "per-thread default stream", sumexp_softmax(x, -1, 1, NULL, y, (void *)2));
  DLTensor elsewhere = *x, there = *y;
  elsewhere.device.device_id = there.device.device_id = 99;
  REFUSED(SUMEXP_DEVICE, "there is no GPU 99", sumexp_softmax(&elsewhere, -1, 1, NULL, &there, stream));
  REFUSED(SUMEXP_DEVICE, "there is no GPU 99", sumexp_check(there.device, stream));
}

void refusals(void) {
  uint8_t before[24], after[24];
  x = f32(X, 2, 2, 3), y = f32(NULL, 2, 2, 3);
  fetch(y, before);
  tensors();
  operands();
  losses();
  streams();
  fetch(y, after);
  HOLDS(memcmp(before, after, sizeof before) == 0);
  sizes();
  /* A call that goes well leaves the message of the last one that did not. */
  REFUSED(SUMEXP_NULL, "softmax: x is NULL", sumexp_softmax(NULL, -1, 1, NULL, y, stream));
  OK(sumexp_softmax(x, -1, 1, NULL, y, stream));
  HOLDS(strcmp(sumexp_last_error(), "softmax: x is NULL") == 0);
}
