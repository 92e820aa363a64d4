// What candle's CUDA backend links with and this machine need not have: cuBLAS, cuBLASLt, cuRAND, nvrtc and the CUDA runtime, in
// one library under all their names. A candle device holds a handle of cuBLAS and one of cuRAND, so that handles can be made and
// given back here. Whatever would compute ends the process: no test can mistake this for the libraries.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct { int unused; } Handle;

static int create(Handle **handle) {
  *handle = malloc(sizeof(Handle));
  return *handle ? 0 : 3;
}

static int destroy(Handle *handle) {
  free(handle);
  return 0;
}

int cublasCreate_v2(Handle **handle) { return create(handle); }
int cublasDestroy_v2(Handle *handle) { return destroy(handle); }
int cublasSetStream_v2(Handle *handle, void *stream) { return (void)handle, (void)stream, 0; }

int curandCreateGenerator(Handle **generator, int kind) { return (void)kind, create(generator); }
int curandDestroyGenerator(Handle *generator) { return destroy(generator); }
int curandSetStream(Handle *generator, void *stream) { return (void)generator, (void)stream, 0; }
int curandSetPseudoRandomGeneratorSeed(Handle *generator, unsigned long long seed) { return (void)generator, (void)seed, 0; }

#define REFUSED(name)                                                                                             \
  int name(void) {                                                                                                \
    fputs("sumexp-candle's stand-in for the CUDA libraries was asked to compute: " #name "\n", stderr);           \
    abort();                                                                                                      \
  }

REFUSED(cublasDgemmStridedBatched)
REFUSED(cublasGemmStridedBatchedEx)
