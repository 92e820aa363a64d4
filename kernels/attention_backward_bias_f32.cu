// Gradient of the bias of attention on f32. attention/backward_bias.cuh says how.
#include "attention/backward_bias.cuh"

ATTENTION_BACKWARD_BIAS(f32, F32, 32, 4, 32)
ATTENTION_BACKWARD_BIAS(f32, F32, 64, 4, 32)
ATTENTION_BACKWARD_BIAS(f32, F32, 96, 4, 32)
ATTENTION_BACKWARD_BIAS(f32, F32, 128, 4, 32)
ATTENTION_BACKWARD_BIAS(f32, F32, 192, 2, 32)
ATTENTION_BACKWARD_BIAS(f32, F32, 256, 2, 16)
