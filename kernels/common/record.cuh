// How a kernel reports bad data without trapping: one record per stream, turned into an error by the host.
#pragma once

#include "common/dtype.cuh"
#include "params/common.h"

/// Reports a value that the kernel must not use. At most one thread of a launch may call, and launches on one stream follow each
/// other, so nobody else touches the record meanwhile. Contains no barrier.
///
/// Of several reports of an operation the one with the lowest row stays. A record that an earlier launch of another operation
/// left is kept: it happened first.
DEVICE void report(ErrorRecord* record, uint32_t op, uint64_t row, int64_t value, uint64_t limit) {
  if (record->op != 0 && (record->op != op || row >= record->row)) return;
  record->op = op;
  record->row = row;
  record->value = value;
  record->limit = limit;
}
