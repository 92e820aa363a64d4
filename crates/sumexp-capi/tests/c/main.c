/* Every function of sumexp.h, on the device that the first argument names: "cpu" or "gpu". Exits with 0 if all is right. */
#include "world.h"
#include <stdio.h>
#include <string.h>

int main(int count, char **arguments) {
  const char *kind = count > 1 ? arguments[1] : "cpu";
  HOLDS(strcmp(sumexp_last_error(), "") == 0);
  HOLDS(strcmp(sumexp_version(), "0.1.0") == 0);
  open_world(kind);
  softmax_values();
  loss_values();
  inference_values();
  layouts();
  refusals();
  threads();
  OK(sumexp_check(device, stream));
  close_world();
  if (failures == 0) printf("%s: all is right\n", kind);
  return failures != 0;
}
