#include "core/tensor.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "core/nz.h"
#include "core/packed.h"

namespace moe {
namespace {

// Appends formatted text, truncating silently: messages are cut, never overrun.
template <class... Values>
void append(char* text, size_t capacity, size_t* used, const char* format, Values... values) {
    const int wrote = std::snprintf(text + *used, capacity - *used, format, values...);
    *used = std::min(capacity - 1, *used + static_cast<size_t>(std::max(wrote, 0)));
}

void append_shape(char* text, size_t capacity, size_t* used, int32_t rank, const int64_t* shape) {
    append(text, capacity, used, "(");
    for (int32_t d = 0; d < rank; ++d)
        append(text, capacity, used,
               rank == 1      ? "%lld,"
               : d + 1 < rank ? "%lld, "
                              : "%lld",
               static_cast<long long>(shape[d]));
    append(text, capacity, used, ")");
}

Status well_formed(const Tensor& tensor, const char* name) {
    if (tensor.format != MOE_FORMAT_ND && tensor.format != MOE_FORMAT_NZ && !is_packed(tensor))
        return fail(MOE_ERROR_INVALID, Kind::value, name, "storage format %d, needed 2 (ND) or 29 (FRACTAL_NZ)",
                    static_cast<int>(tensor.format));
    if (tensor.dtype != MOE_INT4 && moe_dtype_size(tensor.dtype) == 0)
        return fail(MOE_ERROR_INVALID, Kind::dtype, name, "dtype %d is not one of this library",
                    static_cast<int>(tensor.dtype));
    const auto dimensions = [&](int32_t rank, const int64_t* shape, const char* what) {
        if (rank < 0 || rank > MOE_MAX_RANK)
            return fail(MOE_ERROR_INVALID, Kind::shape, name, "%s of %d dimensions, needed 0 to %d", what, rank,
                        MOE_MAX_RANK);
        // Even a tensor with a zero dimension must not overflow: callers multiply dimensions selectively.
        int64_t bytes = std::max<int64_t>(1, moe_dtype_size(tensor.dtype));
        for (int32_t d = 0; d < rank; ++d) {
            if (shape[d] < 0)
                return fail(MOE_ERROR_INVALID, Kind::shape, name, "dimension %d of the %s is %lld, needed >= 0", d,
                            what, static_cast<long long>(shape[d]));
            if (__builtin_mul_overflow(bytes, std::max<int64_t>(1, shape[d]), &bytes) || bytes > INT64_MAX / 64)
                return fail(MOE_ERROR_INVALID, Kind::shape, name, "%s %s is too large for 64-bit sizes", what,
                            describe_shape(rank, shape).text);
        }
        return static_cast<Status>(MOE_OK);
    };
    MOE_TRY(dimensions(tensor.rank, tensor.shape, "shape"));
    if (tensor.format == MOE_FORMAT_ND) return MOE_OK;
    MOE_TRY(dimensions(tensor.storage_rank, tensor.storage_shape, "storage shape"));
    return is_packed(tensor) ? packed_consistent(tensor, name) : nz_consistent(tensor, name);
}

}  // namespace

int64_t element_count(const Tensor& tensor) {
    int64_t count = 1;
    for (int32_t d = 0; d < tensor.rank; ++d) count *= tensor.shape[d];
    return count;
}

int64_t contiguous_bytes(Dtype dtype, int64_t count) {
    return dtype == MOE_INT4 ? (count + 1) / 2 : count * moe_dtype_size(dtype);
}

bool is_contiguous(const Tensor& tensor) {
    const int64_t size = moe_dtype_size(tensor.dtype);
    if (tensor.format != MOE_FORMAT_ND || tensor.dtype == MOE_INT4) return true;
    if (reinterpret_cast<uintptr_t>(tensor.data) % size != 0) return false;
    int64_t expected = size;
    for (int32_t d = tensor.rank - 1; d >= 0; --d) {
        if (tensor.shape[d] == 0) return true;
        if (tensor.shape[d] != 1 && tensor.stride[d] != expected) return false;
        expected *= tensor.shape[d];
    }
    return true;
}

Description describe_shape(int32_t rank, const int64_t* shape) {
    Description out;
    size_t used = 0;
    append_shape(out.text, sizeof out.text, &used, rank, shape);
    return out;
}

Description describe(const Tensor& tensor) {
    Description out;
    size_t used = 0;
    append(out.text, sizeof out.text, &used, "%s ", moe_dtype_name(tensor.dtype));
    append_shape(out.text, sizeof out.text, &used, tensor.rank, tensor.shape);
    if (tensor.format == MOE_FORMAT_NZ) append(out.text, sizeof out.text, &used, " in FRACTAL_NZ");
    if (is_packed(tensor)) append(out.text, sizeof out.text, &used, ", packed");
    return out;
}

Status required(const Tensor* tensor, const char* name, Status null_status) {
    if (tensor == nullptr) return fail(null_status, Kind::missing, name, "missing, a tensor is needed");
    return well_formed(*tensor, name);
}

Status optional(const Tensor* tensor, const char* name) {
    return tensor == nullptr ? static_cast<Status>(MOE_OK) : well_formed(*tensor, name);
}

Status has_data(const Tensor* tensor, const char* name) {
    if (tensor != nullptr && tensor->data == nullptr && element_count(*tensor) > 0)
        return fail(MOE_ERROR_NULL, Kind::missing, name, "no memory behind %s", describe(*tensor).text);
    return MOE_OK;
}

Status dtype_in(const Tensor& tensor, const char* name, std::initializer_list<Dtype> allowed, Status status) {
    if (std::find(allowed.begin(), allowed.end(), tensor.dtype) != allowed.end()) return MOE_OK;
    char list[128] = "";
    size_t used = 0;
    for (const Dtype dtype : allowed)
        append(list, sizeof list, &used, used == 0 ? "%s" : ", %s", moe_dtype_name(dtype));
    return fail(status, Kind::dtype, name, "dtype %s, needed %s%s", moe_dtype_name(tensor.dtype),
                allowed.size() > 1 ? "one of " : "", list);
}

Status same_dtype(const Tensor& tensor, const char* name, Dtype needed, const char* other, Status status) {
    if (tensor.dtype == needed) return MOE_OK;
    return fail(status, Kind::dtype, name, "dtype %s, needed %s as %s has", moe_dtype_name(tensor.dtype),
                moe_dtype_name(needed), other);
}

Status rank_is(const Tensor& tensor, const char* name, int32_t rank, Status status) {
    if (tensor.rank == rank) return MOE_OK;
    return fail(status, Kind::shape, name, "shape %s, needed %d dimension%s",
                describe_shape(tensor.rank, tensor.shape).text, rank, rank == 1 ? "" : "s");
}

Status shape_is(const Tensor& tensor, const char* name, std::initializer_list<int64_t> needed, const char* layout,
                Status status) {
    const auto fits = [](int64_t have, int64_t need) { return need == -1 || have == need; };
    if (tensor.rank == static_cast<int32_t>(needed.size()) &&
        std::equal(needed.begin(), needed.end(), tensor.shape, [&](int64_t n, int64_t h) { return fits(h, n); }))
        return MOE_OK;
    char list[160] = "(";
    size_t used = 1;
    size_t d = 0;
    for (const int64_t n : needed) {
        const char* separator = needed.size() == 1 ? "," : ++d < needed.size() ? ", " : "";
        if (n == -1)
            append(list, sizeof list, &used, "any%s", separator);
        else
            append(list, sizeof list, &used, "%lld%s", static_cast<long long>(n), separator);
    }
    append(list, sizeof list, &used, ")");
    return fail(status, Kind::shape, name, "shape %s, needed %s = %s", describe_shape(tensor.rank, tensor.shape).text,
                layout, list);
}

}  // namespace moe

