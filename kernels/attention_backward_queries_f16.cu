// Gradients of the queries of attention on f16. attention/backward.cuh says how.
#include "attention/backward.cuh"

ATTENTION_BACKWARD(queries, Part::kQueries, f16, F16, 32, 4, 2, 64, 2)
ATTENTION_BACKWARD(queries, Part::kQueries, f16, F16, 64, 4, 2, 32, 2)
ATTENTION_BACKWARD(queries, Part::kQueries, f16, F16, 96, 8, 1, 32, 2)
ATTENTION_BACKWARD(queries, Part::kQueries, f16, F16, 128, 8, 1, 32, 2)
ATTENTION_BACKWARD(queries, Part::kQueries, f16, F16, 192, 4, 1, 32, 2)
ATTENTION_BACKWARD(queries, Part::kQueries, f16, F16, 256, 4, 1, 16, 2)
