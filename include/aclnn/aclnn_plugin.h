/* What the dispatcher of torch_npu looks up by name: memory pools and a cache of executors. The cache is never in use
 * here, and there are no pools. No header of a real host declares these functions. */
#ifndef MOE_ACLNN_PLUGIN_H
#define MOE_ACLNN_PLUGIN_H

#include "aclnn/acl_meta.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Nothing to prepare: 0. */
ACL_FUNC_VISIBILITY int InitHugeMemThreadLocal(void* arg, bool sync);
ACL_FUNC_VISIBILITY void UnInitHugeMemThreadLocal(void* arg, bool sync);
ACL_FUNC_VISIBILITY void ReleaseHugeMem(void* arg, bool sync);
/* Nothing is ever found: null. */
ACL_FUNC_VISIBILITY aclOpExecutor* PTAGetExecCache(uint64_t hash, uint64_t* workspaceSize);
ACL_FUNC_VISIBILITY aclOpExecutor* PTAFindExecCache(uint8_t* key, size_t len, uint64_t* workspaceSize);
ACL_FUNC_VISIBILITY void InitPTACacheThreadLocal(void);
ACL_FUNC_VISIBILITY void UnInitPTACacheThreadLocal(void);
ACL_FUNC_VISIBILITY void SetPTAHashKey(uint64_t hash);
ACL_FUNC_VISIBILITY void SetPTACacheHashKey(uint8_t* key, size_t len);
/* false. */
ACL_FUNC_VISIBILITY bool CanUsePTACache(const char* api);
ACL_FUNC_VISIBILITY void AddTensorAddrToCachedList(void* addr);
ACL_FUNC_VISIBILITY void ResetCacheThreadLocal(void);

#ifdef __cplusplus
}
#endif

#endif
