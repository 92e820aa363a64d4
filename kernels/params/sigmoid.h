// Parameter blocks of sigmoid and log-sigmoid.
#ifndef SUMEXP_PARAMS_SIGMOID_H
#define SUMEXP_PARAMS_SIGMOID_H

#include "common.h"

/// What the sigmoid kernels write.
enum {
  SIGMOID = 0,
  LOG_SIGMOID = 1,
  SIGMOID_GRADIENT = 2,
  LOG_SIGMOID_GRADIENT = 3,
};

/// sigmoid, log-sigmoid and their gradients.
typedef struct {
  ElementRows rows;
  /// The arguments x, also of the gradients.
  Operand input;
  /// Gradient of the result; `data` is null for SIGMOID and LOG_SIGMOID.
  Operand upstream;
  /// Contiguous, of the input's type.
  void *output;
  /// One of SIGMOID*.
  uint32_t kind;
  /// Whether every 16 bytes of the result lie in 16 aligned contiguous bytes of the operand (0 or 1 each).
  uint32_t input_units;
  uint32_t upstream_units;
  uint32_t output_units;
} SigmoidParams;

#endif
