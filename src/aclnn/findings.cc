#include "aclnn/findings.h"

#include <unistd.h>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <vector>

#include "acl/acl.h"
#include "aclnn/call.h"
#include "aclnn/moe_aclnn.h"
#include "aclnn/settings.h"
#include "aclnn/state.h"

namespace moe::device {
namespace {

constexpr const char* rule_names[] = {
#define MOE_RULE(identifier, number, id, what) id,
#define MOE_CONTRACT(number, id, what)
#include "aclnn/rules.inc"
#undef MOE_CONTRACT
#undef MOE_RULE
};
constexpr int rule_count = static_cast<int>(Rule::count);
constexpr size_t longest_body = 1024;
// Equal findings are told so often on standard error; then they only count.
constexpr uint64_t told_at_most = 20;

struct Finding {
    Rule rule;
    moe_aclnn_severity severity;
    Status status;
    std::string api, argument, seen, needed, origin;
    const void* address;
    uint64_t object;
};

// What this thread has found and not delivered yet, and its error text.
struct ThreadState {
    std::vector<Finding> findings;
    std::string pending_text;   // of aclGetRecentErrMsg, since it was last called
    std::string returned_text;  // what the last call returned
    std::string last_refusal;
    Status last_error = 0;
};

struct Sinks {
    std::mutex mutex;
    moe_aclnn_callback callback = nullptr;
    void* user = nullptr;
    std::FILE* file = nullptr;
    std::array<uint64_t, rule_count> counts{};

    Sinks() {
        if (const char* path = std::getenv("MOE_ACLNN_FINDINGS"); path != nullptr && *path != '\0') {
            file = std::fopen(path, "a");
            if (file == nullptr) std::fprintf(stderr, "moe_native: MOE_ACLNN_FINDINGS: %s cannot be opened\n", path);
        }
    }
};

// Never destroyed: workers may outlive static objects.
Sinks& sinks() {
    static Sinks* const instance = new Sinks;
    return *instance;
}

const char* severity_name(moe_aclnn_severity severity) {
    return severity == MOE_ACLNN_ERROR ? "error" : severity == MOE_ACLNN_MISTAKE ? "mistake" : "warning";
}

// Bytes that are not ASCII may be no UTF-8, which JSON has to be: they count as Latin-1.
std::string json_string(const std::string& value) {
    std::string out = "\"";
    for (const char c : value) {
        if (c == '"' || c == '\\')
            out += std::string("\\") + c;
        else if (const auto byte = static_cast<unsigned char>(c); byte < 0x20 || byte > 0x7E)
            out += text("\\u%04x", byte);
        else
            out += c;
    }
    return out + "\"";
}

void write_json(std::FILE* file, const Finding& finding) {
    std::fprintf(
        file,
        "{\"rule\": \"%s\", \"severity\": \"%s\", \"status\": %d, \"api\": %s, \"argument\": %s, \"seen\": %s, "
        "\"needed\": %s, \"origin\": %s, \"address\": %llu, \"object\": %llu}\n",
        rule_name(finding.rule), severity_name(finding.severity), finding.status, json_string(finding.api).c_str(),
        json_string(finding.argument).c_str(), json_string(finding.seen).c_str(), json_string(finding.needed).c_str(),
        json_string(finding.origin).c_str(),
        static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(finding.address)),
        static_cast<unsigned long long>(finding.object));
    std::fflush(file);
}

std::string body_of(const Finding& finding) {
    std::string out = finding.api + ": ";
    if (!finding.argument.empty()) out += finding.argument + ": ";
    out += finding.seen;
    if (!finding.needed.empty()) out += ", needed " + finding.needed;
    return out + " [" + rule_name(finding.rule) + "]";
}

Finding make(Rule rule, moe_aclnn_severity severity, Status status, const std::string& argument,
             const std::string& seen, const std::string& needed, const About& about) {
    return {rule,          severity,    status, here().api,
            argument,      seen,        needed, about.made == nullptr ? "" : about.made->text(),
            about.address, about.number};
}

// The entry that a code has in a host's table of messages.
const char* title_of(Status status) {
    if (status == 100000) return "Invalid_Argument(EH0001)";
    if (status >= 100000 && status < 107000) return "AscendCL_Error(EH9999)";
    if (status < 160000) return "Runtime_Parameter_Error(EE1001)";
    if (status < 200000) return "AclNN_Parameter_Error(EZ1001)";
    if (status < 300000) return "Runtime_Resource_Error(EE1002)";
    if (status < 400000) return "AclNN_Runtime_Error(EZ9903)";
    if (status < 510000) return "Runtime_Error(EE9999)";
    return "AclNN_Inner_Error(EZ9999)";
}

}  // namespace

const char* rule_name(Rule rule) {
    return rule_names[static_cast<int>(rule)];
}

std::string text(const char* format, ...) {
    char buffer[512];
    std::va_list values;
    va_start(values, format);
    std::vsnprintf(buffer, sizeof buffer, format, values);
    va_end(values);
    return buffer;
}

Status refuse(Status status, Rule rule, const std::string& argument, const std::string& seen, const std::string& needed,
              const About& about) {
    own<ThreadState>().findings.push_back(make(rule, MOE_ACLNN_ERROR, status, argument, seen, needed, about));
    add_error_text(status, body_of(own<ThreadState>().findings.back()));
    return status;
}

Status mistake(Status strict_status, Rule rule, const std::string& argument, const std::string& seen,
               const std::string& needed, const About& about) {
    const Status status = mode() == MOE_ACLNN_STRICT ? strict_status : 0;
    own<ThreadState>().findings.push_back(make(rule, MOE_ACLNN_MISTAKE, status, argument, seen, needed, about));
    if (status != 0) add_error_text(status, body_of(own<ThreadState>().findings.back()));
    return status;
}

