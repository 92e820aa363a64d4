// Parameter blocks of the kernels.
#include <stdint.h>
