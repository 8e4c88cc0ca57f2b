// aclnnDynamicQuant and aclnnDynamicQuantV2: rows to int8 by a scale of each, smoothed by the row's expert.
#include "aclnnop/aclnn_dynamic_quant.h"

#include "aclnnop/aclnn_dynamic_quant_v2.h"
#include "client.h"

namespace {

client::Tensor<uint16_t> halves(const client::Shape& shape, const std::vector<float>& values) {
    std::vector<uint16_t> bits;
    for (const float value : values) bits.push_back(aclFloatToFloat16(value));
    return {shape, ACL_FLOAT16, bits};
}

}  // namespace

int main() {
    return client::program([] {
        const client::Device device;
        const auto x = halves({4, 4}, {1, -2, 3, .5F, 127, .5F, 1.5F, -2.5F, 0, 0, 0, 0, -4, 2, 1, 8});
        {
            const client::Tensor<int8_t> y({4, 4}, ACL_INT8);
            const client::Tensor<float> scale({4}, ACL_FLOAT);
            client::run(device, CLIENT_OP(DynamicQuant), x, nullptr, y, scale);
            client::expect_equal<int8_t>("codes", y.read(),
                                         {42, -85, 127, 21, 127, 0, 2, -2, 0, 0, 0, 0, -64, 32, 16, 127});
            client::expect_equal("scales", scale.read(), {3.F / 127, 1, 0, 8.F / 127});
        }
        {
            const auto smooth = halves({3, 4}, {1, 1, 1, 1, 1, .5F, 2, 1, -1, 2, 0, .25F});
            const auto ends = client::int32s({3}, {1, 3, 4});
            const client::Tensor<int8_t> y({4, 4}, ACL_INT8);
            const client::Tensor<float> scale({4}, ACL_FLOAT);
            client::run(device, CLIENT_OP(DynamicQuantV2), x, smooth, ends, ACL_INT8, y, scale, nullptr);
            client::expect_equal<int8_t>("smoothed codes", y.read(),
                                         {42, -85, 127, 21, 127, 0, 3, -2, 0, 0, 0, 0, 127, 127, 0, 64});
            client::expect_equal("smoothed scales", scale.read(), {3.F / 127, 1, 0, 4.F / 127});
        }
    });
}
