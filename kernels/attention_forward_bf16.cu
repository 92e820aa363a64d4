// Attention forward on bf16. attention/forward.cuh says how.
#include "attention/forward.cuh"
#include "params/attention.h"

ATTENTION_FORWARD(bf16, BF16, 32, 4, 2, 64)
ATTENTION_FORWARD(bf16, BF16, 64, 4, 2, 64)
ATTENTION_FORWARD(bf16, BF16, 96, 4, 2, 64)
ATTENTION_FORWARD(bf16, BF16, 128, 4, 2, 32)
ATTENTION_FORWARD(bf16, BF16, 192, 8, 1, 32)
ATTENTION_FORWARD(bf16, BF16, 256, 4, 1, 32)
