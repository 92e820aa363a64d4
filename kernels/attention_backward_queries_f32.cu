// Gradients of the queries of attention on f32. attention/backward.cuh says how.
#include "attention/backward.cuh"

ATTENTION_BACKWARD(queries, Part::kQueries, f32, F32, 32, 4, 1, 32, 2)
ATTENTION_BACKWARD(queries, Part::kQueries, f32, F32, 64, 4, 1, 32, 2)
ATTENTION_BACKWARD(queries, Part::kQueries, f32, F32, 96, 4, 1, 16, 2)
ATTENTION_BACKWARD(queries, Part::kQueries, f32, F32, 128, 4, 1, 16, 2)
ATTENTION_BACKWARD(queries, Part::kQueries, f32, F32, 192, 2, 1, 16, 1)
ATTENTION_BACKWARD(queries, Part::kQueries, f32, F32, 256, 2, 1, 16, 1)
