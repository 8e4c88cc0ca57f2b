#include "aclnn/context.h"

#include <atomic>
#include <cstdio>
#include <cstring>

#include "acl/acl.h"
#include "aclnn/aclnn_base.h"
#include "aclnn/memory.h"
#include "aclnn/settings.h"
#include "aclnn/state.h"
#include "aclnn/stream.h"
#include "aclnn/tensor.h"

namespace moe::device {
namespace {

struct Device {
    int64_t references = 0;
    std::shared_ptr<Context> context;  // the default one
};

struct Process {
    uint64_t initialised = 0;  // calls of aclInit that were not taken back
    bool ever_initialised = false;
    bool warned = false;
    Device devices[device_count];
    std::map<int, int64_t> options;
};
// Never destroyed: clients call until the very end.
Process& process() {
    static Process* const instance = new Process;
    return *instance;
}

std::atomic<bool> used{false};

// The context that a thread has chosen.
struct Chosen {
    std::weak_ptr<Context> context;
};

using Lock = std::unique_lock<std::mutex>;

Status check_device(int32_t device) {
    if (device >= 0 && device < device_count) return 0;
    return refuse(107001, Rule::argument, "deviceId", text("%d", device), text("0 to %d", device_count - 1));
}

// Ends a context and its streams. Not under the state lock.
void close_context(const std::shared_ptr<Context>& context) {
    std::shared_ptr<Stream> default_stream;
    {
        const Lock lock(state_mutex());
        context->live = false;
        default_stream.swap(context->default_stream);
    }
    for (const auto& object : live_objects(Kind::stream)) {
        const auto stream = std::static_pointer_cast<Stream>(object);
        if (stream->context != context || withdraw<Stream>(stream->handle) == nullptr) continue;
        if (stream != default_stream)
            warn(Rule::unbalanced, "",
                 text("stream number %llu was still there when its context ended",
                      static_cast<unsigned long long>(stream->number)),
                 "aclrtDestroyStream before", stream->about());
        retire_stream(stream, false);
    }
    withdraw<Context>(context->handle);
}

Status set_device(int32_t device) {
    MOE_DEVICE_TRY(check_device(device));
    used = true;
    const Lock lock(state_mutex());
    Device& entry = process().devices[device];
    ++entry.references;
    if (entry.context == nullptr) {
        entry.context = std::make_shared<Context>(device, true);
        add_object(entry.context);
    }
    own<Chosen>().context = entry.context;
    return 0;
}

Status reset_device(int32_t device, bool force) {
    MOE_DEVICE_TRY(check_device(device));
    std::shared_ptr<Context> context;
    {
        const Lock lock(state_mutex());
        Device& entry = process().devices[device];
        if (entry.references == 0)
            return refuse(107002, Rule::unbalanced, "deviceId", text("device %d is not set", device),
                          "an aclrtSetDevice for every aclrtResetDevice");
        --entry.references;
        if (entry.references > 0 && !force) return 0;
        entry.references = 0;
        context = std::move(entry.context);
    }
    for (const auto& object : live_objects(Kind::context)) {
        const auto other = std::static_pointer_cast<Context>(object);
        if (other->device == device && other != context) close_context(other);
    }
    close_context(context);
    const Lock lock(state_mutex());
    for (const AllocationPtr& allocation : live_allocations())
        if (allocation->device == device)
            warn(Rule::unbalanced, "",
                 text("allocation %llu of %zu bytes was still there when its device was reset",
                      static_cast<unsigned long long>(allocation->number), allocation->size),
                 "aclrtFree before", allocation->about());
    free_all(device, here());
    return 0;
}

Status initialise(Status again) {
    if (!environment_fault().empty()) return refuse(100000, Rule::argument, "", environment_fault(), "");
    used = true;
    const Lock lock(state_mutex());
    process().ever_initialised = true;
    if (++process().initialised == 1) return 0;
    return refuse(again, Rule::unbalanced, "", "initialised already", "one aclInit a process");
}

// What is alive when the process says that it is done.
void report_leaks() {
    bool leaks = false;
    const auto leak = [&](Rule rule, const std::string& seen, const char* needed, const About& about) {
        warn(rule, "", seen, needed, about);
        leaks = true;
    };
    for (const Kind kind : {Kind::tensor, Kind::scalar, Kind::int_array, Kind::float_array, Kind::bool_array,
                            Kind::tensor_list, Kind::scalar_list, Kind::executor, Kind::stream, Kind::event}) {
        for (const auto& object : live_objects(kind)) {
            // The default stream of a context is nobody's to destroy.
            if (kind == Kind::stream) {
                const Lock lock(state_mutex());
                if (static_cast<Stream&>(*object).context->default_stream == object) continue;
            }
            leak(
                kind == Kind::executor ? Rule::executor_leak : Rule::unbalanced,
                text("%s number %llu is still there", kind_name(kind), static_cast<unsigned long long>(object->number)),
                "everything destroyed before aclFinalize", object->about());
        }
    }
    {
        const Lock lock(state_mutex());
        for (const AllocationPtr& allocation : live_allocations())
            leak(Rule::unbalanced,
                 text("allocation %llu of %zu bytes is still there",
                      static_cast<unsigned long long>(allocation->number), allocation->size),
                 "everything freed before aclFinalize", allocation->about());
        for (int device = 0; device < device_count; ++device)
            if (process().devices[device].references > 0)
                leak(Rule::unbalanced,
                     text("device %d was set %lld times more than it was reset", device,
                          static_cast<long long>(process().devices[device].references)),
                     "an aclrtResetDevice for every aclrtSetDevice", {});
    }
    // A client who forgets one thing may have forgotten these; nobody can see whether they were deleted.
    if (const uint64_t arrays = take_getter_arrays(); leaks && arrays > 0)
        warn(Rule::getter_array, "",
             text("getters made %llu arrays, whose end nobody sees", static_cast<unsigned long long>(arrays)),
             "delete[] by the client");
    if (has_error_text())
        warn(Rule::error_text, "", "nobody fetched the text of an error: " + last_refusal(), "aclGetRecentErrMsg");
}

Status finalise(uint64_t take_back, uint64_t* left) {
    {
        const Lock lock(state_mutex());
        uint64_t& count = process().initialised;
        if (count == 0)
            return refuse(100037, Rule::unbalanced, "",
                          process().ever_initialised ? "finalised already" : "never initialised",
                          "one aclFinalize for an aclInit");
        count -= std::min(count, take_back);
        if (left != nullptr) *left = count;
        if (count > 0) return 0;
    }
    report_leaks();
    return 0;
}

Status check_option(aclSysParamOpt option) {
    const int number = static_cast<int>(option);
    if (number >= ACL_OPT_DETERMINISTIC && number <= ACL_OPT_KERNEL_EARLY_START) return 0;
    return refuse(100000, Rule::argument, "opt", text("%d", number), "0 to 3");
}

Status set_option(std::map<int, int64_t>* options, aclSysParamOpt option, int64_t value) {
    MOE_DEVICE_TRY(check_option(option));
    if (value != 0 && value != 1)
        return refuse(100000, Rule::argument, "value", text("%lld", static_cast<long long>(value)), "0 or 1");
    (*options)[option] = value;
    return 0;
}

Status get_option(const std::map<int, int64_t>& options, aclSysParamOpt option, int64_t* value) {
    if (value == nullptr) return refuse(100000, Rule::null_argument, "value", "null", "a place for the result");
    MOE_DEVICE_TRY(check_option(option));
    const auto found = options.find(option);
    if (found == options.end())
        return refuse(107021, Rule::argument, "opt", text("%d was never set", static_cast<int>(option)),
                      "an option that was set");
    *value = found->second;
    return 0;
}

Status synchronise_device(int32_t timeout_ms) {
    if (timeout_ms < -1) return refuse(107000, Rule::argument, "timeout", text("%d", timeout_ms), "-1 or milliseconds");
    std::shared_ptr<Context> context;
    MOE_DEVICE_TRY(need_context(&context));
    Status first = 0;
    for (const auto& object : live_objects(Kind::stream)) {
        const auto stream = std::static_pointer_cast<Stream>(object);
        if (stream->context->device != context->device) continue;
        const Status status = synchronise(stream, timeout_ms);
        if (first == 0) first = status;
    }
    return first;
}

}  // namespace

bool device_used() {
    return used;
}

std::shared_ptr<Context> current_context() {
    std::shared_ptr<Context> context = own<Chosen>().context.lock();
    if (context == nullptr) return nullptr;
    const Lock lock(state_mutex());
    return context->live ? context : nullptr;
}

Status need_context(std::shared_ptr<Context>* context) {
    *context = current_context();
    if (*context == nullptr)
        return refuse(107002, Rule::no_device, "", "no context on this thread",
                      "aclrtSetDevice or aclrtSetCurrentContext before");
    const Lock lock(state_mutex());
    if (!process().ever_initialised && !process().warned) {
        process().warned = true;
        warn(Rule::no_device, "", "aclInit was not called", "aclInit before everything else");
    }
    return 0;
}

}  // namespace moe::device

