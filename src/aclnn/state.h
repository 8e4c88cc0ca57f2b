// The lock of the device's bookkeeping: memory, clocks of the streams, contexts. Queues of streams, the registry and the
// findings have locks of their own, which are taken after this one.
#pragma once

#include <mutex>

namespace moe::device {

std::mutex& state_mutex();

// Whether this process has ever used the device: a child of one that did finds it lost.
bool device_used();

}  // namespace moe::device
