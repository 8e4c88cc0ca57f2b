// What the C API says about the library and its kernels.
#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include "kernels/registry.h"
#include "kernels/rows/rows_list.h"
#include "moe_native/moe_native.h"

using namespace moe;

TEST_CASE("configuration") {
    moe_config config;
    moe_get_config(&config);
    CHECK(std::string(config.version) == moe_version());
    CHECK(std::string(config.isa_limit) == moe_get_isa_limit());
    CHECK(config.threads == moe_get_num_threads());
    CHECK(std::strlen(config.compiler) > 0);
    REQUIRE(moe_set_isa_limit("baseline") == MOE_OK);
    moe_get_config(&config);
    CHECK(std::string(config.isa_limit) == "baseline");
    CHECK(std::string(config.isa_origin) == "moe_set_isa_limit");
    REQUIRE(moe_set_isa_limit(nullptr) == MOE_OK);
    moe_get_config(&config);
    CHECK(std::string(config.isa_limit) == config.processor_isa);
    CHECK(std::string(config.isa_origin) == "processor");
}

TEST_CASE("kernels are counted, and no more are written than fit") {
    const int32_t count = moe_kernels(nullptr, 0);
    int32_t needed = 0;
    for (const KernelFamily& family : kernel_families) needed += family.count;
    CHECK(count == needed);
    std::vector<moe_kernel> kernels(static_cast<size_t>(count) + 1);
    kernels[1].family = "untouched";
    CHECK(moe_kernels(kernels.data(), 1) == count);
    CHECK(std::string(kernels[1].family) == "untouched");
    CHECK(moe_kernels(kernels.data(), count + 1) == count);
    for (const KernelFamily& family : kernel_families) {
        int chosen = 0;
        int references = 0;
        for (int32_t i = 0; i < count; ++i) {
            const moe_kernel& kernel = kernels[static_cast<size_t>(i)];
            if (std::string(kernel.family) != family.name) continue;
            chosen += kernel.state == MOE_KERNEL_CHOSEN;
            references += kernel.state == MOE_KERNEL_REFERENCE;
        }
        // A family that calls can do without has nothing to choose where all but its reference are out of reach.
        CHECK(chosen + references == 1);
        CHECK(references <= family.first_choice);
    }
}

TEST_CASE("choices are noted while they are watched") {
    const auto used = [] {
        std::vector<moe_kernel> kernels(static_cast<size_t>(moe_kernels(nullptr, 0)));
        moe_kernels(kernels.data(), static_cast<int32_t>(kernels.size()));
        std::string names;
        for (const moe_kernel& kernel : kernels)
            if (kernel.used) names += std::string(kernel.family) + "/" + kernel.name + " ";
        return names;
    };
    REQUIRE(moe_set_isa_limit("baseline") == MOE_OK);
    moe_watch_kernels(true);
    row_kernels();
    row_kernels();
    CHECK(used() == "rows/baseline ");
    moe_watch_kernels(true);
    CHECK(used().empty());
    moe_watch_kernels(false);
    row_kernels();
    CHECK(used().empty());
    REQUIRE(moe_set_isa_limit(nullptr) == MOE_OK);
}
