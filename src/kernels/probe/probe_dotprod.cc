#include "kernels/probe/probe_neon.h"

#define MOE_PROBE_TABLE probe_dotprod
#include "kernels/probe/probe_body.h"
