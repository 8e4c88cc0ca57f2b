#define MOE_ROWS_TABLE rows_baseline
#include "kernels/rows/rows_body.h"
