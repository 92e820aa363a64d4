// Attention forward on bf16, on compute capability 9.0. attention/forward_sm90a.cuh says how.
#include "attention/forward_sm90a.cuh"
#include "params/attention.h"

ATTENTION_FORWARD_SM90A(bf16, BF16, 64, 2, 128, 2, 24, 240)
ATTENTION_FORWARD_SM90A(bf16, BF16, 128, 2, 128, 2, 24, 240)
