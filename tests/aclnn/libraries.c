/* Opens the CPU device by every library name of a real host, and shows that all of them are one: a tensor made through
 * one library is described and destroyed through every other. The argument is the directory of the libraries. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "aclnn/acl_meta.h"
#include "aclnn/moe_aclnn.h"

static const char* const names[] = {"ascendcl",   "acl_rt",   "nnopbase",          "opapi",
                                    "opapi_math", "opapi_nn", "opapi_transformer", "ascend_cpu"};
enum { count = sizeof(names) / sizeof(names[0]) };

typedef aclError (*version_function)(int32_t*, int32_t*, int32_t*);
typedef aclTensor* (*create_function)(const int64_t*, uint64_t, aclDataType, const int64_t*, int64_t, aclFormat,
                                      const int64_t*, uint64_t, void*);
typedef aclnnStatus (*type_function)(const aclTensor*, aclDataType*);
typedef aclnnStatus (*destroy_function)(const aclTensor*);
typedef uint64_t (*findings_function)(const char*);
typedef void (*clear_function)(void);

/* ISO C has no conversion from an object pointer to a function pointer. */
#define LOOK_UP(function, library, name)                  \
    do {                                                  \
        void* const found = dlsym(library, name);         \
        if (found == NULL) {                              \
            fprintf(stderr, "%s: %s\n", name, dlerror()); \
            return 1;                                     \
        }                                                 \
        memcpy(&(function), &found, sizeof(function));    \
    } while (0)

#define EXPECT(condition, library)                                            \
    do {                                                                      \
        if (!(condition)) {                                                   \
            fprintf(stderr, "lib%s.so: not true: %s\n", library, #condition); \
            return 1;                                                         \
        }                                                                     \
    } while (0)

int main(int argc, char** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s lib64\n", argv[0]);
        return 2;
    }
    void* libraries[count];
    for (int i = 0; i < count; ++i) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/lib%s.so", argv[1], names[i]);
        libraries[i] = dlopen(path, RTLD_LAZY | (i % 2 != 0 ? RTLD_GLOBAL : RTLD_LOCAL));
        if (libraries[i] == NULL) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
    }
    findings_function findings;
    clear_function clear;
    LOOK_UP(findings, libraries[0], "moe_aclnn_count_findings");
    LOOK_UP(clear, libraries[0], "moe_aclnn_clear_findings");
    for (int i = 0; i < count; ++i) {
        version_function version;
        create_function create;
        LOOK_UP(version, libraries[i], "aclrtGetVersion");
        LOOK_UP(create, libraries[i], "aclCreateTensor");
        int32_t numbers[3] = {-1, -1, -1};
        EXPECT(version(&numbers[0], &numbers[1], &numbers[2]) == ACL_SUCCESS && numbers[0] == 1, names[i]);
        for (int j = 0; j < count; ++j) {
            type_function type;
            destroy_function destroy;
            LOOK_UP(type, libraries[j], "aclGetDataType");
            LOOK_UP(destroy, libraries[j], "aclDestroyTensor");
            const int64_t shape[2] = {2, 3};
            aclTensor* const tensor = create(shape, 2, ACL_BF16, NULL, 0, ACL_FORMAT_ND, shape, 2, NULL);
            aclDataType seen = ACL_DT_UNDEFINED;
            EXPECT(type(tensor, &seen) == 0 && seen == ACL_BF16, names[j]);
            EXPECT(destroy(tensor) == 0 && findings(NULL) == 0, names[j]);
            EXPECT(type(tensor, &seen) != 0 && findings(NULL) == 1, names[i]);
            clear();
        }
    }
    printf("%d libraries, one device\n", count);
    return 0;
}
