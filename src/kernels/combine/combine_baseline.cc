#define MOE_COMBINE_TABLE combine_baseline
#include "kernels/combine/combine_body.h"
