/* Every header in C99, every function with its type as C sees it. */
#include "every_header.h"

#include "functions.h"

/* The documents of a card let clients repeat this declaration. */
aclnnStatus aclnnNpuFormatCastCalculateSizeAndFormat(const aclTensor* srcTensor, const int dstFormat,
                                                     const int additionalDtype, int64_t** dstShape,
                                                     uint64_t* dstShapeSize, int* actualFormat);

#define T const aclTensor*
#define M aclTensor*
#define A const aclIntArray*
#define FUNCTION(name, result, parameters) static result(*const of_##name) parameters = name;
#define OPERATOR(name, parameters)                                   \
    FUNCTION(aclnn##name##GetWorkspaceSize, aclnnStatus, parameters) \
    FUNCTION(aclnn##name, aclnnStatus, (void*, uint64_t, aclOpExecutor*, aclrtStream))
#include "functions.inc"
#undef FUNCTION

#define FUNCTION(name, result, parameters) {#name, (any_function)of_##name},
#undef OPERATOR
#define OPERATOR(name, parameters)              \
    FUNCTION(aclnn##name##GetWorkspaceSize, , ) \
    FUNCTION(aclnn##name, , )
const named_function functions[] = {
#include "functions.inc"
    {NULL, NULL}};
