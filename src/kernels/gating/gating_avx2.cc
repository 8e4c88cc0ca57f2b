#define MOE_GATING_TABLE gating_avx2
#include "kernels/gating/gating_body.h"
