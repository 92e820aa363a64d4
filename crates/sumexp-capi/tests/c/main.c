/* Every function of sumexp.h, on the device that the first argument names: "cpu" or "gpu". Exits with 0 if all is right. */
#include "world.h"
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* What may never change for programs that were compiled against it. */
#define FIXED(name, holds) typedef char name[(holds) ? 1 : -1]
FIXED(cross_entropy_size, sizeof(sumexp_cross_entropy_options) == 48);
FIXED(cross_entropy_weights, offsetof(sumexp_cross_entropy_options, class_weights) == 40);
FIXED(cross_entropy_smoothing, offsetof(sumexp_cross_entropy_options, label_smoothing) == 24);
FIXED(sample_size, sizeof(sumexp_sample_options) == 40);
FIXED(sample_seed, offsetof(sumexp_sample_options, seed) == 24);
FIXED(attention_size, sizeof(sumexp_attention_options) == 112);
FIXED(attention_keep, offsetof(sumexp_attention_options, keep) == 40);
FIXED(attention_max, offsetof(sumexp_attention_options, max_q) == 104);
FIXED(tensor_size, sizeof(DLTensor) == 48);

int main(int count, char **arguments) {
  const char *kind = count > 1 ? arguments[1] : "cpu";
  HOLDS(strcmp(sumexp_last_error(), "") == 0);
  HOLDS(strcmp(sumexp_version(), "0.1.0") == 0);
  open_world(kind);
  softmax_values();
  loss_values();
  inference_values();
  attention();
  layouts();
  refusals();
  threads();
  OK(sumexp_check(device, stream));
  close_world();
  if (failures == 0) printf("%s: all is right\n", kind);
  return failures != 0;
}
