#define MOE_IGEMM_TABLE igemm_dotprod
#include "kernels/igemm/igemm_arm.h"
