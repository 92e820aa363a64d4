// Gradients of attention on bf16, on compute capability 9.0. attention/backward_sm90a.cuh says how.
#include "attention/backward_sm90a.cuh"
#include "params/attention.h"

ATTENTION_BACKWARD_SM90A(queries, Part::kQueries, bf16, BF16, 64, 2, 128, 4, 24, 240)
ATTENTION_BACKWARD_SM90A(keys_and_values, Part::kKeysAndValues, bf16, BF16, 64, 2, 64, 4, 24, 240)
ATTENTION_BACKWARD_SM90A(queries, Part::kQueries, bf16, BF16, 128, 2, 128, 2, 24, 240)
ATTENTION_BACKWARD_SM90A(keys_and_values, Part::kKeysAndValues, bf16, BF16, 128, 2, 64, 4, 24, 240)
