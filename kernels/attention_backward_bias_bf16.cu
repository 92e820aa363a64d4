// Gradient of the bias of attention on bf16. attention/backward_bias.cuh says how.
#include "attention/backward_bias.cuh"

ATTENTION_BACKWARD_BIAS(bf16, BF16, 32, 4, 64)
ATTENTION_BACKWARD_BIAS(bf16, BF16, 64, 4, 64)
ATTENTION_BACKWARD_BIAS(bf16, BF16, 96, 4, 64)
ATTENTION_BACKWARD_BIAS(bf16, BF16, 128, 4, 64)
ATTENTION_BACKWARD_BIAS(bf16, BF16, 192, 4, 32)
ATTENTION_BACKWARD_BIAS(bf16, BF16, 256, 4, 32)
