/* What the C programs of this folder do around their operators. */
#ifndef EXAMPLES_ACLNN_CLIENT_H
#define EXAMPLES_ACLNN_CLIENT_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "acl/acl.h"
#include "aclnn/aclnn_base.h"

/* Ends the program with the text of the library unless a call returns 0. */
#define CHECK(call)                                                                                     \
    do {                                                                                                \
        const int check_status = (call);                                                                \
        if (check_status != 0) {                                                                        \
            const char* const check_text = aclGetRecentErrMsg();                                        \
            fprintf(stderr, "%s returned %d\n%s\n", #call, check_status, check_text ? check_text : ""); \
            exit(1);                                                                                    \
        }                                                                                               \
    } while (0)

/* A tensor and the device memory that it describes. */
typedef struct device_tensor {
    aclTensor* tensor;
    void* data;
    size_t size;
} device_tensor;

/* `host` has the elements of a contiguous tensor; null leaves zeros. */
static inline device_tensor make_tensor(aclDataType type, const void* host, uint64_t rank, const int64_t* shape) {
    device_tensor made = {NULL, NULL, aclDataTypeSize(type)};
    for (uint64_t i = 0; i < rank; ++i) made.size *= (size_t)shape[i];
    CHECK(aclrtMalloc(&made.data, made.size, ACL_MEM_MALLOC_HUGE_FIRST));
    if (host != NULL) {
        CHECK(aclrtMemcpy(made.data, made.size, host, made.size, ACL_MEMCPY_HOST_TO_DEVICE));
    } else {
        CHECK(aclrtMemset(made.data, made.size, 0, made.size));
    }
    made.tensor = aclCreateTensor(shape, rank, type, NULL, 0, ACL_FORMAT_ND, shape, rank, made.data);
    return made;
}

static inline void read_tensor(const device_tensor* tensor, void* host) {
    CHECK(aclrtMemcpy(host, tensor->size, tensor->data, tensor->size, ACL_MEMCPY_DEVICE_TO_HOST));
}

static inline void free_tensor(device_tensor* tensor) {
    CHECK(aclDestroyTensor(tensor->tensor));
    CHECK(aclrtFree(tensor->data));
}

/* The second call of an operator, its workspace, and the wait for its end. */
static inline void launch(aclnnStatus (*operator_call)(void*, uint64_t, aclOpExecutor*, aclrtStream), uint64_t size,
                          aclOpExecutor* executor, aclrtStream stream) {
    void* workspace = NULL;
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(operator_call(workspace, size, executor, stream));
    CHECK(aclrtSynchronizeStream(stream));
    if (workspace != NULL) CHECK(aclrtFree(workspace));
}

static inline void expect_floats(const char* name, const device_tensor* tensor, const float* wanted, double bound) {
    const size_t count = tensor->size / sizeof(float);
    float* const seen = malloc(tensor->size);
    read_tensor(tensor, seen);
    for (size_t i = 0; i < count; ++i) {
        if (!(fabs((double)seen[i] - wanted[i]) <= bound)) {
            fprintf(stderr, "%s[%zu] is %g, wanted %g\n", name, i, seen[i], wanted[i]);
            exit(1);
        }
    }
    free(seen);
    printf("%s: %zu elements as expected\n", name, count);
}

static inline void expect_int32s(const char* name, const device_tensor* tensor, const int32_t* wanted) {
    const size_t count = tensor->size / sizeof(int32_t);
    int32_t* const seen = malloc(tensor->size);
    read_tensor(tensor, seen);
    for (size_t i = 0; i < count; ++i) {
        if (seen[i] != wanted[i]) {
            fprintf(stderr, "%s[%zu] is %d, wanted %d\n", name, i, (int)seen[i], (int)wanted[i]);
            exit(1);
        }
    }
    free(seen);
    printf("%s: %zu elements as expected\n", name, count);
}

#endif
