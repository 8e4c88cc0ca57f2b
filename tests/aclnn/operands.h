// Tensors of a test in the memory of the device and of the core, and the same call of both.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <random>

#include "client.h"
#include "moe_native/format.h"
#include "moe_native/runtime.h"

namespace client {

// Contents on the host, row-major, or the tiles of FRACTAL_NZ.
struct Data {
    Shape shape;
    aclDataType dtype = ACL_FLOAT;
    std::vector<char> bytes;
    Shape storage;  // of FRACTAL_NZ; else empty

    static size_t size_of(const Shape& shape, aclDataType dtype) {
        const auto count = static_cast<size_t>(product(shape));
        return dtype == ACL_INT4 ? count / 2
                                 : count * static_cast<size_t>(moe_dtype_size(static_cast<moe_dtype>(dtype)));
    }
    // A pattern, for outputs.
    static Data blank(const Shape& shape, aclDataType dtype) {
        return {shape, dtype, std::vector<char>(size_of(shape, dtype), '\x11'), {}};
    }
    template <class T>
    static Data of(const Shape& shape, const std::vector<T>& values, aclDataType dtype = Dtype<T>::value) {
        Data data = blank(shape, dtype);
        REQUIRE(data.bytes.size() == values.size() * sizeof(T));
        if (!values.empty()) std::memcpy(data.bytes.data(), values.data(), data.bytes.size());
        return data;
    }
    // Floats are multiples of 1/64 in [-2, 2), which every float format holds; integers take all of int8 or int4.
    static Data random(const Shape& shape, aclDataType dtype, unsigned seed) {
        std::mt19937 engine(seed);
        Data data = blank(shape, dtype);
        for (size_t i = 0; i < data.bytes.size(); ++i)
            if (dtype == ACL_INT8 || dtype == ACL_INT4 || dtype == ACL_INT32)
                data.bytes[i] = static_cast<char>(engine());
        for (int64_t i = 0; i < product(shape); ++i) {
            const float value = static_cast<float>(static_cast<int>(engine() % 256) - 128) / 64;
            uint32_t bits;
            std::memcpy(&bits, &value, sizeof bits);
            const aclFloat16 half = aclFloatToFloat16(value);
            const auto upper = static_cast<uint16_t>(bits >> 16);
            if (dtype == ACL_FLOAT) std::memcpy(data.bytes.data() + 4 * i, &bits, 4);
            if (dtype == ACL_FLOAT16) std::memcpy(data.bytes.data() + 2 * i, &half, 2);
            if (dtype == ACL_BF16) std::memcpy(data.bytes.data() + 2 * i, &upper, 2);
            // The bits of a float in the low half, as packed scales are.
            if (dtype == ACL_INT64 || dtype == ACL_UINT64) {
                const uint64_t word = bits & 0xFFFFE000u;
                std::memcpy(data.bytes.data() + 8 * i, &word, 8);
            }
        }
        return data;
    }

    moe_tensor core() {
        moe_tensor tensor = moe_tensor_make(bytes.data(), static_cast<moe_dtype>(dtype),
                                            static_cast<int32_t>(shape.size()), shape.data());
        if (storage.empty()) return tensor;
        tensor.format = MOE_FORMAT_NZ;
        tensor.storage_rank = static_cast<int32_t>(storage.size());
        std::copy(storage.begin(), storage.end(), tensor.storage_shape);
        return tensor;
    }

