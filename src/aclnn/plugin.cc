// What torch_npu's dispatcher looks up: memory pools and a cache of executors, neither of which is in use here.
#include "aclnn/aclnn_plugin.h"

int InitHugeMemThreadLocal(void*, bool) {
    return 0;
}
void UnInitHugeMemThreadLocal(void*, bool) {}
void ReleaseHugeMem(void*, bool) {}
aclOpExecutor* PTAGetExecCache(uint64_t, uint64_t*) {
    return nullptr;
}
aclOpExecutor* PTAFindExecCache(uint8_t*, size_t, uint64_t*) {
    return nullptr;
}
void InitPTACacheThreadLocal() {}
void UnInitPTACacheThreadLocal() {}
void SetPTAHashKey(uint64_t) {}
void SetPTACacheHashKey(uint8_t*, size_t) {}
bool CanUsePTACache(const char*) {
    return false;
}
void AddTensorAddrToCachedList(void*) {}
void ResetCacheThreadLocal() {}
