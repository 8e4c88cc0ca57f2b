// Handles. What a client holds is a number that this table knows, not an address: it is looked up and never followed,
// and no number is given out twice, so that a destroyed or foreign handle is recognised for ever.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "aclnn/call.h"

namespace moe::device {

enum class Kind : uint8_t {
    tensor = 1,
    scalar,
    int_array,
    float_array,
    bool_array,
    tensor_list,
    scalar_list,
    executor,
    stream,
    event,
    context
};
const char* kind_name(Kind kind);

// What handles stand for.
class Object {
  public:
    explicit Object(Kind object_kind) : kind(object_kind), made(origin()) {}
    virtual ~Object() = default;
    Object(const Object&) = delete;
    Object& operator=(const Object&) = delete;

    // For findings about this object.
    About about() const { return {&made, nullptr, number}; }

    const Kind kind;
    const Origin made;
    uint64_t number = 0;  // in the order of making, over all kinds
    void* handle = nullptr;
};

// Enters an object, returns its handle.
void* add_object(std::shared_ptr<Object> object);

// Null when the handle does not stand for a live object of the kind.
std::shared_ptr<Object> find_object(const void* handle, Kind kind);

template <class T>
std::shared_ptr<T> lookup(const void* handle) {
    return std::static_pointer_cast<T>(find_object(handle, T::object_kind));
}

// Takes the object out and remembers the call that did. Null as above.
std::shared_ptr<Object> remove_object(const void* handle, Kind kind);

template <class T>
std::shared_ptr<T> withdraw(const void* handle) {
    return std::static_pointer_cast<T>(remove_object(handle, T::object_kind));
}

// What a handle that was not found is, for messages: "a tensor destroyed by ...", "no handle of this library".
struct Fate {
    std::string text;
    bool was_known;  // it was a handle of this kind once
    Origin made;     // of a live object of another kind, or of one that is remembered
    uint64_t number;
    const char* ended_by = "";  // the function that destroyed it, when that is remembered
};
Fate fate_of(const void* handle, Kind kind);

// Live objects of a kind, in the order of making.
std::vector<std::shared_ptr<Object>> live_objects(Kind kind);

void lock_registry();
void unlock_registry();

}  // namespace moe::device