    // The same in FRACTAL_NZ with tiles of a device.
    Data tiled() {
        const moe_tensor plain = core();
        moe_tensor tiles;
        REQUIRE(moe_nz_make(nullptr, plain.dtype, plain.rank, plain.shape, moe_nz_default_c0(plain.dtype), &tiles) ==
                0);
        Data data = *this;
        data.storage.assign(tiles.storage_shape, tiles.storage_shape + tiles.storage_rank);
        data.bytes.assign(size_of(data.storage, dtype), 0);
        tiles.data = data.bytes.data();
        const moe_format_cast_args args = {&plain, MOE_FORMAT_NZ, 0, false, &tiles};
        moe_plan plan;
        REQUIRE(moe_format_cast_plan(&args, &plan) == 0);
        REQUIRE(moe_format_cast_run(&args, &plan, nullptr, 0, nullptr) == 0);
        return data;
    }
};

enum class Layout {
    dense,
    strided,  // every second element of every row but for int4, from the third row of a larger matrix on
    flat,     // the storage told as one dimension, the format by the rank as plugins do
};

// A tensor on the device. What of its memory it does not take is watched.
class OnDevice {
  public:
    explicit OnDevice(const Data& data, Layout layout = Layout::dense) : data_(data) {
        Shape outer = data.shape;
        strides_.assign(outer.size(), 1);
        if (layout == Layout::strided && !outer.empty() && data.dtype != ACL_INT4 && data.storage.empty()) {
            for (int64_t& dim : outer) dim += 1;
            outer.back() *= 2;
            offset_ = 3;
        }
        for (size_t d = outer.size(); d-- > 1;) strides_[d - 1] = strides_[d] * outer[d];
        if (offset_ > 0) strides_.back() = 2;
        memory_.assign(offset_ > 0 ? Data::size_of(outer, data.dtype) + 64 : data.bytes.size(), '\x5A');
        for_each_element([&](char* element, const char* value, size_t size) { std::memcpy(element, value, size); });
        buffer_ = std::make_unique<Buffer>(memory_);
        aclFormat format = data.storage.empty() ? ACL_FORMAT_ND : ACL_FORMAT_FRACTAL_NZ;
        Shape storage = data.storage.empty() ? outer : data.storage;
        if (layout == Layout::flat && data.storage.empty()) {
            storage = {product(outer)};
            const size_t rank = data.shape.size();
            format = rank == 3 ? ACL_FORMAT_NCL : rank == 4 ? ACL_FORMAT_NCHW : ACL_FORMAT_ND;
        }
        handle = aclCreateTensor(data.shape.data(), data.shape.size(), data.dtype, strides_.data(), offset_, format,
                                 storage.data(), storage.size(), buffer_->data);
    }
    ~OnDevice() { CHECK(aclDestroyTensor(handle) == 0); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

    operator aclTensor*() const { return handle; }

    // The elements now; the rest has to be as it was.
    std::vector<char> read() {
        const std::vector<char> before = memory_;
        std::vector<char> values(data_.bytes.size());
        memory_ = buffer_->read<char>();
        size_t at = 0;
        std::vector<char> rest = memory_;
        for_each_element([&](char* element, const char*, size_t size) {
            std::memcpy(values.data() + at, element, size);
            std::memcpy(rest.data() + (element - memory_.data()), before.data() + (element - memory_.data()), size);
            at += size;
        });
        CHECK(rest == before);
        return values;
    }

    aclTensor* handle = nullptr;

  private:
    template <class Body>
    void for_each_element(Body&& body) {
        if (offset_ == 0) {
            if (!memory_.empty()) body(memory_.data(), data_.bytes.data(), memory_.size());
            return;
        }
        const auto size = static_cast<size_t>(moe_dtype_size(static_cast<moe_dtype>(data_.dtype)));
        Shape index(data_.shape.size(), 0);
        for (int64_t i = 0; i < product(data_.shape); ++i) {
            int64_t position = offset_;
            for (size_t d = 0; d < index.size(); ++d) position += index[d] * strides_[d];
            body(memory_.data() + static_cast<size_t>(position) * size,
                 data_.bytes.data() + static_cast<size_t>(i) * size, size);
            for (size_t d = index.size(); d-- > 0;) {
                if (++index[d] < data_.shape[d]) break;
                index[d] = 0;
            }
        }
    }

    const Data data_;
    Shape strides_;
    int64_t offset_ = 0;
    std::vector<char> memory_;
    std::unique_ptr<Buffer> buffer_;
};

constexpr moe_aclnn_mode every_mode[] = {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT};

// The core under the limits of a card, with the policies of the device.
template <class Args>
moe_status run_core(moe_status (*plan)(const Args*, moe_plan*),
                    moe_status (*core_run)(const Args*, const moe_plan*, void*, uint64_t, const moe_run_options*),
                    const Args& args, moe_data_policy policy = MOE_DATA_SKIP) {
    const moe_limits previous = moe_set_limits(MOE_LIMITS_ATLAS_A2);
    moe_plan planned;
    moe_status status = plan(&args, &planned);
    if (status == 0) {
        std::vector<char> workspace(planned.workspace_size + 1);
        const moe_run_options options = {policy, MOE_UNDEFINED_KEEP, nullptr};
        status = core_run(&args, &planned, workspace.data(), planned.workspace_size, &options);
    }
    moe_set_limits(previous);
    return status;
}
#define MOE_RUN_CORE(op, ...) run_core(op##_plan, op##_run, __VA_ARGS__)

using FirstPhase = std::function<aclnnStatus(uint64_t*, aclOpExecutor**)>;

// Both phases and the synchronisation. The first failure is returned.
inline aclnnStatus run(Session& session, const FirstPhase& first, SecondPhase second) {
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;
    const aclnnStatus status = first(&size, &executor);
    if (status != 0) return status;
    CHECK(size % 512 == 0);
    return run(session, second, size, executor);
}

// A phase 1 that has to fail: the code, a part of the text, the rule, and both results untouched.
inline void refused(Findings& findings, aclnnStatus needed, const std::string& part, const FirstPhase& first,
                    const char* rule = "argument") {
    uint64_t size = 77;
    aclOpExecutor* const untouched = reinterpret_cast<aclOpExecutor*>(0x1234);
    aclOpExecutor* executor = untouched;
    error_text();
    const aclnnStatus status = first(&size, &executor);
    const std::string message = error_text();
    CHECK_MESSAGE(status == needed, part << ": " << message);
    CHECK_MESSAGE(contains(message, part), message << " without " << part);
    CHECK(size == 77);
    CHECK(executor == untouched);
    CHECK(findings.rules(true) == Rules{rule});
    if (status == 0) aclDestroyAclOpExecutor(executor);
}

}  // namespace client
