// Failure: one call that records what went wrong for moe_last_error and returns the code.
#pragma once

#include "moe_native/status.h"

namespace moe {

using Status = moe_status;

enum class Kind {
    missing = MOE_KIND_MISSING,
    dtype = MOE_KIND_DTYPE,
    shape = MOE_KIND_SHAPE,
    value = MOE_KIND_VALUE,
    data = MOE_KIND_DATA,
    runtime = MOE_KIND_RUNTIME,
};

// Records an error of the calling thread and returns `status`. The message should say what was seen and what
// is needed; the argument's name is put in front of it. Strings other than the message must be literals.
[[gnu::format(printf, 4, 5)]] Status fail(Status status, Kind kind, const char* argument, const char* format, ...);

// Names the operator for the errors of this thread while it lives.
class OpScope {
  public:
    explicit OpScope(const char* op);
    ~OpScope();
    OpScope(const OpScope&) = delete;
    OpScope& operator=(const OpScope&) = delete;

  private:
    const char* previous_;
};

}  // namespace moe

// Returns from the calling function when an expression yields an error.
#define MOE_TRY(expression)                                                   \
    do {                                                                      \
        if (const ::moe::Status try_status = (expression)) return try_status; \
    } while (0)
