// Errors and findings: what a client did wrong, told in one form.
#pragma once

#include <cstdint>
#include <string>

namespace moe::device {

using Status = int32_t;

enum class Rule : int {
#define MOE_RULE(identifier, number, id, what) identifier,
#define MOE_CONTRACT(number, id, what)
#include "aclnn/rules.inc"
#undef MOE_CONTRACT
#undef MOE_RULE
    count
};

// The stable name of a rule.
const char* rule_name(Rule rule);

// printf into a string.
[[gnu::format(printf, 1, 2)]] std::string text(const char* format, ...);

struct Origin;

// The object that a finding is about.
struct About {
    const Origin* made = nullptr;
    const void* address = nullptr;
    uint64_t number = 0;
};

// An error that a card reports too: sets the text of aclGetRecentErrMsg, returns `status`.
Status refuse(Status status, Rule rule, const std::string& argument, const std::string& seen, const std::string& needed,
              const About& about = {});

// A mistake that a card does not notice, but suffers from. Recorded; an error in strict mode: returns `strict_status`
// there, else 0.
Status mistake(Status strict_status, Rule rule, const std::string& argument, const std::string& seen,
               const std::string& needed, const About& about = {});

// A mistake that strict mode does not turn into an error of this call.
void record(Rule rule, const std::string& argument, const std::string& seen, const std::string& needed,
            const About& about = {});

// Legal, and probably not meant.
void warn(Rule rule, const std::string& argument, const std::string& seen, const std::string& needed,
          const About& about = {});

// Hands the findings of this thread to standard error, the file and the callback. Not under locks.
void deliver_findings();

// The text of aclGetRecentErrMsg: adds to it; the body of the last refusal, for those who pass it to another thread.
void add_error_text(Status status, const std::string& body);
const std::string& last_refusal();
bool has_error_text();

// aclrtGetLastError of this thread.
void set_last_error(Status status);

// The lock of this file, around a fork.
void lock_findings();
void unlock_findings();

}  // namespace moe::device

// Returns from the calling function when an expression yields an error.
#define MOE_DEVICE_TRY(expression)                                                    \
    do {                                                                              \
        if (const ::moe::device::Status try_status = (expression)) return try_status; \
    } while (0)
