/* What the test programs share: tensors on the host or on a GPU, and checks that say what they saw. C99 and C++. */
#ifndef WORLD_H_
#define WORLD_H_

#include "sumexp.h"
#include <stddef.h>

/* Where tensors are made and calls run. */
extern DLDevice device;
extern void *stream;

/* Chooses "cpu" or "gpu". The latter goes through the CUDA driver that the loader finds as libcuda.so. */
void open_world(const char *kind);
/* Frees all tensors. */
void close_world(void);

/* Tensors with the given elements; NULL: 0xAB in every byte. The dims follow as ints. They live until close_world. */
DLTensor *f32(const float *data, int ndim, ...);
DLTensor *f16(const uint16_t *data, int ndim, ...);
DLTensor *bf16(const uint16_t *data, int ndim, ...);
DLTensor *i64(const int64_t *data, int ndim, ...);
DLTensor *i32(const int32_t *data, int ndim, ...);
DLTensor *u32(const uint32_t *data, int ndim, ...);
DLTensor *u8(const uint8_t *data, int ndim, ...);
DLTensor *boolean(const uint8_t *data, int ndim, ...);
/* The same memory with other dims and strides, which are given as pairs, from an offset in bytes. */
DLTensor *strided(const DLTensor *of, uint64_t byte_offset, int ndim, ...);

/* Waits, and copies a contiguous tensor to the host. */
void fetch(const DLTensor *from, void *to);

/* On a GPU: what is enqueued between the two goes into a graph, which end_capture keeps. */
void begin_capture(void);
void end_capture(void);
/* Enqueues the last graph. */
void launch_captured(void);

/* How many checks failed so far. */
extern int failures;
void expect_code(const char *file, int line, const char *call, int32_t want, int32_t got);
/* The code and a part of the message. */
void expect_refused(const char *file, int line, const char *call, int32_t want, const char *part, int32_t got);
void expect_f32(const char *file, int line, const DLTensor *got, const double *want, double tolerance);
void expect_i64(const char *file, int line, const DLTensor *got, const int64_t *want);
void expect_u8(const char *file, int line, const DLTensor *got, const uint8_t *want);
void expect_u16(const char *file, int line, const DLTensor *got, const uint16_t *want);
void expect(const char *file, int line, const char *what, int holds);

#define OK(call) expect_code(__FILE__, __LINE__, #call, SUMEXP_OK, call)
#define REFUSED(code, part, call) expect_refused(__FILE__, __LINE__, #call, code, part, call)
#define NEAR(got, want) expect_f32(__FILE__, __LINE__, got, want, 1e-6)
#define IDS(got, want) expect_i64(__FILE__, __LINE__, got, want)
#define BYTES(got, want) expect_u8(__FILE__, __LINE__, got, want)
#define BITS(got, want) expect_u16(__FILE__, __LINE__, got, want)
#define HOLDS(what) expect(__FILE__, __LINE__, #what, what)

/* The parts of the program. */
void softmax_values(void);
void loss_values(void);
void inference_values(void);
void attention(void);
void layouts(void);
void refusals(void);
void threads(void);

#endif
