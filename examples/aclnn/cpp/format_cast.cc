// Weights in FRACTAL_NZ by both ways: aclnnTransMatmulWeight in place, aclnnNpuFormatCast into another tensor and back.
#include "aclnnop/aclnn_npu_format_cast.h"
#include "aclnnop/aclnn_trans_matmul_weight.h"
#include "client.h"

namespace {

constexpr int64_t experts = 2, k = 20, n = 40;
constexpr int64_t k1 = (k + 15) / 16, n1 = (n + 31) / 32;  // tiles of 16 rows and 32 columns of int8

}  // namespace

int main() {
    return client::program([] {
        const client::Device device;
        std::vector<int8_t> plain;
        for (int64_t i = 0; i < experts * k * n; ++i) plain.push_back(static_cast<int8_t>(i * 7 % 251 - 125));
        // What both have to produce, with zeros where a tile is not full.
        std::vector<int8_t> tiles(static_cast<size_t>(experts * n1 * k1 * 16 * 32));
        for (int64_t e = 0; e < experts; ++e)
            for (int64_t row = 0; row < k; ++row)
                for (int64_t column = 0; column < n; ++column)
                    tiles[static_cast<size_t>((((e * n1 + column / 32) * k1 + row / 16) * 16 + row % 16) * 32 +
                                              column % 32)] = plain[static_cast<size_t>((e * k + row) * n + column)];

        const client::IntArray shape{experts, k, n};
        uint64_t size = 0;
        CLIENT_CHECK(aclnnCalculateMatmulWeightSizeV2(shape, ACL_INT8, &size));
        if (size != tiles.size()) throw std::runtime_error("aclnnCalculateMatmulWeightSizeV2: another size");
        std::vector<int8_t> room(plain);
        room.resize(size);
        const client::Tensor<int8_t> weight({experts, k, n}, ACL_INT8, room, ACL_FORMAT_ND, {experts * k * n});
        client::run(device, CLIENT_OP(TransMatmulWeight), weight);
        client::expect_equal("aclnnTransMatmulWeight", weight.read(), tiles);
        aclFormat format = ACL_FORMAT_UNDEFINED;
        CLIENT_CHECK(aclGetFormat(weight, &format));
        if (format != ACL_FORMAT_FRACTAL_NZ) throw std::runtime_error("the format of the weight did not change");

        const auto source = client::int8s({experts, k, n}, plain);
        int64_t* storage = nullptr;
        uint64_t rank = 0;
        int cast_format = 0;
        CLIENT_CHECK(
            aclnnNpuFormatCastCalculateSizeAndFormat(source, ACL_FORMAT_FRACTAL_NZ, -1, &storage, &rank, &cast_format));
        const client::Shape stored(storage, storage + rank);
        delete[] storage;
        client::expect_equal("storage of FRACTAL_NZ", stored, {experts, n1, k1, 16, 32});
        const client::Tensor<int8_t> cast({experts, k, n}, ACL_INT8, std::vector<int8_t>(size),
                                          static_cast<aclFormat>(cast_format), stored);
        client::run(device, CLIENT_OP(NpuFormatCast), source, cast);
        client::expect_equal("aclnnNpuFormatCast", cast.read(), tiles);

        const client::Tensor<int8_t> back({experts, k, n}, ACL_INT8);
        client::run(device, CLIENT_OP(NpuFormatCast), cast, back);
        client::expect_equal("and back", back.read(), plain);
    });
}
