/* Threads that call at the same time, each with its own messages and all on one stream. */
#include "world.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 8, ROUNDS = 50 };

typedef struct {
  int number;
  DLTensor *x, *y, *bad;
  int wrong;
} Work;

static void *work(void *argument) {
  Work *work = (Work *)argument;
  char want[64];
  snprintf(want, sizeof want, "softmax: x has %d lanes, it must have 1", work->number + 2);
  if (strcmp(sumexp_last_error(), "") != 0) ++work->wrong;
  for (int round = 0; round < ROUNDS; ++round) {
    if (sumexp_softmax(work->bad, -1, 1, NULL, work->y, stream) != SUMEXP_DTYPE) ++work->wrong;
    const char *message = sumexp_last_error();
    if (sumexp_softmax(work->x, -1, 1, NULL, work->y, stream) != SUMEXP_OK) ++work->wrong;
    if (strcmp(message, want) != 0) ++work->wrong;
    if (round % 10 == 0 && sumexp_check(device, stream) != SUMEXP_OK) ++work->wrong;
  }
  return NULL;
}

void threads(void) {
  static const float X[2] = {0, 0};
  static const double HALVES[2] = {0.5, 0.5};
  pthread_t ids[THREADS];
  Work works[THREADS];
  for (int i = 0; i < THREADS; ++i) {
    works[i].number = i;
    works[i].wrong = 0;
    works[i].x = f32(X, 1, 2);
    works[i].y = f32(NULL, 1, 2);
    works[i].bad = strided(works[i].x, 0, 1, 2, 1);
    works[i].bad->dtype.lanes = (uint16_t)(i + 2);
  }
  for (int i = 0; i < THREADS; ++i) HOLDS(pthread_create(&ids[i], NULL, work, &works[i]) == 0);
  for (int i = 0; i < THREADS; ++i) {
    pthread_join(ids[i], NULL);
    HOLDS(works[i].wrong == 0);
    NEAR(works[i].y, HALVES);
  }
}
