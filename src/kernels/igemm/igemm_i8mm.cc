#define MOE_IGEMM_TABLE igemm_i8mm
#include "kernels/igemm/igemm_arm.h"
