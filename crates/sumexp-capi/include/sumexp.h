/*
 * The C interface of sumexp: softmax, losses, inference from logits and attention, on CUDA GPUs and on the host. For C99 and C++.
 *
 * TENSORS are DLPack's DLTensor. The struct and everything that it points to belong to the caller and are only read; the
 * library keeps no pointer to them. `strides` are in elements and at least 0 (0 repeats); NULL means contiguous, and the
 * stride of a dim of length 1 is not looked at. `byte_offset` is added to `data`, and the sum must be a multiple of the size
 * of an element. `lanes` is 1. There are at most 8 dims. A tensor without elements may have `data` NULL.
 *   float types   f16 (kDLFloat 16), bf16 (kDLBfloat 16), f32 (kDLFloat 32)
 *   masks         bool (kDLBool 8) or u8 (kDLUInt 8); 0 hides the entry, everything else keeps it
 *   class ids     i64, i32 (kDLInt), u32 (kDLUInt)
 * Inputs may have any strides. Outputs must be contiguous, of exactly the shape and type that is asked for, and must not
 * overlap an input or each other; they are written whole. What the strides of an input or output reach must be memory: a
 * DLTensor does not say how much there is, so nobody can check it.
 *
 * DEVICES. kDLCPU computes on the host, in float64 on all cores, and is done when the call returns. kDLCUDA and
 * kDLCUDAManaged enqueue kernels on `stream` and return: memory must stay as it is until the stream has come so far.
 * All tensors of a call are on one device. Pinned host memory (kDLCUDAHost) is passed as kDLCPU; all else is refused.
 *
 * STREAMS. `stream` is a CUstream (a cudaStream_t) of the GPU's primary context, which is the one that the CUDA runtime and
 * PyTorch use. NULL is the legacy default stream. CU_STREAM_PER_THREAD is refused, for it means another stream on every
 * thread. On the host `stream` is not looked at. The library keeps a note of each stream that it was given, with up to 256 bytes
 * of GPU memory, and never touches a stream outside of a call: a stream may be destroyed at any time after its last call, and
 * its handle may come back as another stream. `sumexp_forget_stream` gives a note back; of more than 1024 notes the one that
 * was not used for longest is dropped, and with it what was recorded and not asked for.
 *
 * CUDA GRAPHS. Calls may be captured by the caller, all but sumexp_check. A stream's first call that can meet bad targets
 * (sumexp_cross_entropy and its gradient) makes a record that must outlive the graph, so it is refused while the stream is
 * captured: call sumexp_check once before.
 *
 * RESULTS. Every function returns a sumexp_status; on anything but SUMEXP_OK that is found before work is enqueued, nothing
 * was written. The library frees what it allocates, never unwinds into the caller, and may be called from any thread at the
 * same time. A child made by fork() must not call it if the parent did.
 *
 * LINKING. Shared: -lsumexp. Static: libsumexp.a -lpthread -ldl -lm. The CUDA driver is loaded when a kDLCUDA tensor is first
 * seen; without one the host works all the same.
 */
#ifndef SUMEXP_H_
#define SUMEXP_H_

#include <stdint.h>

/* DLPack 1.0, as far as it is used here. To have all of it, include dlpack/dlpack.h before this header. */
#ifndef DLPACK_DLPACK_H_
typedef enum {
  kDLCPU = 1,
  kDLCUDA = 2,
  kDLCUDAHost = 3,
  kDLCUDAManaged = 13
} DLDeviceType;

typedef struct {
  DLDeviceType device_type;
  int32_t device_id; /* the number of the GPU */
} DLDevice;

typedef enum {
  kDLInt = 0,
  kDLUInt = 1,
  kDLFloat = 2,
  kDLBfloat = 4,
  kDLBool = 6
} DLDataTypeCode;

typedef struct {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} DLDataType;

typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
} DLTensor;
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What a call can return. Codes are never given another meaning; new ones may be added. */
typedef enum {
  SUMEXP_OK = 0,
  SUMEXP_NULL = 1,           /* a pointer is NULL that must not be */
  SUMEXP_DTYPE = 2,          /* a type that the operand cannot have, or lanes other than 1 */
  SUMEXP_DEVICE = 3,         /* a device type or number that there is not, tensors of two devices, a stream that is refused */
  SUMEXP_SHAPE = 4,          /* shapes that do not go together, negative or too large ones, too many dims */
  SUMEXP_DIM = 5,            /* a dim that the tensor does not have */
  SUMEXP_STRIDES = 6,        /* negative or too large strides, or an output that is not contiguous */
  SUMEXP_ALIGNMENT = 7,      /* an address that is not a multiple of the size of its elements */
  SUMEXP_OVERLAP = 8,        /* an output that shares memory with an input or another output */
  SUMEXP_OPTION = 9,         /* an option outside of what it can be, or a size of an options struct that is unknown */
  SUMEXP_TARGET = 10,        /* a target that is no class; on a GPU returned by sumexp_check */
  SUMEXP_OUT_OF_MEMORY = 11, /* host or GPU */
  SUMEXP_DRIVER = 12,        /* no CUDA driver, or a call of it failed */
  SUMEXP_CAPTURE = 13,       /* not possible while a CUDA graph is captured */
  SUMEXP_UNSUPPORTED = 14,   /* part of the interface, not of this version of the library */
  SUMEXP_INTERNAL = 15       /* a mistake in the library: please report it with the message */
} sumexp_status;

/* The message of the last call that failed on this thread: one sentence that names the operation, the operand and the values.
 * Empty if none did. Never NULL. Valid until the next call on the same thread. */
const char *sumexp_last_error(void);

/* The version of the library as "major.minor.patch". Valid for ever. */
const char *sumexp_version(void);

/* Waits for the stream and returns what the device recorded since the last look: SUMEXP_TARGET for a target that was no class
 * (the message names the operation, the row over the flattened batch, and the value), SUMEXP_DRIVER for work that failed. A
 * record is returned once. On the host there is nothing to wait for and nothing recorded: there a bad target is an error of
 * the call itself. */
int32_t sumexp_check(DLDevice device, void *stream);

/* Drops what the library keeps of a stream. Never needed; the right moment is before the stream is destroyed. Does not wait. */
int32_t sumexp_forget_stream(DLDevice device, void *stream);

/*
 * Softmax family. `x` is f16, bf16 or f32 of any shape. `dim` counts from the front, or from the end if it is negative:
 * -1 is the last. `temperature` divides the logits; it is finite and above 0. `keep` is a mask that broadcasts to the shape of
 * `x`, or NULL. A logit of -inf and a mask hide: hidden entries get probability 0 and gradient 0, whatever bits they hold. A row
 * with nothing visible is 0 (logarithms: -inf), never NaN. A visible NaN or +inf makes its own row NaN.
 * Errors: SUMEXP_NULL, _DTYPE, _DEVICE, _SHAPE, _DIM, _STRIDES, _ALIGNMENT, _OVERLAP, _OPTION (temperature), _OUT_OF_MEMORY, _DRIVER.
 */

/* y = exp(x / T) / sum(exp(x / T)) along `dim`. `y` as `x`. */
int32_t sumexp_softmax(const DLTensor *x, int32_t dim, float temperature, const DLTensor *keep, const DLTensor *y, void *stream);

/* y = x / T - ln(sum(exp(x / T))) along `dim`. `y` as `x`. */
int32_t sumexp_log_softmax(const DLTensor *x, int32_t dim, float temperature, const DLTensor *keep, const DLTensor *y, void *stream);

/* lse = ln(sum(exp(x / T))) along `dim`. `lse` is f32, of the shape of `x` without `dim`. */
int32_t sumexp_logsumexp(const DLTensor *x, int32_t dim, float temperature, const DLTensor *keep, const DLTensor *lse, void *stream);

/* dx = y * (dy - sum(dy * y)) / T, from the result `y` of sumexp_softmax and the gradient `dy` of it; `dy` and `dx` as `y`. */
int32_t sumexp_softmax_backward(const DLTensor *y, const DLTensor *dy, int32_t dim, float temperature, const DLTensor *dx, void *stream);

/* dx = (dy - exp(y) * sum(dy)) / T, from the result `y` of sumexp_log_softmax; `dy` and `dx` as `y`. */
int32_t sumexp_log_softmax_backward(const DLTensor *y, const DLTensor *dy, int32_t dim, float temperature, const DLTensor *dx, void *stream);

