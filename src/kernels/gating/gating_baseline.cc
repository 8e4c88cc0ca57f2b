#define MOE_GATING_TABLE gating_baseline
#include "kernels/gating/gating_body.h"
