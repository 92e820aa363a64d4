/* sumexp in a program that uses the CUDA driver itself: its context, its stream, its memory.
 *
 *   cc driver.c -I"$CUDA_HOME/include" $(pkg-config --cflags --libs sumexp) -lcuda -o driver
 *
 * or, without a shared library of sumexp beside the program: -l:libsumexp.a -lpthread -ldl -lm instead of -lsumexp.
 */
#include <cuda.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sumexp.h>

enum { ROWS = 4, CLASSES = 1000 };

static void driver(const char *call, CUresult result) {
  const char *text = NULL;
  if (result == CUDA_SUCCESS) return;
  cuGetErrorString(result, &text);
  fprintf(stderr, "%s: %s\n", call, text ? text : "unknown");
  exit(1);
}
#define DRIVER(call) driver(#call, call)

static void sumexp(int32_t status) {
  if (status == SUMEXP_OK) return;
  fprintf(stderr, "%s\n", sumexp_last_error());
  exit(1);
}

/* A tensor of this program's memory on GPU 0: sumexp reads the description during the call, and the memory when the stream gets
 * there. */
static DLTensor tensor(CUdeviceptr data, uint8_t code, uint8_t bits, int32_t ndim, int64_t *shape) {
  DLTensor tensor = {(void *)(uintptr_t)data, {kDLCUDA, 0}, ndim, {code, bits, 1}, shape, NULL, 0};
  return tensor;
}

int main(void) {
  CUdevice device;
  CUcontext context;
  CUstream stream;
  DRIVER(cuInit(0));
  DRIVER(cuDeviceGet(&device, 0));
  DRIVER(cuDevicePrimaryCtxRetain(&context, device));
  DRIVER(cuCtxSetCurrent(context));
  DRIVER(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));

  static float logits[ROWS * CLASSES], gradients[ROWS * CLASSES];
  int64_t targets[ROWS] = {7, 0, -100, 999};
  float loss = 0, one = 1;
  for (int row = 0; row < ROWS; ++row)
    for (int i = 0; i < CLASSES; ++i) logits[row * CLASSES + i] = i == 7 ? 3.0f : 0.0f;

  CUdeviceptr x, t, lse, total, upstream, dx;
  DRIVER(cuMemAllocAsync(&x, sizeof logits, stream));
  DRIVER(cuMemAllocAsync(&t, sizeof targets, stream));
  DRIVER(cuMemAllocAsync(&lse, ROWS * sizeof(float), stream));
  DRIVER(cuMemAllocAsync(&total, sizeof loss, stream));
  DRIVER(cuMemAllocAsync(&upstream, sizeof one, stream));
  DRIVER(cuMemAllocAsync(&dx, sizeof gradients, stream));
  DRIVER(cuMemcpyHtoDAsync(x, logits, sizeof logits, stream));
  DRIVER(cuMemcpyHtoDAsync(t, targets, sizeof targets, stream));
  DRIVER(cuMemcpyHtoDAsync(upstream, &one, sizeof one, stream));

  int64_t matrix[] = {ROWS, CLASSES}, rows[] = {ROWS};
  DLTensor logits_there = tensor(x, kDLFloat, 32, 2, matrix), targets_there = tensor(t, kDLInt, 64, 1, rows);
  DLTensor lse_there = tensor(lse, kDLFloat, 32, 1, rows), loss_there = tensor(total, kDLFloat, 32, 0, NULL);
  DLTensor upstream_there = tensor(upstream, kDLFloat, 32, 0, NULL), dx_there = tensor(dx, kDLFloat, 32, 2, matrix);
  sumexp_cross_entropy_options options;
  sumexp(sumexp_cross_entropy_options_init(&options));
  sumexp(sumexp_cross_entropy(&logits_there, &targets_there, &options, &loss_there, &lse_there, stream));
  sumexp(sumexp_cross_entropy_backward(&logits_there, &targets_there, &lse_there, &upstream_there, &options, &dx_there, stream));

  DRIVER(cuMemcpyDtoHAsync(&loss, total, sizeof loss, stream));
  DRIVER(cuMemcpyDtoHAsync(gradients, dx, sizeof gradients, stream));
  /* Waits, and tells of a target that is no class. */
  sumexp(sumexp_check(logits_there.device, stream));

  double others = CLASSES - 1, lse_wanted = log(exp(3.0) + others);
  printf("loss %.6f, by hand %.6f\n", loss, ((lse_wanted - 3.0) + 2 * lse_wanted) / 3);
  printf("gradient %.6f, by hand %.6f\n", gradients[7], (exp(3.0 - lse_wanted) - 1) / 3);

  CUdeviceptr all[] = {x, t, lse, total, upstream, dx};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) DRIVER(cuMemFreeAsync(all[i], stream));
  DRIVER(cuStreamSynchronize(stream));
  sumexp(sumexp_forget_stream(logits_there.device, stream));
  DRIVER(cuStreamDestroy(stream));
  DRIVER(cuDevicePrimaryCtxRelease(device));
  return 0;
}
