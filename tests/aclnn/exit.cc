// Handles and memory that static objects destroy, when the threads' own objects are gone: as a program does that keeps a
// tensor in a global unique_ptr. The process has to end as if nothing had happened.
#include <unistd.h>

#include <cstdio>

#include "acl/acl.h"
#include "aclnn/aclnn_base.h"

namespace {

void need(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "at exit: not %s\n", what);
    _exit(1);
}

struct Holder {
    aclTensor* tensor = nullptr;
    void* memory = nullptr;
    void* freed = nullptr;

    ~Holder() {
        for (int i = 0; i < 3; ++i) {
            need(aclDestroyTensor(tensor) == 0, "destroyed again");
            need(aclrtFree(freed) == 0, "freed again");
        }
        need(aclrtFree(memory) == 0, "freed");
        char byte = 0;
        need(aclrtMemcpy(&byte, 1, memory, 1, ACL_MEMCPY_DEVICE_TO_HOST) == 107002, "without a context");
        need(aclGetRecentErrMsg() != nullptr, "told");
        need(aclrtSetDevice(0) == 0, "set");
        need(aclrtMalloc(&memory, 1, ACL_MEM_MALLOC_HUGE_FIRST) == 0, "allocated");
        need(aclrtResetDevice(0) == 0, "reset");
    }
} holder;

}  // namespace

int main() {
    const int64_t length = 4;
    need(aclInit(nullptr) == 0, "initialised");
    need(aclrtSetDevice(0) == 0, "set");
    need(aclrtMalloc(&holder.memory, 16, ACL_MEM_MALLOC_HUGE_FIRST) == 0, "allocated");
    need(aclrtMalloc(&holder.freed, 16, ACL_MEM_MALLOC_HUGE_FIRST) == 0, "allocated");
    holder.tensor = aclCreateTensor(&length, 1, ACL_FLOAT, nullptr, 0, ACL_FORMAT_ND, &length, 1, holder.memory);
    // Once before, so that this thread has found something.
    need(aclDestroyTensor(holder.tensor) == 0 && aclDestroyTensor(holder.tensor) == 0, "destroyed");
    need(aclrtFree(holder.freed) == 0 && aclrtFree(holder.freed) == 0, "freed");
    return 0;
}
