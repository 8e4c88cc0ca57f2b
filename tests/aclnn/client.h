// A client of the CPU device for tests: device buffers, tensors, the two phases, and what was found.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <mutex>
#include <string>
#include <vector>

#include "acl/acl.h"
#include "aclnn/aclnn_base.h"
#include "aclnn/moe_aclnn.h"

namespace doctest {
template <class T>
struct StringMaker<std::vector<T>> {
    static String convert(const std::vector<T>& values) {
        String text = "{";
        for (const T& value : values) text += (text.size() > 1 ? ", " : "") + toString(value);
        return text + "}";
    }
};
}  // namespace doctest

namespace client {

template <class T>
struct Dtype;
template <>
struct Dtype<float> {
    static constexpr aclDataType value = ACL_FLOAT;
};
template <>
struct Dtype<int32_t> {
    static constexpr aclDataType value = ACL_INT32;
};
template <>
struct Dtype<int64_t> {
    static constexpr aclDataType value = ACL_INT64;
};
template <>
struct Dtype<int8_t> {
    static constexpr aclDataType value = ACL_INT8;
};
template <>
struct Dtype<uint16_t> {
    static constexpr aclDataType value = ACL_FLOAT16;
};
template <>
struct Dtype<uint64_t> {
    static constexpr aclDataType value = ACL_UINT64;
};

// Findings in the order they were made; errors that a card returns too are left out unless asked for.
class Findings {
  public:
    Findings() {
        moe_aclnn_set_callback(
            [](const moe_aclnn_finding* finding, void* user) {
                Findings& findings = *static_cast<Findings*>(user);
                const std::lock_guard<std::mutex> lock(findings.mutex_);
                findings.rules_.push_back({finding->rule, finding->severity,
                                           std::string(finding->api) + ": " + finding->argument + ": " + finding->seen +
                                               ", needed " + finding->needed});
            },
            this);
    }
    ~Findings() { moe_aclnn_set_callback(nullptr, nullptr); }
    Findings(const Findings&) = delete;
    Findings& operator=(const Findings&) = delete;

    // Names of the rules since the last call.
    std::vector<std::string> rules(bool errors = false) {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::vector<std::string> names;
        for (const Entry& entry : rules_)
            if (errors || entry.severity != MOE_ACLNN_ERROR) names.push_back(entry.rule);
        rules_.clear();
        return names;
    }
    std::string text() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::string all;
        for (const Entry& entry : rules_) all += entry.rule + ": " + entry.text + "\n";
        return all;
    }

  private:
    struct Entry {
        std::string rule;
        moe_aclnn_severity severity;
        std::string text;
    };
    mutable std::mutex mutex_;  // several threads may find something at once
    std::vector<Entry> rules_;
};
using Rules = std::vector<std::string>;

// A mode for the length of a scope.
class InMode {
  public:
    explicit InMode(moe_aclnn_mode mode) : previous_(moe_aclnn_get_mode()) { moe_aclnn_set_mode(mode); }
    ~InMode() { moe_aclnn_set_mode(previous_); }
    InMode(const InMode&) = delete;
    InMode& operator=(const InMode&) = delete;

  private:
    const moe_aclnn_mode previous_;
};

class WithOption {
  public:
    explicit WithOption(moe_aclnn_option option) : option_(option) { moe_aclnn_set_option(option, 1); }
    ~WithOption() { moe_aclnn_set_option(option_, 0); }
    WithOption(const WithOption&) = delete;
    WithOption& operator=(const WithOption&) = delete;

  private:
    const moe_aclnn_option option_;
};

// aclInit to aclFinalize with one stream.
class Session {
  public:
    Session() {
        REQUIRE(aclInit(nullptr) == 0);
        REQUIRE(aclrtSetDevice(0) == 0);
        REQUIRE(aclrtCreateStream(&stream) == 0);
    }
    ~Session() {
        aclGetRecentErrMsg();
        CHECK(aclrtDestroyStream(stream) == 0);
        CHECK(aclrtResetDevice(0) == 0);
        CHECK(aclFinalize() == 0);
    }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    aclError synchronise() { return aclrtSynchronizeStream(stream); }

    aclrtStream stream = nullptr;
};

// Device memory with contents.
class Buffer {
  public:
    explicit Buffer(size_t bytes) : size(bytes) {
        REQUIRE(aclrtMalloc(&data, std::max<size_t>(1, bytes), ACL_MEM_MALLOC_HUGE_FIRST) == 0);
    }
    template <class T>
    explicit Buffer(const std::vector<T>& values) : Buffer(values.size() * sizeof(T)) {
        if (size > 0) REQUIRE(aclrtMemcpy(data, size, values.data(), size, ACL_MEMCPY_HOST_TO_DEVICE) == 0);
    }
    ~Buffer() {
        if (data != nullptr) CHECK(aclrtFree(data) == 0);
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    template <class T>
    std::vector<T> read() const {
        std::vector<T> values(size / sizeof(T));
        if (size > 0) REQUIRE(aclrtMemcpy(values.data(), size, data, size, ACL_MEMCPY_DEVICE_TO_HOST) == 0);
        return values;
    }

    void* data = nullptr;
    const size_t size;
};

using Shape = std::vector<int64_t>;

inline int64_t product(const Shape& shape) {
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    return count;
}

inline aclTensor* make_tensor(const Shape& shape, aclDataType dtype, void* data, aclFormat format = ACL_FORMAT_ND) {
    return aclCreateTensor(shape.data(), shape.size(), dtype, nullptr, 0, format, shape.data(), shape.size(), data);
}

// A contiguous tensor with its own memory.
template <class T>
class Array {
  public:
    Array(const Shape& shape, const std::vector<T>& values, aclDataType dtype = Dtype<T>::value)
        : shape_(shape), buffer(values), handle(make_tensor(shape, dtype, buffer.data)) {
        REQUIRE(static_cast<int64_t>(values.size()) == product(shape));
    }
    explicit Array(const Shape& shape, T value = T(), aclDataType dtype = Dtype<T>::value)
        : Array(shape, std::vector<T>(static_cast<size_t>(product(shape)), value), dtype) {}
    ~Array() { CHECK(aclDestroyTensor(handle) == 0); }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;

    operator aclTensor*() const { return handle; }
    std::vector<T> read() const { return buffer.template read<T>(); }
    const Shape& shape() const { return shape_; }

  private:
    Shape shape_;

  public:
    Buffer buffer;
    aclTensor* handle;
};

using SecondPhase = aclnnStatus (*)(void*, uint64_t, aclOpExecutor*, aclrtStream);

// Phase 2 with as much workspace as phase 1 asked for, and the synchronisation. The first failure is returned.
inline aclnnStatus run(Session& session, SecondPhase second, uint64_t size, aclOpExecutor* executor) {
    void* workspace = nullptr;
    if (size > 0) REQUIRE(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST) == 0);
    aclnnStatus status = second(workspace, size, executor, session.stream);
    const aclError synchronised = session.synchronise();
    if (status == 0) status = synchronised;
    if (workspace != nullptr) CHECK(aclrtFree(workspace) == 0);
    return status;
}

// Text of the last errors; "" when there is none.
inline std::string error_text() {
    const char* text = aclGetRecentErrMsg();
    return text == nullptr ? "" : text;
}

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace client
