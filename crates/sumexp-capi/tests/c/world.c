/* Tensors on the host or on a GPU, and checks. */
#include "world.h"
#include <dlfcn.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

DLDevice device;
void *stream;
int failures;

typedef unsigned long long Address;
typedef int Result;
static struct {
  Result (*init)(unsigned);
  Result (*device_get)(int *, int);
  Result (*retain)(void **, int);
  Result (*release)(int);
  Result (*set_current)(void *);
  Result (*stream_create)(void **, unsigned);
  Result (*stream_synchronize)(void *);
  Result (*stream_destroy)(void *);
  Result (*alloc)(Address *, size_t);
  Result (*free)(Address);
  Result (*upload)(Address, const void *, size_t);
  Result (*download)(void *, Address, size_t);
  Result (*begin_capture)(void *, int);
  Result (*end_capture)(void *, void **);
  Result (*instantiate)(void **, void *, unsigned long long);
  Result (*launch)(void *, void *);
  Result (*graph_destroy)(void *);
  Result (*exec_destroy)(void *);
} cuda;
static void *captured;

/* A tensor with its dims and strides. */
typedef struct Cell {
  DLTensor tensor;
  int64_t shape[8];
  int64_t strides[8];
  void *memory; /* NULL: another cell's */
  struct Cell *next;
} Cell;
static Cell *cells;

static void must(const char *what, int holds) {
  if (!holds) {
    fprintf(stderr, "the test itself failed: %s\n", what);
    exit(2);
  }
}

static void find(void *library, void *function, const char *name) {
  void *symbol = dlsym(library, name);
  must(name, symbol != NULL);
  memcpy(function, &symbol, sizeof symbol);
}

static void open_gpu(void) {
  void *library = dlopen("libcuda.so", RTLD_NOW);
  void *context = NULL;
  int ordinal = 0;
  must("libcuda.so is found", library != NULL);
  find(library, &cuda.init, "cuInit");
  find(library, &cuda.device_get, "cuDeviceGet");
  find(library, &cuda.retain, "cuDevicePrimaryCtxRetain");
  find(library, &cuda.release, "cuDevicePrimaryCtxRelease_v2");
  find(library, &cuda.set_current, "cuCtxSetCurrent");
  find(library, &cuda.stream_create, "cuStreamCreate");
  find(library, &cuda.stream_synchronize, "cuStreamSynchronize");
  find(library, &cuda.stream_destroy, "cuStreamDestroy_v2");
  find(library, &cuda.alloc, "cuMemAlloc_v2");
  find(library, &cuda.free, "cuMemFree_v2");
  find(library, &cuda.upload, "cuMemcpyHtoD_v2");
  find(library, &cuda.download, "cuMemcpyDtoH_v2");
  find(library, &cuda.begin_capture, "cuStreamBeginCapture_v2");
  find(library, &cuda.end_capture, "cuStreamEndCapture");
  find(library, &cuda.instantiate, "cuGraphInstantiateWithFlags");
  find(library, &cuda.launch, "cuGraphLaunch");
  find(library, &cuda.graph_destroy, "cuGraphDestroy");
  find(library, &cuda.exec_destroy, "cuGraphExecDestroy");
  must("cuInit", cuda.init(0) == 0);
  must("cuDeviceGet", cuda.device_get(&ordinal, 0) == 0);
  must("cuDevicePrimaryCtxRetain", cuda.retain(&context, ordinal) == 0);
  must("cuCtxSetCurrent", cuda.set_current(context) == 0);
  must("cuStreamCreate", cuda.stream_create(&stream, 1) == 0);
}

void open_world(const char *kind) {
  must("the device is cpu or gpu", strcmp(kind, "cpu") == 0 || strcmp(kind, "gpu") == 0);
  device.device_type = strcmp(kind, "gpu") == 0 ? kDLCUDA : kDLCPU;
  device.device_id = 0;
  if (device.device_type == kDLCUDA) open_gpu();
}

