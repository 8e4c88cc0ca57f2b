// Devices, contexts, and what a thread works on.
#pragma once

#include <map>
#include <memory>

#include "aclnn/registry.h"

namespace moe::device {

class Stream;

constexpr int32_t device_count = 8;

class Context : public Object {
  public:
    static constexpr Kind object_kind = Kind::context;
    Context(int32_t device_id, bool is_default) : Object(object_kind), device(device_id), of_device(is_default) {}

    const int32_t device;
    const bool of_device;  // made by aclrtSetDevice
    // --- Under the state lock ---
    std::shared_ptr<Stream> default_stream;
    std::map<int, int64_t> options;
    bool live = true;
};

// The context of this thread; null when there is none or it was destroyed.
std::shared_ptr<Context> current_context();

// Refuses with 107002 when there is none. Warns once about a missing aclInit.
Status need_context(std::shared_ptr<Context>* context);

}  // namespace moe::device
