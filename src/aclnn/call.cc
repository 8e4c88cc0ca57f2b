#include "aclnn/call.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>

#include <atomic>
#include <cstring>

#include "aclnn/registry.h"
#include "aclnn/settings.h"
#include "aclnn/state.h"

namespace moe::device {
namespace {

constexpr int deepest_backtrace = 16;

// The call that a thread is in.
struct Current {
    Origin origin;
};
std::atomic<bool> lost{false};

std::string place(const void* address) {
    Dl_info info;
    if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return text("%p", address);
    const char* file = std::strrchr(info.dli_fname, '/');
    file = file == nullptr ? info.dli_fname : file + 1;
    const auto offset = [&](const void* base) {
        return static_cast<long long>(static_cast<const char*>(address) - static_cast<const char*>(base));
    };
    if (info.dli_sname != nullptr) return text("%s(%s+0x%llx)", file, info.dli_sname, offset(info.dli_saddr));
    return text("%s(+0x%llx)", file, offset(info.dli_fbase));
}

// The functions whose codes are those of the runtime.
bool of_runtime(const char* api) {
    return std::strncmp(api, "aclrt", 5) == 0 || std::strncmp(api, "aclsys", 6) == 0 ||
           std::strncmp(api, "aclFinalize", 11) == 0 || std::strcmp(api, "aclInit") == 0;
}

// The locks that any thread may hold are taken around a fork, so that the child finds them free.
struct AtLoad {
    AtLoad() {
        pthread_atfork(
            [] {
                state_mutex().lock();
                lock_registry();
                lock_findings();
            },
            [] {
                unlock_findings();
                unlock_registry();
                state_mutex().unlock();
            },
            [] {
                unlock_findings();
                unlock_registry();
                state_mutex().unlock();
                lost = device_used();
            });
    }
} at_load;

}  // namespace

std::string Origin::text() const {
    if (*api == '\0') return "";
    std::string out = std::string(api) + " called from " + place(caller);
    if (frames == nullptr) return out;
    for (const void* frame : *frames) out += "\n        " + place(frame);
    return out;
}

const Origin& here() {
    return own<Current>().origin;
}

Origin origin() {
    Origin made = here();
    if (option(MOE_ACLNN_OPTION_BACKTRACE)) {
        std::vector<void*> frames(deepest_backtrace);
        frames.resize(static_cast<size_t>(backtrace(frames.data(), deepest_backtrace)));
        made.frames = std::make_shared<const std::vector<void*>>(std::move(frames));
    }
    return made;
}

CallScope::CallScope(const Origin& now) : previous_(std::exchange(own<Current>().origin, now)) {}

CallScope::~CallScope() {
    deliver_findings();
    own<Current>().origin = std::move(previous_);
}

bool device_lost() {
    return lost.load(std::memory_order_relaxed);
}

Status refuse_lost(const char* api) {
    return refuse(of_runtime(api) ? 507899 : 361001, Rule::no_device, "", "the device was lost in a fork",
                  "a device of the process itself");
}

Status refuse_exhausted(const char* api) {
    return refuse(of_runtime(api) ? 200000 : 561103, Rule::argument, "", "no memory on the host", "");
}

}  // namespace moe::device
