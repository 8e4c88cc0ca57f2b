/* Control of the CPU device: how strict it is, and what it found. These are its only functions that a real host does
 * not have; `#if __has_include("moe_aclnn.h")` tells the two apart.
 *
 * A finding is a mistake: of a kind that a card does not report, such as memory that is read before it is written, a
 * buffer that is too small, a tensor destroyed twice, or of a kind that makes a call fail. It goes to the file of
 * MOE_ACLNN_FINDINGS as a line of JSON and to the callback. Without a callback those that no call reports go to
 * standard error.
 *
 * Settings hold for the whole process, from any thread. They start as the environment says: MOE_ACLNN_MODE
 * (compat, real, strict), MOE_ACLNN_FINDINGS (a file), MOE_ACLNN_SOC (Ascend910B1), MOE_ACLNN_WORKSPACE (real, padded),
 * MOE_ACLNN_DEFERRED, MOE_ACLNN_BACKTRACE, MOE_ACLNN_POISON, MOE_ACLNN_PROTECT (1 is on).
 */
#ifndef MOE_ACLNN_H
#define MOE_ACLNN_H

#include "aclnn/acl_meta.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum moe_aclnn_mode {
    MOE_ACLNN_COMPAT = 0, /* whatever a card lets pass runs, memory stays safe, mistakes become findings; the default */
    MOE_ACLNN_REAL = 1,   /* the status codes and side effects of a card */
    MOE_ACLNN_STRICT = 2  /* a mistake is an error of the call that makes it */
} moe_aclnn_mode;

typedef enum moe_aclnn_option {
    MOE_ACLNN_OPTION_DEFERRED = 0,  /* queued work runs when somebody waits or asks for it, and not before */
    MOE_ACLNN_OPTION_WORKSPACE = 1, /* 1: operators that need no workspace ask for one all the same */
    MOE_ACLNN_OPTION_BACKTRACE = 2, /* findings say which calls led to the making of an object */
    MOE_ACLNN_OPTION_POISON = 3,    /* fresh device memory and workspaces hold a pattern */
    MOE_ACLNN_OPTION_PROTECT = 4    /* device memory faults when the host touches it */
} moe_aclnn_option;

typedef enum moe_aclnn_severity {
    MOE_ACLNN_WARNING = 0, /* legal, and probably not meant */
    MOE_ACLNN_MISTAKE = 1, /* a card corrupts memory, crashes or computes with rubbish; strict returns an error */
    MOE_ACLNN_ERROR = 2    /* a card returns an error as well */
} moe_aclnn_severity;

/* Strings are never null and live until the callback returns. */
typedef struct moe_aclnn_finding {
    const char* rule; /* stable name of the check */
    moe_aclnn_severity severity;
    int32_t status;       /* what the call returns because of it; 0 when it goes on */
    const char* api;      /* the function of the client's call */
    const char* argument; /* "" when it is not a single one */
    const char* seen;
    const char* needed;
    const char* origin; /* where the object was made, "" when there is none; a backtrace with that option */
    const void* address;
    uint64_t object; /* number of the tensor, allocation, ... in the order of making; 0 for none */
} moe_aclnn_finding;

/* Called on the thread that found it, which may be the worker of a stream, and on several at once: what it shares needs
 * a lock. It may not call acl functions. */
typedef void (*moe_aclnn_callback)(const moe_aclnn_finding* finding, void* user);

/* 0, or 161002 for a number that is no mode. Executors keep the mode that they were made in. */
ACL_FUNC_VISIBILITY aclnnStatus moe_aclnn_set_mode(moe_aclnn_mode mode);
ACL_FUNC_VISIBILITY moe_aclnn_mode moe_aclnn_get_mode(void);
/* value 0 or 1; 161002 for other numbers. Streams and memory that exist keep what they were made with. */
ACL_FUNC_VISIBILITY aclnnStatus moe_aclnn_set_option(moe_aclnn_option option, int32_t value);
/* -1 for a number that is no option. */
ACL_FUNC_VISIBILITY int32_t moe_aclnn_get_option(moe_aclnn_option option);
/* The chip that aclrtGetSocName names; 161001 for null, 161002 for a name that is not known. */
ACL_FUNC_VISIBILITY aclnnStatus moe_aclnn_set_soc(const char* name);
/* Findings are appended to the file as JSON lines; null closes it. 361001 when it cannot be opened. */
ACL_FUNC_VISIBILITY aclnnStatus moe_aclnn_set_findings_file(const char* path);
/* Null takes the callback back; on other threads a call of it may still be under way. */
ACL_FUNC_VISIBILITY void moe_aclnn_set_callback(moe_aclnn_callback callback, void* user);
/* How often a rule was broken since the start or the last clearing; null counts all. */
ACL_FUNC_VISIBILITY uint64_t moe_aclnn_count_findings(const char* rule);
ACL_FUNC_VISIBILITY void moe_aclnn_clear_findings(void);
/* The name of rule number index, counted from 0; null behind the last one. */
ACL_FUNC_VISIBILITY const char* moe_aclnn_rule(uint32_t index);

#ifdef __cplusplus
}
#endif

#endif
