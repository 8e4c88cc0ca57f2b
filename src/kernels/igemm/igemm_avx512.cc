#define MOE_IGEMM_TABLE igemm_avx512
#include "kernels/igemm/igemm_madd.h"
