#define MOE_COPY_TABLE copy_avx512
#include "kernels/copy/copy_body.h"
