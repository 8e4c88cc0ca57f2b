/* Everything of the C API. */
#ifndef MOE_NATIVE_MOE_NATIVE_H
#define MOE_NATIVE_MOE_NATIVE_H

#include "moe_native/ffn.h"
#include "moe_native/finalize.h"
#include "moe_native/format.h"
#include "moe_native/gating.h"
#include "moe_native/grouped_matmul.h"
#include "moe_native/info.h"
#include "moe_native/init_routing.h"
#include "moe_native/pack.h"
#include "moe_native/permute.h"
#include "moe_native/probe.h"
#include "moe_native/quant.h"
#include "moe_native/runtime.h"
#include "moe_native/status.h"
#include "moe_native/tensor.h"

#endif
