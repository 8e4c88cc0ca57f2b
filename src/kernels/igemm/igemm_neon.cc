#define MOE_IGEMM_TABLE igemm_neon
#include "kernels/igemm/igemm_arm.h"
