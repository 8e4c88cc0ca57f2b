#define MOE_COPY_TABLE copy_baseline
#include "kernels/copy/copy_body.h"
