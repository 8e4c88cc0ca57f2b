#include "core/status.h"

#include <cstdarg>
#include <cstdio>

namespace moe {
namespace {

struct LastError {
    moe_error error = {MOE_OK, MOE_KIND_NONE, "", "", ""};
    char text[512] = "";
};

thread_local LastError last_error;
thread_local const char* current_op = "";

}  // namespace

Status fail(Status status, Kind kind, const char* argument, const char* format, ...) {
    int used = 0;
    if (argument[0] != '\0') used = std::snprintf(last_error.text, sizeof last_error.text, "%s: ", argument);
    std::va_list values;
    va_start(values, format);
    std::vsnprintf(last_error.text + used, sizeof last_error.text - used, format, values);
    va_end(values);
    last_error.error = {status, static_cast<moe_error_kind>(kind), current_op, argument, last_error.text};
    return status;
}

OpScope::OpScope(const char* op) : previous_(current_op) {
    current_op = op;
}
OpScope::~OpScope() {
    current_op = previous_;
}

}  // namespace moe

const moe_error* moe_last_error(void) {
    return &moe::last_error.error;
}

const char* moe_status_name(moe_status status) {
    switch (status) {
        case MOE_OK:
            return "MOE_OK";
        case MOE_ERROR_NULL:
            return "MOE_ERROR_NULL";
        case MOE_ERROR_INVALID:
            return "MOE_ERROR_INVALID";
        case MOE_ERROR_RUNTIME:
            return "MOE_ERROR_RUNTIME";
        case MOE_ERROR_INNER:
            return "MOE_ERROR_INNER";
        case MOE_ERROR_INFER_SHAPE:
            return "MOE_ERROR_INFER_SHAPE";
        case MOE_ERROR_TILING:
            return "MOE_ERROR_TILING";
        case MOE_ERROR_NO_KERNEL:
            return "MOE_ERROR_NO_KERNEL";
        case MOE_ERROR_CREATE_EXECUTOR:
            return "MOE_ERROR_CREATE_EXECUTOR";
        case MOE_ERROR_INNER_NULL:
            return "MOE_ERROR_INNER_NULL";
        default:
            return "unknown status";
    }
}
