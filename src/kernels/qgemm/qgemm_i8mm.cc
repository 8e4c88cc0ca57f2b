#define MOE_QGEMM_TABLE qgemm_i8mm
#include "kernels/qgemm/qgemm_arm.h"