moe_tensor moe_tensor_make(void* data, moe_dtype dtype, int32_t rank, const int64_t* shape) {
    moe_tensor tensor = {};
    tensor.data = data;
    tensor.dtype = dtype;
    tensor.format = MOE_FORMAT_ND;
    tensor.rank = std::clamp<int32_t>(rank, 0, MOE_MAX_RANK);
    // Wrapping arithmetic: a shape too large for it is refused by the operator, not here.
    uint64_t stride = static_cast<uint64_t>(moe_dtype_size(dtype));
    for (int32_t d = tensor.rank - 1; d >= 0; --d) {
        tensor.shape[d] = shape[d];
        tensor.stride[d] = static_cast<int64_t>(stride);
        stride *= static_cast<uint64_t>(shape[d]);
    }
    return tensor;
}

int64_t moe_dtype_size(moe_dtype dtype) {
    switch (dtype) {
        case MOE_INT8:
        case MOE_UINT8:
        case MOE_BOOL:
            return 1;
        case MOE_FLOAT16:
        case MOE_BFLOAT16:
        case MOE_INT16:
        case MOE_UINT16:
            return 2;
        case MOE_FLOAT32:
        case MOE_INT32:
        case MOE_UINT32:
            return 4;
        case MOE_INT64:
        case MOE_UINT64:
        case MOE_FLOAT64:
            return 8;
        default:
            return 0;
    }
}

const char* moe_dtype_name(moe_dtype dtype) {
    switch (dtype) {
        case MOE_FLOAT32:
            return "float32";
        case MOE_FLOAT16:
            return "float16";
        case MOE_INT8:
            return "int8";
        case MOE_INT32:
            return "int32";
        case MOE_UINT8:
            return "uint8";
        case MOE_INT16:
            return "int16";
        case MOE_UINT16:
            return "uint16";
        case MOE_UINT32:
            return "uint32";
        case MOE_INT64:
            return "int64";
        case MOE_UINT64:
            return "uint64";
        case MOE_FLOAT64:
            return "float64";
        case MOE_BOOL:
            return "bool";
        case MOE_BFLOAT16:
            return "bfloat16";
        case MOE_INT4:
            return "int4";
        default:
            return "unknown dtype";
    }
}