/* dx = softmax(x / T) * dlse / T. `lse` (the result of sumexp_logsumexp) and `dlse` are f32, of the shape of `x` without `dim`;
 * `dx` as `x`. The probabilities are computed from `x` anew: exp(x / T - lse) would show the rounding of a large lse in every
 * digit. So `lse` is checked, and its contents are not read. */
int32_t sumexp_logsumexp_backward(const DLTensor *x, const DLTensor *lse, const DLTensor *dlse, int32_t dim, float temperature,
                                  const DLTensor *keep, const DLTensor *dx, void *stream);

/*
 * Options structs. Set every field with the _init function, then change what is wanted; NULL for the struct means all defaults.
 * `size` says how many bytes the caller knows: fields behind a smaller size have their defaults, and fields that this library does
 * not know are accepted if they are 0. An _init function returns SUMEXP_NULL for NULL. It writes the struct as it is below; should
 * a struct grow, a later header calls another function under the same name.
 */

/* Cross-entropy. */
typedef struct {
  uint32_t size;
  int32_t dim;              /* the class dim, -1 */
  int32_t reduction;        /* 0 none, 1 sum, 2 mean over what counts (by weight) */
  int32_t has_ignore_index; /* whether ignore_index is looked at, 1 */
  int64_t ignore_index;     /* rows with this class id do not count, -100; a number of the ids' type, or below 0 */
  float label_smoothing;    /* from 0 to 1, 0 */
  float z_loss;             /* this times lse^2 is added to the loss of a row that counts; finite and at least 0, 0 */
  float temperature;        /* divides the logits; finite and above 0, 1 */
  const DLTensor *class_weights; /* f32 [classes], or NULL */
} sumexp_cross_entropy_options;
int32_t sumexp_cross_entropy_options_init(sumexp_cross_entropy_options *options);

/* Cross-entropy of logits (not of probabilities). `logits`: f16, bf16 or f32 of any shape. `targets`: class ids of the shape of
 * the logits without the class dim, or probabilities of the shape of the logits (f16, bf16 or f32). `loss`: f32, of the shape of
 * the logits without the class dim, for a sum or mean [] or [1]. `lse`: f32 of the shape of the logits without the class dim, or NULL.
 * A mean over nothing is 0. A target that is no class: on the host SUMEXP_TARGET, and nothing is written; on a GPU its loss is NaN,
 * its gradient 0, and sumexp_check returns SUMEXP_TARGET.
 * Errors: as the softmax family; also SUMEXP_TARGET, _OPTION, _CAPTURE. */
int32_t sumexp_cross_entropy(const DLTensor *logits, const DLTensor *targets, const sumexp_cross_entropy_options *options,
                             const DLTensor *loss, const DLTensor *lse, void *stream);

/* The gradient of sumexp_cross_entropy by the logits. `lse`: as forward wrote it, f32. `dloss`: f32, of the shape of the loss,
 * any strides. `dlogits`: as `logits`. `lse` is checked, and its contents are not read: an lse has rounded away what the
 * gradient at a confident winner is made of, so the logits are read once more instead. */
int32_t sumexp_cross_entropy_backward(const DLTensor *logits, const DLTensor *targets, const DLTensor *lse, const DLTensor *dloss,
                                      const sumexp_cross_entropy_options *options, const DLTensor *dlogits, void *stream);

/* Binary cross-entropy of logits: weight * (t * pos_weight * ln(1 + exp(-x)) + (1 - t) * ln(1 + exp(x))) per element.
 * `target`: as `x` (shape and type), from 0 to 1. `weight` and `pos_weight`: f32, broadcast to `x`, or NULL. `reduction`: 0 none,
 * 1 sum, 2 mean over all elements. `loss`: f32, as `x`, or [] or [1] for a sum or mean. Errors: as the softmax family. */
int32_t sumexp_bce_with_logits(const DLTensor *x, const DLTensor *target, const DLTensor *weight, const DLTensor *pos_weight,
                               int32_t reduction, const DLTensor *loss, void *stream);