using namespace moe::device;

aclError aclInit(const char*) {
    return entry(MOE_HERE, [&] { return initialise(100002); });
}

aclError aclFinalize() {
    return entry(MOE_HERE, [&] { return finalise(UINT64_MAX, nullptr); });
}

aclError aclFinalizeReference(uint64_t* refCount) {
    return entry(MOE_HERE, [&] { return finalise(1, refCount); });
}

aclnnStatus aclnnInit(const char*) {
    return entry(MOE_HERE, [&]() -> Status {
        const Status status = initialise(0);
        return status == 0 ? 0 : 361001;
    });
}

aclnnStatus aclnnFinalize() {
    return entry(MOE_HERE, [&]() -> Status { return finalise(1, nullptr) == 0 ? 0 : 361001; });
}

aclError aclrtGetVersion(int32_t* majorVersion, int32_t* minorVersion, int32_t* patchVersion) {
    return entry(MOE_HERE, [&]() -> Status {
        if (majorVersion == nullptr || minorVersion == nullptr || patchVersion == nullptr)
            return refuse(100000, Rule::null_argument, "majorVersion, minorVersion, patchVersion", "null",
                          "a place for each");
        *majorVersion = ACL_MAJOR_VERSION;
        *minorVersion = ACL_MINOR_VERSION;
        *patchVersion = ACL_PATCH_VERSION;
        return 0;
    });
}

