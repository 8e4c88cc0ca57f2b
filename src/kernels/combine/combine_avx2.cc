#define MOE_COMBINE_TABLE combine_avx2
#include "kernels/combine/combine_body.h"
