#define MOE_QGEMM_TABLE qgemm_neon
#include "kernels/qgemm/qgemm_arm.h"
