// The lock of the device's bookkeeping: memory, clocks of the streams, contexts. Queues of streams, the registry and the
// findings have locks of their own, which are taken after this one.
#pragma once

#include <mutex>
#include <utility>

namespace moe::device {

std::mutex& state_mutex();

// Whether this process has ever used the device: a child of one that did finds it lost.
bool device_used();

// What a thread has for itself. Destructors of static objects call after those of thread_local ones: the object is then
// made again, for the rest of the process.
template <class T>
T& own() {
    thread_local T* object = nullptr;
    thread_local bool owned = false;
    if (!owned) {
        owned = true;
        struct Owner {
            ~Owner() { delete std::exchange(object, nullptr); }
        };
        thread_local Owner owner;
    }
    if (object == nullptr) object = new T;
    return *object;
}

}  // namespace moe::device
