// Gradient of the bias of attention on f16. attention/backward_bias.cuh says how.
#include "attention/backward_bias.cuh"

ATTENTION_BACKWARD_BIAS(f16, F16, 32, 4, 64)
ATTENTION_BACKWARD_BIAS(f16, F16, 64, 4, 64)
ATTENTION_BACKWARD_BIAS(f16, F16, 96, 4, 64)
ATTENTION_BACKWARD_BIAS(f16, F16, 128, 4, 64)
ATTENTION_BACKWARD_BIAS(f16, F16, 192, 4, 32)
ATTENTION_BACKWARD_BIAS(f16, F16, 256, 4, 32)
