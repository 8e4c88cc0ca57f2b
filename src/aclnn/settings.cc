#include "aclnn/settings.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "aclnn/call.h"

namespace moe::device {
namespace {

constexpr int option_count = MOE_ACLNN_OPTION_PROTECT + 1;
constexpr const char* known_socs[] = {"Ascend910B1", "Ascend910B2",  "Ascend910B3",    "Ascend910B4",
                                      "Ascend910B",  "Ascend910_93", "Ascend910_9382", "Ascend910_9391"};

const char* find_soc(const char* name) {
    for (const char* known : known_socs)
        if (std::strcmp(known, name) == 0) return known;
    return nullptr;
}

struct Settings {
    std::atomic<Mode> mode{MOE_ACLNN_COMPAT};
    std::atomic<bool> options[option_count] = {};
    std::atomic<const char*> soc{known_socs[0]};
    std::string fault;

    Settings() {
        mode = static_cast<Mode>(choice("MOE_ACLNN_MODE", {"compat", "real", "strict"}));
        options[MOE_ACLNN_OPTION_DEFERRED] = choice("MOE_ACLNN_DEFERRED", {"0", "1"}) == 1;
        options[MOE_ACLNN_OPTION_WORKSPACE] = choice("MOE_ACLNN_WORKSPACE", {"real", "padded"}) == 1;
        options[MOE_ACLNN_OPTION_BACKTRACE] = choice("MOE_ACLNN_BACKTRACE", {"0", "1"}) == 1;
        options[MOE_ACLNN_OPTION_POISON] = choice("MOE_ACLNN_POISON", {"0", "1"}) == 1;
        options[MOE_ACLNN_OPTION_PROTECT] = choice("MOE_ACLNN_PROTECT", {"0", "1"}) == 1;
        if (const char* name = std::getenv("MOE_ACLNN_SOC"); name != nullptr && *name != '\0') {
            if (const char* known = find_soc(name))
                soc = known;
            else if (fault.empty())
                fault = text("MOE_ACLNN_SOC: %s, needed a chip of the Ascend910B or Ascend910_93 series", name);
        }
    }

    // Position of a variable's value among its values; 0, the default, when it is unset.
    int choice(const char* variable, std::initializer_list<const char*> values) {
        const char* seen = std::getenv(variable);
        if (seen == nullptr || *seen == '\0') return 0;
        int position = 0;
        std::string list;
        for (const char* value : values) {
            if (std::strcmp(seen, value) == 0) return position;
            list += list.empty() ? value : std::string(", ") + value;
            ++position;
        }
        if (fault.empty()) fault = text("%s: %s, needed one of %s", variable, seen, list.c_str());
        return 0;
    }
};

// Never destroyed: workers may outlive static objects.
Settings& settings() {
    static Settings* const instance = new Settings;
    return *instance;
}

bool is_option(moe_aclnn_option option) {
    return static_cast<int>(option) >= 0 && static_cast<int>(option) < option_count;
}

}  // namespace

Mode mode() {
    return settings().mode.load(std::memory_order_relaxed);
}

bool option(moe_aclnn_option option) {
    return settings().options[option].load(std::memory_order_relaxed);
}

const char* soc_name() {
    return settings().soc.load(std::memory_order_relaxed);
}

const std::string& environment_fault() {
    return settings().fault;
}

}  // namespace moe::device

using namespace moe::device;

aclnnStatus moe_aclnn_set_mode(moe_aclnn_mode mode) {
    return entry(MOE_HERE, [&]() -> Status {
        if (mode != MOE_ACLNN_COMPAT && mode != MOE_ACLNN_REAL && mode != MOE_ACLNN_STRICT)
            return refuse(161002, Rule::argument, "mode", text("%d", static_cast<int>(mode)), "0 to 2");
        settings().mode = mode;
        return 0;
    });
}

moe_aclnn_mode moe_aclnn_get_mode(void) {
    return mode();
}

aclnnStatus moe_aclnn_set_option(moe_aclnn_option option, int32_t value) {
    return entry(MOE_HERE, [&]() -> Status {
        if (!is_option(option))
            return refuse(161002, Rule::argument, "option", text("%d", static_cast<int>(option)), "0 to 4");
        if (value != 0 && value != 1) return refuse(161002, Rule::argument, "value", text("%d", value), "0 or 1");
        settings().options[option] = value == 1;
        return 0;
    });
}

int32_t moe_aclnn_get_option(moe_aclnn_option option) {
    return is_option(option) ? moe::device::option(option) : -1;
}

aclnnStatus moe_aclnn_set_soc(const char* name) {
    return entry(MOE_HERE, [&]() -> Status {
        if (name == nullptr) return refuse(161001, Rule::null_argument, "name", "null", "the name of a chip");
        const char* known = find_soc(name);
        if (known == nullptr)
            return refuse(161002, Rule::argument, "name", name, "a chip of the Ascend910B or Ascend910_93 series");
        settings().soc = known;
        return 0;
    });
}