void begin_capture(void) { must("cuStreamBeginCapture", cuda.begin_capture(stream, 2) == 0); }

static void drop_captured(void) {
  if (captured != NULL) must("cuGraphExecDestroy", cuda.exec_destroy(captured) == 0);
  captured = NULL;
}

void end_capture(void) {
  void *graph = NULL;
  drop_captured();
  must("cuStreamEndCapture", cuda.end_capture(stream, &graph) == 0);
  must("cuGraphInstantiate", cuda.instantiate(&captured, graph, 0) == 0);
  must("cuGraphDestroy", cuda.graph_destroy(graph) == 0);
}

void launch_captured(void) { must("cuGraphLaunch", cuda.launch(captured, stream) == 0); }

void close_world(void) {
  if (device.device_type == kDLCUDA) {
    must("the stream ends well", cuda.stream_synchronize(stream) == 0);
    drop_captured();
  }
  while (cells != NULL) {
    Cell *cell = cells;
    cells = cell->next;
    if (cell->memory != NULL) {
      if (device.device_type == kDLCUDA) must("cuMemFree", cuda.free((Address)(uintptr_t)cell->memory) == 0);
      else free(cell->memory);
    }
    free(cell);
  }
  if (device.device_type == kDLCUDA) {
    OK(sumexp_forget_stream(device, stream));
    must("cuStreamDestroy", cuda.stream_destroy(stream) == 0);
    must("cuDevicePrimaryCtxRelease", cuda.release(0) == 0);
  }
}

static Cell *cell(void) {
  Cell *cell = (Cell *)calloc(1, sizeof(Cell));
  must("memory", cell != NULL);
  cell->next = cells;
  cells = cell;
  cell->tensor.shape = cell->shape;
  return cell;
}

static size_t elements(const DLTensor *tensor) {
  size_t count = 1;
  for (int dim = 0; dim < tensor->ndim; ++dim) count *= (size_t)tensor->shape[dim];
  return count;
}

static DLTensor *make(const void *data, uint8_t code, uint8_t bits, int ndim, va_list dims) {
  Cell *made = cell();
  made->tensor.device = device;
  made->tensor.ndim = ndim;
  made->tensor.dtype.code = code;
  made->tensor.dtype.bits = bits;
  made->tensor.dtype.lanes = 1;
  for (int dim = 0; dim < ndim; ++dim) made->shape[dim] = va_arg(dims, int);
  size_t bytes = elements(&made->tensor) * bits / 8;
  void *host = malloc(bytes + 1);
  must("memory", host != NULL);
  memset(host, 0xAB, bytes + 1);
  if (data != NULL) memcpy(host, data, bytes);
  made->memory = host;
  if (device.device_type == kDLCUDA) {
    Address address = 0;
    must("cuMemAlloc", cuda.alloc(&address, bytes + 1) == 0);
    if (bytes > 0) must("cuMemcpyHtoD", cuda.upload(address, host, bytes) == 0);
    free(host);
    made->memory = (void *)(uintptr_t)address;
  }
  made->tensor.data = made->memory;
  return &made->tensor;
}

#define TENSOR(name, type, code, bits)                        \
  DLTensor *name(const type *data, int ndim, ...) {           \
    va_list dims;                                             \
    va_start(dims, ndim);                                     \
    DLTensor *made = make(data, code, bits, ndim, dims);      \
    va_end(dims);                                             \
    return made;                                              \
  }
TENSOR(f32, float, kDLFloat, 32)
TENSOR(f16, uint16_t, kDLFloat, 16)
TENSOR(bf16, uint16_t, kDLBfloat, 16)
TENSOR(i64, int64_t, kDLInt, 64)
TENSOR(i32, int32_t, kDLInt, 32)
TENSOR(u32, uint32_t, kDLUInt, 32)
TENSOR(u8, uint8_t, kDLUInt, 8)
TENSOR(boolean, uint8_t, kDLBool, 8)

