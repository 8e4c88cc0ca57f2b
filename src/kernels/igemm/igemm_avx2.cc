#define MOE_IGEMM_TABLE igemm_avx2
#include "kernels/igemm/igemm_madd.h"
