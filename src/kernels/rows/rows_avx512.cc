#define MOE_ROWS_TABLE rows_avx512
#include "kernels/rows/rows_body.h"