DLTensor *strided(const DLTensor *of, uint64_t byte_offset, int ndim, ...) {
  Cell *made = cell();
  va_list pairs;
  va_start(pairs, ndim);
  made->tensor = *of;
  made->tensor.ndim = ndim;
  made->tensor.shape = made->shape;
  made->tensor.strides = made->strides;
  made->tensor.byte_offset = byte_offset;
  for (int dim = 0; dim < ndim; ++dim) {
    made->shape[dim] = va_arg(pairs, int);
    made->strides[dim] = va_arg(pairs, int);
  }
  va_end(pairs);
  return &made->tensor;
}

void fetch(const DLTensor *from, void *to) {
  size_t bytes = elements(from) * from->dtype.bits / 8;
  if (device.device_type == kDLCUDA) {
    must("the stream ends well", cuda.stream_synchronize(stream) == 0);
    if (bytes > 0) must("cuMemcpyDtoH", cuda.download(to, (Address)(uintptr_t)from->data, bytes) == 0);
  } else {
    memcpy(to, from->data, bytes);
  }
}

static void *fetched(const DLTensor *from) {
  void *copy = malloc(elements(from) * 8 + 1);
  must("memory", copy != NULL);
  fetch(from, copy);
  return copy;
}

static const char *where(void) { return device.device_type == kDLCUDA ? "gpu" : "cpu"; }

void expect(const char *file, int line, const char *what, int holds) {
  if (holds) return;
  ++failures;
  fprintf(stderr, "%s:%d on the %s: %s does not hold\n", file, line, where(), what);
}

void expect_code(const char *file, int line, const char *call, int32_t want, int32_t got) {
  if (got == want) return;
  ++failures;
  fprintf(stderr, "%s:%d on the %s: %s gave %d, not %d: %s\n", file, line, where(), call, got, want, sumexp_last_error());
}

void expect_refused(const char *file, int line, const char *call, int32_t want, const char *part, int32_t got) {
  expect_code(file, line, call, want, got);
  if (got != want || strstr(sumexp_last_error(), part) != NULL) return;
  ++failures;
  fprintf(stderr, "%s:%d on the %s: %s said \"%s\", without \"%s\"\n", file, line, where(), call, sumexp_last_error(), part);
}

static int same(double got, double want, double tolerance) {
  if (isnan(want) || isnan(got)) return isnan(want) && isnan(got);
  if (isinf(want) || isinf(got)) return got == want;
  return fabs(got - want) <= tolerance * (1 + fabs(want));
}

void expect_f32(const char *file, int line, const DLTensor *got, const double *want, double tolerance) {
  float *copy = (float *)fetched(got);
  for (size_t i = 0; i < elements(got); ++i) {
    if (same(copy[i], want[i], tolerance)) continue;
    ++failures;
    fprintf(stderr, "%s:%d on the %s: element %d is %.9g, not %.9g\n", file, line, where(), (int)i, copy[i], want[i]);
  }
  free(copy);
}

#define EXPECT_INTEGERS(name, type)                                                                                     \
  void name(const char *file, int line, const DLTensor *got, const type *want) {                                        \
    type *copy = (type *)fetched(got);                                                                                  \
    for (size_t i = 0; i < elements(got); ++i) {                                                                        \
      if (copy[i] == want[i]) continue;                                                                                 \
      ++failures;                                                                                                       \
      fprintf(stderr, "%s:%d on the %s: element %d is %lld, not %lld\n", file, line, where(), (int)i, (long long)copy[i], \
              (long long)want[i]);                                                                                      \
    }                                                                                                                   \
    free(copy);                                                                                                         \
  }
EXPECT_INTEGERS(expect_i64, int64_t)
EXPECT_INTEGERS(expect_u8, uint8_t)
EXPECT_INTEGERS(expect_u16, uint16_t)
