/* What a DLTensor can say: strides, offsets, no dims, no elements. */
#include "world.h"
#include <math.h>

void layouts(void) {
  static const float X[7] = {9, 0, 0, 1, 1, 0, 1};
  static const double HALVES[4] = {0.5, 0.5, 0.5, 0.5}, ROWS[4] = {0.5, 0.5, 0.2689414213699951, 0.7310585786300049};
  DLTensor *x = f32(X, 1, 7), *y = f32(NULL, 2, 2, 2), *lse = f32(NULL, 1, 2);

  /* From element 1 on: [[0, 0], [1, 1]], [[0, 1], [0, 1]] transposed, and one row repeated. */
  OK(sumexp_softmax(strided(x, 4, 2, 2, 2, 2, 1), -1, 1, NULL, y, stream));
  NEAR(y, HALVES);
  OK(sumexp_softmax(strided(x, 4, 2, 2, 1, 2, 2), 0, 1, NULL, y, stream));
  NEAR(y, HALVES);
  OK(sumexp_softmax(strided(x, 4, 2, 2, 0, 2, 1), -1, 1, NULL, y, stream));
  NEAR(y, HALVES);
  OK(sumexp_softmax(strided(x, 4, 2, 2, 4, 2, 1), -1, 1, NULL, y, stream));
  NEAR(y, ROWS);
  /* The stride of a dim of length 1 is not looked at; not even a negative one. */
  OK(sumexp_softmax(strided(x, 4, 3, 1, -7, 2, 4, 2, 1), -1, 1, NULL, strided(y, 0, 3, 1, -7, 2, 2, 2, 1), stream));
  NEAR(y, ROWS);

  /* Managed memory is memory of the GPU. */
  if (device.device_type == kDLCUDA) {
    DLTensor managed = *y;
    managed.device.device_type = kDLCUDAManaged;
    OK(sumexp_softmax(strided(x, 4, 2, 2, 2, 2, 1), -1, 1, NULL, &managed, stream));
    NEAR(y, HALVES);
  }

  /* No elements: nothing is written, and no memory is needed. Rows of length 0 have the sum 0. */
  static const double NOTHING[2] = {-INFINITY, -INFINITY};
  DLTensor *empty = strided(x, 0, 2, 2, 0, 0, 1);
  empty->data = NULL;
  OK(sumexp_softmax(empty, -1, 1, NULL, empty, stream));
  OK(sumexp_logsumexp(empty, -1, 1, NULL, lse, stream));
  NEAR(lse, NOTHING);
  DLTensor *none = strided(x, 0, 2, 0, 3, 3, 1);
  none->data = NULL;
  OK(sumexp_softmax(none, 0, 1, NULL, none, stream));

  /* The legacy default stream. */
  if (device.device_type == kDLCUDA) {
    OK(sumexp_softmax(strided(x, 4, 2, 2, 2, 2, 1), -1, 1, NULL, y, NULL));
    OK(sumexp_check(device, NULL));
    NEAR(y, HALVES);
    OK(sumexp_forget_stream(device, NULL));
    OK(sumexp_forget_stream(device, NULL));
  }
}
