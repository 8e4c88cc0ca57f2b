#define MOE_GATING_TABLE gating_avx512
#include "kernels/gating/gating_body.h"