/* Its gradient by `x`. `dloss`: f32, of the shape of the loss, any strides. `dx`: as `x`. */
int32_t sumexp_bce_with_logits_backward(const DLTensor *x, const DLTensor *target, const DLTensor *weight, const DLTensor *pos_weight,
                                        int32_t reduction, const DLTensor *dloss, const DLTensor *dx, void *stream);

/* Distillation from logits: T^2 times the divergence of s = softmax(student / T) from t = softmax(teacher / T) along `dim`.
 * `student` and `teacher`: the same shape and type, f16, bf16 or f32. `direction`: 0 forward, KL(t || s); 1 reverse, KL(s || t);
 * 2 Jensen-Shannon, (KL(t || m) + KL(s || m)) / 2 with m = (s + t) / 2. `reduction`: 0 none, 1 sum, 2 mean over the rows. `loss`:
 * f32, of the shape of the logits without `dim`, for a sum or mean [] or [1].
 * Errors: as the softmax family; SUMEXP_OPTION also for direction and reduction. */
int32_t sumexp_distillation(const DLTensor *student, const DLTensor *teacher, int32_t dim, float temperature, int32_t direction,
                            int32_t reduction, const DLTensor *loss, void *stream);

/* Its gradient by the student. `dloss`: f32, of the shape of the loss, any strides. `dstudent`: as `student`. */
int32_t sumexp_distillation_backward(const DLTensor *student, const DLTensor *teacher, int32_t dim, float temperature,
                                     int32_t direction, int32_t reduction, const DLTensor *dloss, const DLTensor *dstudent, void *stream);

/* The position of the largest element along `dim`: the lowest one among equals; NaN counts as the largest. `index`: i64, of the
 * shape of `x` without `dim`. Errors: as the softmax family. */
int32_t sumexp_argmax(const DLTensor *x, int32_t dim, const DLTensor *index, void *stream);

/* How sure softmax(x) is along `dim`, without writing it: its largest probability, by how much that exceeds the second largest,
 * and its entropy in nats. Each f32, of the shape of `x` without `dim`. Errors: as the softmax family. */
int32_t sumexp_confidence(const DLTensor *x, int32_t dim, const DLTensor *confidence, const DLTensor *margin,
                          const DLTensor *entropy, void *stream);

/* Sampling. The filters apply together. */
typedef struct {
  uint32_t size;
  float temperature; /* divides the logits; finite and above 0, 1 */
  int32_t top_k;     /* so many of the largest logits, and those that equal the last; 0 = all, 0 */
  float top_p;       /* the fewest of these that have this part of their probability; above 0, at most 1, 1 */
  float min_p;       /* those at least so many times as probable as the most probable one; 0 to 1, 0 */
  uint64_t seed;     /* the same seed and offset give the same draws, 0 */
  uint64_t offset;   /* the number of the draw, another one for each call with the same seed, 0 */
} sumexp_sample_options;
int32_t sumexp_sample_options_init(sumexp_sample_options *options);

/* Draws one class per row along the last dim, with the probabilities of what the filters leave of softmax(x / T). `x`: f16, bf16 or
 * f32. `ids`: i64, `valid`: u8 or bool, both of the shape of `x` without its last dim. A row that holds a NaN or +inf, or nothing that
 * is visible, is not valid (0), and its id is 0. A row's draw depends on its logits, its number in the batch, seed and offset.
 * Errors: as the softmax family; SUMEXP_OPTION, also for top_k above the length of a row. */
int32_t sumexp_sample(const DLTensor *x, const sumexp_sample_options *options, const DLTensor *ids, const DLTensor *valid, void *stream);

/* Attention. A field that is not set leaves its part of the computation out. The score of query i and key j is
 *   u = scale * dot(q_i, k_j) + bias - slope * |distance of j from where i stands|,   s = softcap * tanh(u / softcap), or u,
 * and the weights are the softmax of s over the keys that every mask shows. Query i stands at key i, or with causal 2 and without
 * causal at key i + Sk - Sq: the last query at the last key. Hidden keys do not influence a query, whatever bits they hold; so
 * hides a bias of -inf. A query that sees nothing has out 0 and lse -inf. */
