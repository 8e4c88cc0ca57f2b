/* The functions of functions.inc by name, as a C file links them. */
#ifndef MOE_TESTS_ACLNN_FUNCTIONS_H
#define MOE_TESTS_ACLNN_FUNCTIONS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef void (*any_function)(void);

typedef struct named_function {
    const char* name; /* null ends the list */
    any_function address;
} named_function;

extern const named_function functions[];

#ifdef __cplusplus
}
#endif

#endif
