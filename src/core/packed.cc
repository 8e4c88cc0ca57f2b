#include "core/packed.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/operand.h"

namespace moe {
namespace {

constexpr char magic[8] = {'m', 'o', 'e', 'p', 'a', 'c', 'k', '\n'};
constexpr uint32_t this_order = 0x01020304;
constexpr uint32_t other_order = 0x04030201;

struct Header {
    char magic[8];
    uint32_t byte_order;
    uint32_t version;
    uint32_t header_bytes;
    int32_t dtype;
    int64_t experts, k, n;
    int64_t layout;
    uint64_t bytes;  // of header and contents
    uint64_t reserved[6];
    uint64_t contents_sum;
    uint64_t header_sum;  // of everything before it
};
static_assert(sizeof(Header) == MOE_PACKED_HEADER);

// A change within 32 bytes always changes it: each step is a bijection of the lane and of the word.
uint64_t sum_of(const void* data, int64_t bytes) {
    constexpr uint64_t factor = 0x9E3779B97F4A7C15u;
    const auto* at = static_cast<const unsigned char*>(data);
    uint64_t lane[4] = {1, 2, 3, 4};
    uint64_t word[4] = {};
    const auto enter = [&] {
        for (int j = 0; j < 4; ++j) {
            lane[j] = (lane[j] ^ word[j]) * factor;
            lane[j] ^= lane[j] >> 29;
        }
    };
    const int64_t whole = bytes / 32 * 32;
    for (int64_t i = 0; i < whole; i += 32) {
        std::memcpy(word, at + i, 32);
        enter();
    }
    if (whole < bytes) {
        std::fill_n(word, 4, 0);
        std::memcpy(word, at + whole, static_cast<size_t>(bytes - whole));
        enter();
    }
    uint64_t sum = static_cast<uint64_t>(bytes);
    for (const uint64_t l : lane) sum = (sum ^ l) * factor;
    return sum;
}

bool packable(Dtype dtype) {
    return dtype == MOE_INT8 || dtype == MOE_INT4 || is_float_weight(dtype);
}

constexpr int64_t header_summed = offsetof(Header, header_sum);

Status refuse(const char* seen) {
    return fail(MOE_ERROR_INVALID, Kind::value, "packed weight", "%s", seen);
}

Status read_header(const void* memory, uint64_t size, Tensor* tensor, Header* header) {
    if (memory == nullptr) return fail(MOE_ERROR_NULL, Kind::missing, "packed weight", "null");
    if (size < sizeof magic || std::memcmp(memory, magic, sizeof magic) != 0)
        return refuse("bytes of something else, needed what pack made");
    if (size < sizeof(Header))
        return fail(MOE_ERROR_INVALID, Kind::value, "packed weight",
                    "cut off in its header after %llu bytes, needed %d", static_cast<unsigned long long>(size),
                    MOE_PACKED_HEADER);
    std::memcpy(header, memory, sizeof *header);
    if (header->byte_order == other_order)
        return refuse("written in the other byte order, needed that of this machine");
    if (header->byte_order != this_order) return refuse("a damaged header (byte order), needed what pack made");
    if (header->version != MOE_PACKED_VERSION)
        return fail(MOE_ERROR_INVALID, Kind::value, "packed weight", "version %u of the format, needed %d",
                    header->version, MOE_PACKED_VERSION);
    if (header->header_bytes != sizeof(Header) || header->header_sum != sum_of(header, header_summed))
        return refuse("a damaged header (its sum), needed what pack made");
    for (const uint64_t word : header->reserved)
        if (word != 0) return refuse("a header with more in it than this version knows");
    if (!packable(static_cast<Dtype>(header->dtype)))
        return fail(MOE_ERROR_INVALID, Kind::value, "packed weight",
                    "dtype %d in its header, needed int8, int4, float32, float16 or bfloat16", header->dtype);
    if (header->k == 0 || header->n == 0)
        return fail(MOE_ERROR_INVALID, Kind::value, "packed weight", "%c = 0 in its header, needed 1 or more",
                    header->k == 0 ? 'k' : 'n');
    auto* contents = const_cast<char*>(static_cast<const char*>(memory)) + sizeof(Header);
    MOE_TRY(packed_describe(contents, static_cast<Dtype>(header->dtype), header->experts, header->k, header->n,
                            static_cast<PanelLayout>(header->layout), "packed weight", tensor));
    const auto needed = sizeof(Header) + static_cast<uint64_t>(packed_storage(*tensor).bytes());
    if (header->bytes != needed || size != needed)
        return fail(MOE_ERROR_INVALID, Kind::value, "packed weight", "%llu bytes, needed %llu: %s",
                    static_cast<unsigned long long>(size), static_cast<unsigned long long>(needed),
                    size < needed ? "it is cut off" : "there is more than the header says");
    return MOE_OK;
}

Status layout_fits(Dtype dtype, int64_t layout, const char* name) {
    const bool floats = is_float_weight(dtype);
    const PanelLayout last = !floats                      ? PanelLayout::octets
                             : moe_dtype_size(dtype) == 2 ? PanelLayout::float_pairs_64
                                                          : PanelLayout::floats_64;
    const auto lowest = static_cast<int64_t>(floats ? PanelLayout::floats_8 : PanelLayout::rows);
    const auto highest = static_cast<int64_t>(last);
    if (lowest <= layout && layout <= highest) return MOE_OK;
    return fail(MOE_ERROR_INVALID, Kind::value, name, "packed %s in layout %lld, needed %lld to %lld",
                moe_dtype_name(dtype), static_cast<long long>(layout), static_cast<long long>(lowest),
                static_cast<long long>(highest));
}

// Of a layout that fits.
void fill_storage_shape(Dtype dtype, const int64_t* shape, PanelLayout layout, int64_t* storage_shape) {
    // Too large for any tensor where it would overflow.
    const int64_t k = std::min(shape[1], INT64_MAX / 128);
    storage_shape[0] = shape[0];
    if (is_float_weight(dtype)) {
        const FloatPanelOrder order = float_panel_order(layout);
        storage_shape[1] = ceil_divide(shape[2], order.unit());
        storage_shape[2] = ceil_divide(k, order.step) * order.step * order.unit() * moe_dtype_size(dtype);
    } else {
        storage_shape[1] = ceil_divide(shape[2], panel_width);
        storage_shape[2] = panel_order(layout).size(k);
    }
    storage_shape[3] = static_cast<int64_t>(layout);
}

}  // namespace

PackedStorage packed_storage(const Tensor& tensor) {
    return {tensor.shape[0],         tensor.shape[1],         tensor.shape[2],
            tensor.storage_shape[1], tensor.storage_shape[2], static_cast<PanelLayout>(tensor.storage_shape[3])};
}

FloatPanels::FloatPanels(const Tensor& tensor) {
    const PackedStorage storage = packed_storage(tensor);
    data = static_cast<char*>(tensor.data);
    item = moe_dtype_size(tensor.dtype);
    n = storage.n;
    order = float_panel_order(storage.layout);
    stored_k = ceil_divide(storage.k, order.step) * order.step;
    expert_bytes = storage.panels * storage.panel_bytes;
}

template <class Visit>
void FloatPanels::for_each_run(int64_t expert, int64_t k, int64_t rows, int64_t column, int64_t columns,
                               Visit&& visit) const {
    for (int64_t j = column; j < column + columns;) {
        const int64_t first = j / order.width * order.width;
        const int64_t count = std::min(first + order.width, column + columns) - j;
        for (int64_t p = k; p < k + rows; ++p) {
            char* row = at(expert, first, p / order.step * order.step);
            visit(row + ((j - first) * order.step + p % order.step) * item, p - k, (j - column) * item, count);
        }
        j += count;
    }
}

void FloatPanels::read(int64_t expert, int64_t k, int64_t rows, int64_t column, int64_t columns, char* target,
                       int64_t row_bytes) const {
    for_each_run(expert, k, rows, column, columns, [&](const char* stored, int64_t row, int64_t offset, int64_t count) {
        copy_line(count, item, target + row * row_bytes + offset, item, stored, order.step * item);
    });
}

void FloatPanels::write(int64_t expert, int64_t k, int64_t rows, int64_t column, int64_t columns, const char* source,
                        int64_t row_bytes) const {
    for_each_run(expert, k, rows, column, columns, [&](char* stored, int64_t row, int64_t offset, int64_t count) {
        copy_line(count, item, stored, order.step * item, source + row * row_bytes + offset, item);
    });
}

Status packed_consistent(const Tensor& tensor, const char* name) {
    if (!packable(tensor.dtype))
        return fail(MOE_ERROR_INVALID, Kind::dtype, name, "packed %s, needed int8, int4, float32, float16 or bfloat16",
                    moe_dtype_name(tensor.dtype));
    if (tensor.rank != 3 || tensor.storage_rank != 4)
        return fail(MOE_ERROR_INVALID, Kind::shape, name, "packed, with %d and %d dimensions, needed 3 and 4 stored",
                    tensor.rank, tensor.storage_rank);
    const int64_t layout = tensor.storage_shape[3];
    MOE_TRY(layout_fits(tensor.dtype, layout, name));
    int64_t needed[4];
    fill_storage_shape(tensor.dtype, tensor.shape, static_cast<PanelLayout>(layout), needed);
    if (std::equal(needed, needed + 4, tensor.storage_shape)) return MOE_OK;
    return fail(MOE_ERROR_INVALID, Kind::shape, name, "packed storage shape %s, needed %s for shape %s",
                describe_shape(4, tensor.storage_shape).text, describe_shape(4, needed).text,
                describe_shape(3, tensor.shape).text);
}

Status packed_describe(void* memory, Dtype dtype, int64_t experts, int64_t k, int64_t n, PanelLayout layout,
                       const char* name, Tensor* tensor) {
    MOE_TRY(layout_fits(dtype, static_cast<int64_t>(layout), name));
    // Checks the dimensions before they are rounded up, then the storage shape that came of it.
    const int64_t shape[] = {experts, k, n};
    Tensor made = moe_tensor_make(memory, dtype, 3, shape);
    MOE_TRY(required(&made, name));
    made.format = MOE_FORMAT_PACKED;
    made.storage_rank = 4;
    fill_storage_shape(dtype, shape, layout, made.storage_shape);
    MOE_TRY(required(&made, name));
    *tensor = made;
    return MOE_OK;
}

void write_packed_header(const Tensor& tensor) {
    const PackedStorage storage = packed_storage(tensor);
    Header header = {};
    std::memcpy(header.magic, magic, sizeof magic);
    header.byte_order = this_order;
    header.version = MOE_PACKED_VERSION;
    header.header_bytes = sizeof header;
    header.dtype = tensor.dtype;
    header.experts = storage.experts;
    header.k = storage.k;
    header.n = storage.n;
    header.layout = static_cast<int64_t>(storage.layout);
    header.bytes = sizeof header + static_cast<uint64_t>(storage.bytes());
    header.contents_sum = sum_of(tensor.data, storage.bytes());
    header.header_sum = sum_of(&header, header_summed);
    std::memcpy(static_cast<char*>(tensor.data) - sizeof header, &header, sizeof header);
}

namespace {

constexpr const char* scope_name = "pack";

Status view(const void* memory, uint64_t size, Tensor* tensor) {
    if (tensor == nullptr) return fail(MOE_ERROR_NULL, Kind::missing, "tensor", "null");
    Header header;
    return read_header(memory, size, tensor, &header);
}

Status verify(const void* memory, uint64_t size) {
    Tensor tensor;
    Header header;
    MOE_TRY(read_header(memory, size, &tensor, &header));
    if (header.contents_sum == sum_of(tensor.data, packed_storage(tensor).bytes())) return MOE_OK;
    return refuse("contents that were changed after they were packed, needed those that pack made");
}

}  // namespace
}  // namespace moe

moe_status moe_packed_view(const void* memory, uint64_t size, moe_tensor* tensor) {
    const moe::OpScope scope(moe::scope_name);
    return moe::view(memory, size, tensor);
}

moe_status moe_packed_verify(const void* memory, uint64_t size) {
    const moe::OpScope scope(moe::scope_name);
    return moe::verify(memory, size);
}
