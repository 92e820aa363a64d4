// Attention forward on f16. attention/forward.cuh says how.
#include "attention/forward.cuh"
#include "params/attention.h"

ATTENTION_FORWARD(f16, F16, 32, 4, 2, 64)
ATTENTION_FORWARD(f16, F16, 64, 4, 2, 64)
ATTENTION_FORWARD(f16, F16, 96, 4, 2, 64)
ATTENTION_FORWARD(f16, F16, 128, 4, 2, 32)
ATTENTION_FORWARD(f16, F16, 192, 8, 1, 32)
ATTENTION_FORWARD(f16, F16, 256, 4, 1, 32)
