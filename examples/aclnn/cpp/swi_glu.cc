// aclnnSwiGlu along both dimensions of a matrix, in fp32 and bf16.
#include "aclnnop/aclnn_swi_glu.h"

#include "client.h"

namespace {

double swiglu(double a, double b) {
    return a / (1 + std::exp(-a)) * b;
}

}  // namespace

int main() {
    return client::program([] {
        const client::Device device;
        const std::vector<float> values = {1, -2, 3, .5F, 0, 4, -1, 2};
        const auto x = client::floats({2, 4}, values);
        const auto bound = [](size_t) { return 8 * 1.2e-7 * 8; };  // eight roundings of values up to 8
        {
            const client::Tensor<float> out({2, 2}, ACL_FLOAT);
            client::run(device, CLIENT_OP(SwiGlu), x, -1, out);
            client::expect_close("last dimension", out.read(),
                                 {swiglu(1, 3), swiglu(-2, .5), swiglu(0, -1), swiglu(4, 2)}, bound);
        }
        {
            const client::Tensor<float> out({1, 4}, ACL_FLOAT);
            client::run(device, CLIENT_OP(SwiGlu), x, 0, out);
            client::expect_close("first dimension", out.read(),
                                 {swiglu(1, 0), swiglu(-2, 4), swiglu(3, -1), swiglu(.5, 2)}, bound);
        }
        {
            std::vector<uint16_t> bits;
            for (const float value : values) bits.push_back(client::bfloat16(value));
            const client::Tensor<uint16_t> bf16_x({2, 4}, ACL_BF16, bits);
            const client::Tensor<uint16_t> out({2, 2}, ACL_BF16);
            client::run(device, CLIENT_OP(SwiGlu), bf16_x, 1, out);
            std::vector<float> seen;
            for (const uint16_t value : out.read()) seen.push_back(client::from_bfloat16(value));
            client::expect_equal("bf16", seen, {2.1875F, -.119140625F, 0, 7.84375F});
        }
    });
}
