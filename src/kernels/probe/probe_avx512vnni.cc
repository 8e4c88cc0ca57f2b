#include "kernels/probe/probe_avx512.h"

namespace moe {
namespace {
using Bfloat16 = Float32;
}
}  // namespace moe

#define MOE_PROBE_TABLE probe_avx512vnni
#include "kernels/probe/probe_body.h"