aclError aclsysGetCANNVersion(aclCANNPackageName name, aclCANNPackageVersion* version) {
    return entry(MOE_HERE, [&]() -> Status {
        if (version == nullptr) return refuse(100000, Rule::null_argument, "version", "null", "a place for the result");
        const int number = static_cast<int>(name);
        if (number < ACL_PKG_NAME_CANN || number > ACL_PKG_NAME_DRIVER)
            return refuse(100000, Rule::argument, "name", text("%d", number), "0 to 7");
        *version = {};
        // The toolkit whose interface this library follows.
        std::snprintf(version->version, sizeof version->version, "8.1.RC1");
        std::snprintf(version->majorVersion, sizeof version->majorVersion, "8");
        std::snprintf(version->minorVersion, sizeof version->minorVersion, "1");
        std::snprintf(version->releaseVersion, sizeof version->releaseVersion, "RC1");
        return 0;
    });
}

const char* aclrtGetSocName() {
    return soc_name();
}

aclError aclrtSetDevice(int32_t deviceId) {
    return entry(MOE_HERE, [&] { return set_device(deviceId); });
}

aclError aclrtResetDevice(int32_t deviceId) {
    return entry(MOE_HERE, [&] { return reset_device(deviceId, false); });
}

aclError aclrtResetDeviceForce(int32_t deviceId) {
    return entry(MOE_HERE, [&] { return reset_device(deviceId, true); });
}

aclError aclrtGetDevice(int32_t* deviceId) {
    return entry(MOE_HERE, [&]() -> Status {
        if (deviceId == nullptr)
            return refuse(100000, Rule::null_argument, "deviceId", "null", "a place for the result");
        std::shared_ptr<Context> context;
        MOE_DEVICE_TRY(need_context(&context));
        *deviceId = context->device;
        return 0;
    });
}

