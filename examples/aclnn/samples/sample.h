// The steps that programs for a card repeat, written out as they do, for the samples of this folder.
//
// Samples make the mistakes that programs for a card are seen to make and a card does not report. Each mistake has a
// name; a sample leaves out those that are named on its command line.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "acl/acl.h"
#include "aclnn/aclnn_base.h"

#define CHECK(call)                                                                                            \
    do {                                                                                                       \
        const int check_status = (call);                                                                       \
        if (check_status != 0) {                                                                               \
            const char* check_text = aclGetRecentErrMsg();                                                     \
            std::printf("%s returned %d\n%s\n", #call, check_status, check_text == nullptr ? "" : check_text); \
            return 1;                                                                                          \
        }                                                                                                      \
    } while (0)

struct Mistakes {
    int argc;
    char** argv;
    bool make(const char* name) const {
        for (int i = 1; i < argc; ++i)
            if (std::strcmp(argv[i], name) == 0) return false;
        return true;
    }
};

inline int64_t element_count(const std::vector<int64_t>& shape) {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    return count;
}

inline int start(aclrtStream* stream) {
    CHECK(aclInit(nullptr));
    CHECK(aclrtSetDevice(0));
    CHECK(aclrtCreateStream(stream));
    return 0;
}

inline int finish(aclrtStream stream) {
    CHECK(aclrtDestroyStream(stream));
    CHECK(aclrtResetDevice(0));
    CHECK(aclFinalize());
    return 0;
}

// Device memory with the bytes of `host`, of as many elements of T as the shape says.
template <class T>
int make_buffer(const std::vector<T>& host, const std::vector<int64_t>& shape, void** data) {
    const size_t bytes = static_cast<size_t>(element_count(shape)) * sizeof(T);
    CHECK(aclrtMalloc(data, bytes, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclrtMemcpy(*data, bytes, host.data(), bytes, ACL_MEMCPY_HOST_TO_DEVICE));
    return 0;
}

// A contiguous tensor over such memory; nothing says that T and the type are of one size.
template <class T>
int make_tensor(const std::vector<T>& host, const std::vector<int64_t>& shape, aclDataType type, void** data,
                aclTensor** tensor) {
    if (make_buffer(host, shape, data) != 0) return 1;
    std::vector<int64_t> strides(shape.size(), 1);
    for (size_t i = shape.size(); i > 1; --i) strides[i - 2] = strides[i - 1] * shape[i - 1];
    *tensor = aclCreateTensor(shape.data(), shape.size(), type, strides.data(), 0, aclFormat::ACL_FORMAT_ND,
                              shape.data(), shape.size(), *data);
    return *tensor == nullptr ? 1 : 0;
}

template <class T>
int print_first(const char* name, const void* data, size_t count) {
    std::vector<T> host(count);
    CHECK(aclrtMemcpy(host.data(), count * sizeof(T), data, count * sizeof(T), ACL_MEMCPY_DEVICE_TO_HOST));
    std::printf("%s:", name);
    for (size_t i = 0; i < count && i < 8; ++i) std::printf(" %g", static_cast<double>(host[i]));
    std::printf(count > 8 ? " ...\n" : "\n");
    return 0;
}
