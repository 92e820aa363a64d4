// Parameter blocks of the kernels: one struct per kernel family, passed by value, read by bindgen.
//
// Only <stdint.h>: the Rust side sees exactly these fields. Lengths, sizes and strides count elements, never bytes.
#ifndef SUMEXP_PARAMS_H
#define SUMEXP_PARAMS_H

#include "params/attention.h"
#include "params/attention_pack.h"
#include "params/attention_partial.h"
#include "params/attention_weights.h"
#include "params/common.h"
#include "params/inference.h"
#include "params/inference_sample.h"
#include "params/loss.h"
#include "params/loss_binary.h"
#include "params/loss_divergence.h"
#include "params/loss_divergence_top_k.h"
#include "params/loss_fused.h"
#include "params/loss_nll.h"
#include "params/sigmoid.h"
#include "params/softmax.h"

#endif
