#define MOE_IGEMM_TABLE igemm_baseline
#include "kernels/igemm/igemm_madd.h"
