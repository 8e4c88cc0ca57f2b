// aclnnFFN, V2 and V3: the same expert-wise feed-forward block, its tokens given as counts, as ends, and in device memory.
#include "aclnnop/aclnn_ffn.h"

#include "aclnnop/aclnn_ffn_v2.h"
#include "aclnnop/aclnn_ffn_v3.h"
#include "client.h"

namespace {

client::Tensor<uint16_t> halves(const client::Shape& shape, const std::vector<float>& values) {
    std::vector<uint16_t> bits;
    for (const float value : values) bits.push_back(aclFloatToFloat16(value));
    return {shape, ACL_FLOAT16, bits};
}

std::vector<float> widened(const std::vector<uint16_t>& bits) {
    std::vector<float> values;
    for (const uint16_t value : bits) values.push_back(aclFloat16ToFloat(value));
    return values;
}

}  // namespace

int main() {
    return client::program([] {
        const client::Device device;
        const auto x = halves({4, 2}, {1, 2, 3, 4, -1, 1, 2, -2});
        // Weights a, -a, 2a and c, c, -c of three experts.
        const auto w1 = halves({3, 2, 3}, {1, .5F, -1, 2, -.25F, .75F,  //
                                           -1, -.5F, 1, -2, .25F, -.75F, 2, 1, -2, 4, -.5F, 1.5F});
        const auto w2 = halves({3, 3, 2}, {1, 0, .5F, -1, 2, 1, 1, 0, .5F, -1, 2, 1, -1, 0, -.5F, 1, -2, -1});
        const std::vector<float> wanted = {6, .5F, 11.25F, -.5F, -9, -3.5F, -1.5F, 3};
        {
            const client::IntArray counts{2, 0, 2};
            const client::Tensor<uint16_t> y({4, 2}, ACL_FLOAT16);
            client::run(device, CLIENT_OP(FFN), x, w1, w2, counts, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                        nullptr, nullptr, nullptr, nullptr, "relu", 1, y);
            client::expect_equal("counts", widened(y.read()), wanted);
        }
        {
            const client::IntArray ends{2, 2, 4};
            const client::Tensor<uint16_t> y({4, 2}, ACL_FLOAT16);
            client::run(device, CLIENT_OP(FFNV2), x, w1, w2, ends, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                        nullptr, nullptr, nullptr, nullptr, "relu", 0, true, y);
            client::expect_equal("ends", widened(y.read()), wanted);
        }
        {
            const auto counts = client::int64s({3}, {2, 0, 2});
            const client::Tensor<uint16_t> y({4, 2}, ACL_FLOAT16);
            client::run(device, CLIENT_OP(FFNV3), x, w1, w2, counts, nullptr, nullptr, nullptr, nullptr, nullptr,
                        nullptr, nullptr, nullptr, nullptr, nullptr, "relu", 1, false, y);
            client::expect_equal("counts on the device", widened(y.read()), wanted);
        }
        {
            // One int8 block with quantisation between the products.
            const auto int8_x = client::int8s({2, 3}, {10, -20, 30, 5, 6, -7});
            const auto int8_w1 = client::int8s({3, 2}, {1, 2, 3, -4, 5, 6});
            const auto int8_w2 = client::int8s({2, 3}, {7, -8, 1, 9, 10, -2});
            const auto scale = client::floats({1}, {2});
            const auto offset = client::floats({1}, {3});
            const auto dequant1 = client::floats({2}, {.03125F, .0625F});
            const auto dequant2 = client::floats({3}, {.5F, .25F, .125F});
            const client::Tensor<uint16_t> y({2, 3}, ACL_FLOAT16);
            client::run(device, CLIENT_OP(FFN), int8_x, int8_w1, int8_w2, nullptr, nullptr, nullptr, scale, offset,
                        dequant1, dequant2, nullptr, nullptr, nullptr, nullptr, "relu", 1, y);
            client::expect_equal("int8", widened(y.read()), {202.5F, 77, -8.375F, 24, 1.5F, -.375F});
        }
    });
}
