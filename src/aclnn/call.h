// The frame of every exported function: who called what, findings, fork.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "aclnn/findings.h"

namespace moe::device {

// Where something happened: the function, the place that called it, and a backtrace when asked for.
struct Origin {
    const char* api = "";
    const void* caller = nullptr;
    std::shared_ptr<const std::vector<void*>> frames;

    std::string text() const;
};

// The exported function that this thread is in; on a worker, the one that queued the task.
const Origin& here();
// `here()` with the backtrace that the settings ask for.
Origin origin();

// Names the current function for origins and findings while it lives, and delivers the findings at the end.
class CallScope {
  public:
    explicit CallScope(const Origin& current);
    ~CallScope();
    CallScope(const CallScope&) = delete;
    CallScope& operator=(const CallScope&) = delete;

  private:
    Origin previous_;
};

// True in a child of fork: the workers are gone, and with them the device.
bool device_lost();
Status refuse_lost(const char* api);
Status refuse_exhausted(const char* api);

// Runs the body of an exported function. Nothing is thrown past it, and a call that fails here returns null or 0
// where its result is no status.
template <class Body>
auto entry(const char* api, const void* caller, Body&& body) -> decltype(body()) {
    using Result = decltype(body());
    constexpr bool has_status = std::is_same_v<Result, Status>;
    const CallScope scope(Origin{api, caller, nullptr});
    const auto failed = [](Status status) {
        if constexpr (has_status)
            return status;
        else if constexpr (!std::is_void_v<Result>)
            return static_cast<void>(status), Result();
        else
            static_cast<void>(status);
    };
    if (device_lost()) return failed(refuse_lost(api));
    try {
        // The runtime remembers the last error of a thread, the aclnn functions have nothing like it.
        if constexpr (has_status) {
            const Status status = body();
            if (status != 0 && api[3] == 'r' && api[4] == 't') set_last_error(status);
            return status;
        } else {
            return body();
        }
    } catch (const std::exception&) {  // only memory runs out
        return failed(refuse_exhausted(api));
    }
}

}  // namespace moe::device

// First arguments of `entry` in an exported function.
#define MOE_HERE __func__, __builtin_return_address(0)
