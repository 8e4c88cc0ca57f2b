#define MOE_ROWS_TABLE rows_avx2
#include "kernels/rows/rows_body.h"
