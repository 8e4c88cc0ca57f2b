#include "aclnn/registry.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <unordered_map>

namespace moe::device {
namespace {

// No address of a process begins with these bits, so that handles and pointers cannot be confused.
constexpr uint64_t mark = 0xAC1ull << 52;
constexpr int kind_shift = 48;
constexpr uint64_t number_mask = (1ull << kind_shift) - 1;
// Origins are remembered for so many destroyed objects.
constexpr size_t remembered = 4096;

struct Destroyed {
    uint64_t number;
    Origin made;
    Origin destroyed;
};

struct Registry {
    std::mutex mutex;
    uint64_t last_number = 0;
    std::unordered_map<uint64_t, std::shared_ptr<Object>> live;
    std::deque<Destroyed> destroyed;
};

Registry& registry() {
    static Registry* const instance = new Registry;
    return *instance;
}

uint64_t value_of(const void* handle) {
    return reinterpret_cast<uintptr_t>(handle);
}

}  // namespace

const char* kind_name(Kind kind) {
    static constexpr const char* names[] = {"",           "tensor",      "scalar",      "int array", "float array",
                                            "bool array", "tensor list", "scalar list", "executor",  "stream",
                                            "event",      "context"};
    return names[static_cast<int>(kind)];
}

void* add_object(std::shared_ptr<Object> object) {
    const std::lock_guard<std::mutex> lock(registry().mutex);
    object->number = ++registry().last_number;
    const uint64_t value = mark | static_cast<uint64_t>(object->kind) << kind_shift | object->number;
    object->handle = reinterpret_cast<void*>(static_cast<uintptr_t>(value));
    void* const handle = object->handle;
    registry().live.emplace(value, std::move(object));
    return handle;
}

std::shared_ptr<Object> find_object(const void* handle, Kind kind) {
    const std::lock_guard<std::mutex> lock(registry().mutex);
    const auto found = registry().live.find(value_of(handle));
    return found == registry().live.end() || found->second->kind != kind ? nullptr : found->second;
}

std::shared_ptr<Object> remove_object(const void* handle, Kind kind) {
    const Origin now = origin();
    const std::lock_guard<std::mutex> lock(registry().mutex);
    const auto found = registry().live.find(value_of(handle));
    if (found == registry().live.end() || found->second->kind != kind) return nullptr;
    std::shared_ptr<Object> object = std::move(found->second);
    registry().live.erase(found);
    registry().destroyed.push_back({object->number, object->made, now});
    if (registry().destroyed.size() > remembered) registry().destroyed.pop_front();
    return object;
}

Fate fate_of(const void* handle, Kind kind) {
    if (handle == nullptr) return {"null", false, {}, 0};
    const std::lock_guard<std::mutex> lock(registry().mutex);
    const uint64_t value = value_of(handle);
    const auto found = registry().live.find(value);
    if (found != registry().live.end())
        return {text("%s number %llu", kind_name(found->second->kind),
                     static_cast<unsigned long long>(found->second->number)),
                found->second->kind == kind, found->second->made, found->second->number};
    const uint64_t number = value & number_mask;
    const auto old_kind = static_cast<Kind>((value >> kind_shift) & 0xF);
    if ((value & 0xFFF0000000000000) != mark || number == 0 || number > registry().last_number ||
        static_cast<int>(old_kind) < 1 || old_kind > Kind::context)
        return {text("%p is no handle of this library", handle), false, {}, 0};
    const auto& destroyed = registry().destroyed;
    const auto record = std::find_if(destroyed.rbegin(), destroyed.rend(),
                                     [&](const Destroyed& entry) { return entry.number == number; });
    std::string seen = text("%s number %llu, destroyed", kind_name(old_kind), static_cast<unsigned long long>(number));
    if (record == destroyed.rend()) return {seen + " long ago", old_kind == kind, {}, number};
    return {seen + " by " + record->destroyed.text(), old_kind == kind, record->made, number, record->destroyed.api};
}

std::vector<std::shared_ptr<Object>> live_objects(Kind kind) {
    std::vector<std::shared_ptr<Object>> objects;
    {
        const std::lock_guard<std::mutex> lock(registry().mutex);
        for (const auto& [value, object] : registry().live)
            if (object->kind == kind) objects.push_back(object);
    }
    std::sort(objects.begin(), objects.end(), [](const auto& a, const auto& b) { return a->number < b->number; });
    return objects;
}

void lock_registry() {
    registry().mutex.lock();
}
void unlock_registry() {
    registry().mutex.unlock();
}

}  // namespace moe::device