void record(Rule rule, const std::string& argument, const std::string& seen, const std::string& needed,
            const About& about) {
    own<ThreadState>().findings.push_back(make(rule, MOE_ACLNN_MISTAKE, 0, argument, seen, needed, about));
}

void warn(Rule rule, const std::string& argument, const std::string& seen, const std::string& needed,
          const About& about) {
    own<ThreadState>().findings.push_back(make(rule, MOE_ACLNN_WARNING, 0, argument, seen, needed, about));
}

void deliver_findings() {
    if (own<ThreadState>().findings.empty()) return;
    std::vector<Finding> findings;
    findings.swap(own<ThreadState>().findings);
    for (const Finding& finding : findings) {
        moe_aclnn_callback callback;
        void* user;
        {
            const std::lock_guard<std::mutex> lock(sinks().mutex);
            callback = sinks().callback;
            user = sinks().user;
            const uint64_t times = ++sinks().counts[static_cast<int>(finding.rule)];
            if (sinks().file != nullptr) write_json(sinks().file, finding);
            if (callback == nullptr && finding.severity != MOE_ACLNN_ERROR && times <= told_at_most) {
                std::fprintf(stderr, "moe_native: %s: %s\n", severity_name(finding.severity), body_of(finding).c_str());
                if (!finding.origin.empty()) std::fprintf(stderr, "    made by %s\n", finding.origin.c_str());
                if (times == told_at_most) std::fprintf(stderr, "    further ones of this rule are not printed\n");
            }
        }
        if (callback != nullptr) {
            const moe_aclnn_finding plain = {rule_name(finding.rule), finding.severity,         finding.status,
                                             finding.api.c_str(),     finding.argument.c_str(), finding.seen.c_str(),
                                             finding.needed.c_str(),  finding.origin.c_str(),   finding.address,
                                             finding.object};
            callback(&plain, user);
        }
    }
}

void add_error_text(Status status, const std::string& body) {
    ThreadState& state = own<ThreadState>();
    state.last_refusal = body.substr(0, longest_body);
    // A client that never asks keeps the first errors, not all of them.
    if (state.pending_text.size() > 16 * longest_body) return;
    if (state.pending_text.empty()) {
        std::timespec now;
        std::timespec_get(&now, TIME_UTC);
        std::tm parts;
        localtime_r(&now.tv_sec, &parts);
        char time[64];
        std::strftime(time, sizeof time, "%Y-%m-%d-%H:%M:%S", &parts);
        state.pending_text = text("[PID: %d] %s.%03ld.%03ld %s: ", static_cast<int>(getpid()), time,
                                  now.tv_nsec / 1000000, now.tv_nsec / 1000 % 1000, title_of(status));
    } else {
        if (state.pending_text.find("TraceBack") == std::string::npos)
            state.pending_text += "        TraceBack (most recent call last):\n";
        state.pending_text += "        ";
    }
    state.pending_text += state.last_refusal + "\n";
}

const std::string& last_refusal() {
    return own<ThreadState>().last_refusal;
}

bool has_error_text() {
    return !own<ThreadState>().pending_text.empty();
}

void set_last_error(Status status) {
    own<ThreadState>().last_error = status;
}

void lock_findings() {
    sinks().mutex.lock();
}
void unlock_findings() {
    sinks().mutex.unlock();
}

}  // namespace moe::device

using namespace moe::device;

const char* aclGetRecentErrMsg() {
    ThreadState& state = own<ThreadState>();
    state.returned_text.clear();
    state.returned_text.swap(state.pending_text);
    return state.returned_text.empty() ? nullptr : state.returned_text.c_str();
}

aclError aclrtPeekAtLastError(aclrtLastErrLevel level) {
    return entry(MOE_HERE, [&]() -> Status {
        if (level != ACL_RT_THREAD_LEVEL)
            return refuse(107000, Rule::argument, "level", text("%d", static_cast<int>(level)), "0");
        return own<ThreadState>().last_error;
    });
}

aclError aclrtGetLastError(aclrtLastErrLevel level) {
    const Status status = aclrtPeekAtLastError(level);
    if (level == ACL_RT_THREAD_LEVEL) set_last_error(0);
    return status;
}

aclnnStatus moe_aclnn_set_findings_file(const char* path) {
    return entry(MOE_HERE, [&]() -> Status {
        std::FILE* file = nullptr;
        if (path != nullptr && (file = std::fopen(path, "a")) == nullptr)
            return refuse(361001, Rule::argument, "path", path, "a file that can be written");
        const std::lock_guard<std::mutex> lock(sinks().mutex);
        if (sinks().file != nullptr) std::fclose(sinks().file);
        sinks().file = file;
        return 0;
    });
}

void moe_aclnn_set_callback(moe_aclnn_callback callback, void* user) {
    const std::lock_guard<std::mutex> lock(sinks().mutex);
    sinks().callback = callback;
    sinks().user = user;
}

uint64_t moe_aclnn_count_findings(const char* rule) {
    const std::lock_guard<std::mutex> lock(sinks().mutex);
    uint64_t count = 0;
    for (int i = 0; i < rule_count; ++i)
        if (rule == nullptr || std::string(rule) == rule_names[i]) count += sinks().counts[static_cast<size_t>(i)];
    return count;
}

void moe_aclnn_clear_findings(void) {
    const std::lock_guard<std::mutex> lock(sinks().mutex);
    sinks().counts.fill(0);
}

const char* moe_aclnn_rule(uint32_t index) {
    return index < static_cast<uint32_t>(rule_count) ? rule_names[index] : nullptr;
}
