#define MOE_COMBINE_TABLE combine_avx512
#include "kernels/combine/combine_body.h"
