// What the programs of this folder do around their operators: the device, tensors in its memory, the two calls of an
// operator, and the comparison of results with expected numbers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "acl/acl.h"
#include "aclnn/aclnn_base.h"

namespace client {

// Status codes become exceptions with the text of the library.
inline void check(int status, const char* what) {
    if (status == 0) return;
    const char* text = aclGetRecentErrMsg();
    throw std::runtime_error(std::string(what) + " returned " + std::to_string(status) + "\n" + (text ? text : ""));
}
#define CLIENT_CHECK(call) ::client::check((call), #call)

// Device 0 with one stream.
class Device {
  public:
    Device() {
        CLIENT_CHECK(aclInit(nullptr));
        CLIENT_CHECK(aclrtSetDevice(0));
        CLIENT_CHECK(aclrtCreateStream(&stream_));
    }
    ~Device() {
        aclrtDestroyStream(stream_);
        aclrtResetDevice(0);
        aclFinalize();
    }
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    aclrtStream stream() const { return stream_; }
    void synchronize() const { CLIENT_CHECK(aclrtSynchronizeStream(stream_)); }

  private:
    aclrtStream stream_ = nullptr;
};

// Bytes of device memory.
class Buffer {
  public:
    explicit Buffer(size_t size) {
        if (size > 0) CLIENT_CHECK(aclrtMalloc(&data_, size, ACL_MEM_MALLOC_HUGE_FIRST));
    }
    ~Buffer() {
        if (data_ != nullptr) aclrtFree(data_);
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    void* data() const { return data_; }

  private:
    void* data_ = nullptr;
};

using Shape = std::vector<int64_t>;

inline int64_t elements(const Shape& shape) {
    return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

inline uint16_t bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline float from_bfloat16(uint16_t value) {
    const uint32_t bits = uint32_t{value} << 16;
    float result;
    std::memcpy(&result, &bits, sizeof(result));
    return result;
}

// Contiguous, in device memory of its own. T is the host's type of an element: uint16_t for float16 and bfloat16.
template <class T>
class Tensor {
  public:
    // An output: zeros, so that what an operator leaves alone has a value.
    Tensor(const Shape& shape, aclDataType type)
        : Tensor(shape, type, std::vector<T>(static_cast<size_t>(elements(shape)))) {}
    // An input. `storage` differs from the shape for private formats, and may hold more elements.
    Tensor(const Shape& shape, aclDataType type, const std::vector<T>& values, aclFormat format = ACL_FORMAT_ND,
           const Shape& storage = {})
        : size_(values.size()), buffer_(values.size() * sizeof(T)) {
        if (size_ > 0) {
            const size_t bytes = size_ * sizeof(T);
            CLIENT_CHECK(aclrtMemcpy(buffer_.data(), bytes, values.data(), bytes, ACL_MEMCPY_HOST_TO_DEVICE));
        }
        Shape stride(shape.size(), 1);
        for (size_t i = shape.size(); i > 1; --i) stride[i - 2] = stride[i - 1] * shape[i - 1];
        const Shape& stored = storage.empty() ? shape : storage;
        tensor_ = aclCreateTensor(shape.data(), shape.size(), type, stride.data(), 0, format, stored.data(),
                                  stored.size(), buffer_.data());
        if (tensor_ == nullptr) throw std::runtime_error("aclCreateTensor returned null");
    }
    ~Tensor() { aclDestroyTensor(tensor_); }
    Tensor(const Tensor&) = delete;
    Tensor& operator=(const Tensor&) = delete;

    aclTensor* get() const { return tensor_; }
    operator aclTensor*() const { return tensor_; }
    void* data() const { return buffer_.data(); }

    // The contents, once the stream was synchronised.
    std::vector<T> read() const {
        std::vector<T> values(size_);
        const size_t bytes = size_ * sizeof(T);
        if (bytes > 0)
            CLIENT_CHECK(aclrtMemcpy(values.data(), bytes, buffer_.data(), bytes, ACL_MEMCPY_DEVICE_TO_HOST));
        return values;
    }

  private:
    size_t size_;
    Buffer buffer_;
    aclTensor* tensor_ = nullptr;
};

inline Tensor<float> floats(const Shape& shape, const std::vector<float>& values) {
    return {shape, ACL_FLOAT, values};
}
inline Tensor<int32_t> int32s(const Shape& shape, const std::vector<int32_t>& values) {
    return {shape, ACL_INT32, values};
}
inline Tensor<int64_t> int64s(const Shape& shape, const std::vector<int64_t>& values) {
    return {shape, ACL_INT64, values};
}
inline Tensor<int8_t> int8s(const Shape& shape, const std::vector<int8_t>& values) {
    return {shape, ACL_INT8, values};
}

class IntArray {
  public:
    IntArray(std::initializer_list<int64_t> values) : IntArray(std::vector<int64_t>(values)) {}
    explicit IntArray(const std::vector<int64_t>& values) : array_(aclCreateIntArray(values.data(), values.size())) {}
    ~IntArray() { aclDestroyIntArray(array_); }
    IntArray(const IntArray&) = delete;
    IntArray& operator=(const IntArray&) = delete;
    operator aclIntArray*() const { return array_; }

  private:
    aclIntArray* array_;
};

using Run = aclnnStatus (*)(void*, uint64_t, aclOpExecutor*, aclrtStream);

// Both calls of an operator and the wait for its end. The workspace lives until then.
template <class... Parameters, class... Arguments>
void run(const Device& device, const char* name, aclnnStatus (*get_workspace_size)(Parameters...), Run launch,
         Arguments&&... arguments) {
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;
    check(get_workspace_size(std::forward<Arguments>(arguments)..., &size, &executor),
          (std::string(name) + "GetWorkspaceSize").c_str());
    const Buffer workspace(size);
    check(launch(workspace.data(), size, executor, device.stream()), name);
    device.synchronize();
}
// run(device, CLIENT_OP(SwiGlu), x, dim, out)
#define CLIENT_OP(name) "aclnn" #name, aclnn##name##GetWorkspaceSize, aclnn##name

template <class T>
void expect_equal(const char* what, const std::vector<T>& seen, const std::vector<T>& wanted) {
    if (seen.size() != wanted.size())
        throw std::runtime_error(std::string(what) + ": " + std::to_string(seen.size()) + " elements, wanted " +
                                 std::to_string(wanted.size()));
    for (size_t i = 0; i < seen.size(); ++i)
        if (seen[i] != wanted[i])
            throw std::runtime_error(std::string(what) + "[" + std::to_string(i) + "] is " + std::to_string(seen[i]) +
                                     ", wanted " + std::to_string(wanted[i]));
    std::printf("%s: %zu elements as expected\n", what, seen.size());
}

// |seen - wanted| <= bound, element by element.
inline void expect_close(const char* what, const std::vector<float>& seen, const std::vector<double>& wanted,
                         const std::function<double(size_t)>& bound) {
    if (seen.size() != wanted.size()) throw std::runtime_error(std::string(what) + ": wrong number of elements");
    for (size_t i = 0; i < seen.size(); ++i)
        if (!(std::fabs(seen[i] - wanted[i]) <= bound(i)))
            throw std::runtime_error(std::string(what) + "[" + std::to_string(i) + "] is " + std::to_string(seen[i]) +
                                     ", wanted " + std::to_string(wanted[i]));
    std::printf("%s: %zu elements as expected\n", what, seen.size());
}

// main() of every program: 0 when `body` returns.
template <class Body>
int program(Body&& body) {
    try {
        body();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}

}  // namespace client
