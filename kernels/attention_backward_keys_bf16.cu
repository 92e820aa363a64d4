// Gradients of the keys and values of attention on bf16. attention/backward.cuh says how.
#include "attention/backward.cuh"

ATTENTION_BACKWARD(keys_and_values, Part::kKeysAndValues, bf16, BF16, 32, 4, 2, 32, 2)
ATTENTION_BACKWARD(keys_and_values, Part::kKeysAndValues, bf16, BF16, 64, 4, 2, 16, 2)
ATTENTION_BACKWARD(keys_and_values, Part::kKeysAndValues, bf16, BF16, 96, 8, 1, 32, 2)
ATTENTION_BACKWARD(keys_and_values, Part::kKeysAndValues, bf16, BF16, 128, 8, 1, 32, 2)
ATTENTION_BACKWARD(keys, Part::kKeys, bf16, BF16, 192, 4, 1, 32, 2)
ATTENTION_BACKWARD(values, Part::kValues, bf16, BF16, 192, 4, 1, 32, 2)
ATTENTION_BACKWARD(keys, Part::kKeys, bf16, BF16, 256, 4, 1, 16, 2)
ATTENTION_BACKWARD(values, Part::kValues, bf16, BF16, 256, 4, 1, 16, 2)