aclError aclrtGetDeviceCount(uint32_t* count) {
    return entry(MOE_HERE, [&]() -> Status {
        if (count == nullptr) return refuse(100000, Rule::null_argument, "count", "null", "a place for the result");
        *count = device_count;
        return 0;
    });
}

aclError aclrtGetRunMode(aclrtRunMode* runMode) {
    return entry(MOE_HERE, [&]() -> Status {
        if (runMode == nullptr) return refuse(100000, Rule::null_argument, "runMode", "null", "a place for the result");
        *runMode = ACL_HOST;
        return 0;
    });
}

aclError aclrtSynchronizeDevice() {
    return entry(MOE_HERE, [&] { return synchronise_device(-1); });
}

aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout) {
    return entry(MOE_HERE, [&] { return synchronise_device(timeout); });
}

aclError aclrtCreateContext(aclrtContext* context, int32_t deviceId) {
    return entry(MOE_HERE, [&]() -> Status {
        if (context == nullptr)
            return refuse(100000, Rule::null_argument, "context", "null", "a place for the context");
        MOE_DEVICE_TRY(check_device(deviceId));
        used = true;
        auto made = std::make_shared<Context>(deviceId, false);
        *context = add_object(made);
        own<Chosen>().context = made;
        return 0;
    });
}

aclError aclrtDestroyContext(aclrtContext context) {
    return entry(MOE_HERE, [&]() -> Status {
        if (context == nullptr) return refuse(100000, Rule::stream_handle, "context", "null", "a context");
        const std::shared_ptr<Context> object = lookup<Context>(context);
        if (object == nullptr) {
            const Fate fate = fate_of(context, Kind::context);
            return refuse(107017, Rule::stream_handle, "context", fate.text, "a context that is alive",
                          {&fate.made, context, fate.number});
        }
        if (object->of_device)
            return refuse(100000, Rule::stream_handle, "context", "the default context of a device",
                          "a context of aclrtCreateContext", object->about());
        close_context(object);
        return 0;
    });
}

aclError aclrtSetCurrentContext(aclrtContext context) {
    return entry(MOE_HERE, [&]() -> Status {
        if (context == nullptr) return refuse(100000, Rule::stream_handle, "context", "null", "a context");
        const std::shared_ptr<Context> object = lookup<Context>(context);
        if (object == nullptr) {
            const Fate fate = fate_of(context, Kind::context);
            return refuse(107017, Rule::stream_handle, "context", fate.text, "a context that is alive",
                          {&fate.made, context, fate.number});
        }
        own<Chosen>().context = object;
        return 0;
    });
}

aclError aclrtGetCurrentContext(aclrtContext* context) {
    return entry(MOE_HERE, [&]() -> Status {
        if (context == nullptr) return refuse(100000, Rule::null_argument, "context", "null", "a place for the result");
        std::shared_ptr<Context> current;
        MOE_DEVICE_TRY(need_context(&current));
        *context = current->handle;
        return 0;
    });
}

aclError aclrtSetSysParamOpt(aclSysParamOpt opt, int64_t value) {
    return entry(MOE_HERE, [&] {
        const Lock lock(state_mutex());
        return set_option(&process().options, opt, value);
    });
}

aclError aclrtGetSysParamOpt(aclSysParamOpt opt, int64_t* value) {
    return entry(MOE_HERE, [&] {
        const Lock lock(state_mutex());
        return get_option(process().options, opt, value);
    });
}

aclError aclrtCtxSetSysParamOpt(aclSysParamOpt opt, int64_t value) {
    return entry(MOE_HERE, [&]() -> Status {
        std::shared_ptr<Context> context;
        MOE_DEVICE_TRY(need_context(&context));
        const Lock lock(state_mutex());
        return set_option(&context->options, opt, value);
    });
}

aclError aclrtCtxGetSysParamOpt(aclSysParamOpt opt, int64_t* value) {
    return entry(MOE_HERE, [&]() -> Status {
        std::shared_ptr<Context> context;
        MOE_DEVICE_TRY(need_context(&context));
        const Lock lock(state_mutex());
        return get_option(context->options, opt, value);
    });
}
