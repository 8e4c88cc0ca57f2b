#define MOE_QGEMM_TABLE qgemm_dotprod
#include "kernels/qgemm/qgemm_arm.h"
