// The copy kernels: every byte of the target and no other, for any place of it and of its source.
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/copy/copy_list.h"

using namespace moe;

TEST_CASE("streaming copies what memcpy does, and nothing around it") {
    constexpr char untouched = 0x5A;
    std::vector<char> source(3000);
    std::iota(source.begin(), source.end(), char{1});
    for (const auto& row : copy_kernel_list) {
        if (row.isa > isa_limit()) continue;
        CAPTURE(row.name);
        for (const int64_t bytes : {0, 1, 15, 48, 63, 64, 65, 127, 128, 511, 512, 513, 1024, 2049})
            for (const int64_t target_at : {0, 1, 2, 16, 48, 63})
                for (const int64_t source_at : {0, 3, 16}) {
                    CAPTURE(bytes);
                    CAPTURE(target_at);
                    std::vector<char> needed(bytes + 192, untouched);
                    std::copy_n(source.begin() + source_at, bytes, needed.begin() + 64 + target_at);
                    std::vector<char> seen(needed.size(), untouched);
                    row.table->stream(seen.data() + 64 + target_at, source.data() + source_at, bytes);
                    row.table->end();
                    REQUIRE(seen == needed);
                    for (const int64_t ahead : {0, 1, 64, 700, 3000}) {
                        std::fill(seen.begin(), seen.end(), untouched);
                        row.table->stream_and_read(seen.data() + 64 + target_at, source.data() + source_at, bytes,
                                                   {source.data(), ahead});
                        row.table->end();
                        REQUIRE(seen == needed);
                    }
                }
    }
}
