/* Start and end of a client that uses the aclnn interface without acl/acl.h. */
#ifndef MOE_ACLNN_BASE_H
#define MOE_ACLNN_BASE_H

#include "aclnn/acl_meta.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In place of aclInit; configPath may be null. */
ACL_FUNC_VISIBILITY aclnnStatus aclnnInit(const char* configPath);
/* In place of aclFinalize. */
ACL_FUNC_VISIBILITY aclnnStatus aclnnFinalize(void);

#ifdef __cplusplus
}
#endif

#endif