typedef struct {
  uint32_t size;
  float scale;          /* of q.k; NaN means 1/sqrt(D), NaN; 0 and negative are scales like any other; not infinite */
  int32_t causal;       /* no keys behind the query: 0 off, 1 aligned at the first query and key, 2 at the last, 0 */
  int64_t window_left;  /* so many keys before the query are seen; -1 = all, -1 */
  int64_t window_right; /* so many behind it; -1 = all, -1 */
  float softcap;        /* finite and above 0; 0 = off, 0 */
  const DLTensor *keep,        /* bool or u8, broadcast to [B, Hq, Sq, Sk]: 0 hides the pair */
      *bias,                   /* f16, bf16 or f32, broadcast to [B, Hq, Sq, Sk] */
      *alibi_slopes,           /* f32, broadcast to [B, Hq] */
      *key_lengths,            /* i32 [B]: keys from this number on are hidden */
      *q_segments, *k_segments, /* i32, broadcast to [B, Sq] and [B, Sk], both or none: a query sees the keys of its own number */
      *q_offsets, *k_offsets;  /* packed sequences, both or none: i32 [B+1], contiguous, see below */
  int32_t max_q, max_k; /* the longest packed sequence, if known: hints that change no result, at least 0, 0 */
} sumexp_attention_options;
int32_t sumexp_attention_options_init(sumexp_attention_options *options);

/* out = softmax(s) v, without a matrix of scores in memory.
 *             batches           packed sequences
 *   q         [B, Hq, Sq, D]    [Tq, Hq, D]        f16, bf16 or f32
 *   k         [B, Hk, Sk, D]    [Tk, Hk, D]        as q; Hq is a multiple of Hk, and query head h uses key head h / (Hq / Hk)
 *   v         [B, Hk, Sk, Dv]   [Tk, Hk, Dv]       as q
 *   out       [B, Hq, Sq, Dv]   [Tq, Hq, Dv]       as q
 *   lse       [B, Hq, Sq]       [Tq, Hq]           f32, contiguous: ln(sum(exp(s))) of each query
 *   weights   [B, Hq, Sq, Sk]   NULL               as q, contiguous, or NULL: the softmax of s, which is not in memory otherwise
 * D and Dv are from 1 to 256. The last dim of q, k, v and out is contiguous, other strides are any: [B, S, H, D] and parts of one
 * buffer go in as they are. `options`: NULL = all defaults.
 * Packed: rows q_offsets[i] to q_offsets[i + 1] of q are the queries of sequence i, rows k_offsets[i] to k_offsets[i + 1] of k and v
 * its keys. Offsets begin at 0, never decrease, and end at Tq or Tk. On the host anything else is SUMEXP_SHAPE; on a GPU nobody
 * looks: rows come out wrong or not written, and nothing outside of the tensors is touched. Masks and biases count sequences as
 * batch entries, and go by positions inside each of them. Weights of packed sequences are SUMEXP_UNSUPPORTED in this version.
 * Errors: as the softmax family, _OPTION for options; _SHAPE, _STRIDES and _OPTION (head sizes) name both values. */
int32_t sumexp_attention_forward(const DLTensor *q, const DLTensor *k, const DLTensor *v, const sumexp_attention_options *options,
                                 const DLTensor *out, const DLTensor *lse, const DLTensor *weights, void *stream);

/* The gradients of sumexp_attention_forward, from `out` and `lse` as it wrote them, and its q, k, v and options.
 *   dout      as out, the gradient of out
 *   dlse      as lse, any strides, or NULL: the gradient of lse, 0
 *   dq, dk, dv    as q, k, v (shape and type); the last dim contiguous, other strides any
 *   dbias     as options->bias (shape and type), contiguous, or NULL: the gradient of the bias, along dims of length 1 a sum
 * Scores are computed again; nothing is added up by atomics, so the same call gives the same bits. Hidden pairs have no part in any
 * gradient; a query that sees nothing, and a key that nobody sees, have gradient 0. Errors: as forward. */
int32_t sumexp_attention_backward(const DLTensor *q, const DLTensor *k, const DLTensor *v, const DLTensor *out, const DLTensor *lse,
                                  const DLTensor *dout, const DLTensor *dlse, const sumexp_attention_options *options,
                                  const DLTensor *dq, const DLTensor *dk, const DLTensor *dv, const DLTensor *dbias, void *stream);

#ifdef __cplusplus
}
#endif
#endif
