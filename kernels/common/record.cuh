// How a kernel reports bad data without trapping: one record per stream, turned into an error by the host.
#pragma once

#include "common/dtype.cuh"
#include "params.h"

/// Reports a value that the kernel must not use. Any thread may call, in any divergence; contains no barrier.
///
/// Of the reports of one launch the one with the lowest row stays, so the error does not depend on the schedule. A record
/// that an earlier launch of another operation left is kept: it happened first.
DEVICE void report(ErrorRecord* record, uint32_t op, uint64_t row, int64_t value, uint64_t limit) {
  bool written = false;
  // The winner of a round leaves the critical section inside the same round: lanes of one warp cannot wait for each other.
  while (!written) {
    if (atomicCAS(&record->lock, 0u, 1u) == 0u) {
      __threadfence();
      if (record->op == 0 || (record->op == op && row < record->row)) {
        record->op = op;
        record->row = row;
        record->value = value;
        record->limit = limit;
      }
      __threadfence();
      atomicExch(&record->lock, 0u);
      written = true;
    }
  }
}
