// Attention forward on f32. attention/forward.cuh says how.
#include "attention/forward.cuh"
#include "params/attention.h"

ATTENTION_FORWARD(f32, F32, 32, 4, 1, 64)
ATTENTION_FORWARD(f32, F32, 64, 4, 1, 32)
ATTENTION_FORWARD(f32, F32, 96, 4, 1, 32)
ATTENTION_FORWARD(f32, F32, 128, 4, 1, 32)
ATTENTION_FORWARD(f32, F32, 192, 4, 1, 16)
ATTENTION_FORWARD(f32, F32, 256, 2, 1, 16)
