/* Visibility of the operator functions. */
#ifndef MOE_ACLNN_UTIL_H
#define MOE_ACLNN_UTIL_H

#if defined(__GNUC__)
#define ACLNN_API __attribute__((visibility("default")))
#else
#define ACLNN_API
#endif

#endif
