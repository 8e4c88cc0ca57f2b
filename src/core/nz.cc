#include "core/nz.h"

#include <algorithm>

namespace moe {
namespace {

void fill_storage_shape(int32_t rank, const int64_t* shape, int64_t c0, int64_t* storage_shape) {
    std::copy_n(shape, rank - 2, storage_shape);
    storage_shape[rank - 2] = ceil_divide(shape[rank - 1], c0);
    storage_shape[rank - 1] = ceil_divide(shape[rank - 2], MOE_NZ_ROWS);
    storage_shape[rank] = MOE_NZ_ROWS;
    storage_shape[rank + 1] = c0;
}

}  // namespace

NzLayout nz_layout(const Tensor& tensor) {
    NzLayout layout = {};
    layout.matrices = 1;
    for (int32_t d = 0; d < tensor.rank - 2; ++d) layout.matrices *= tensor.shape[d];
    layout.k = tensor.shape[tensor.rank - 2];
    layout.n = tensor.shape[tensor.rank - 1];
    layout.n1 = tensor.storage_shape[tensor.rank - 2];
    layout.k1 = tensor.storage_shape[tensor.rank - 1];
    layout.c0 = tensor.storage_shape[tensor.rank + 1];
    return layout;
}

Status nz_rank_in_range(int32_t rank, const int64_t* shape, const char* name) {
    if (rank >= nz_lowest_rank && rank <= nz_highest_rank) return MOE_OK;
    return fail(MOE_ERROR_INVALID, Kind::shape, name, "shape %s, needed %d to %d dimensions",
                describe_shape(rank, shape).text, nz_lowest_rank, nz_highest_rank);
}

Status nz_c0_in_range(int64_t c0, const char* name) {
    if (c0 >= 2 && c0 <= 64 && (c0 & (c0 - 1)) == 0) return MOE_OK;
    return fail(MOE_ERROR_INVALID, Kind::value, name, "tiles of %lld columns, needed 2, 4, 8, 16, 32 or 64",
                static_cast<long long>(c0));
}

Status nz_consistent(const Tensor& tensor, const char* name) {
    MOE_TRY(nz_rank_in_range(tensor.rank, tensor.shape, name));
    if (tensor.storage_rank != tensor.rank + 2)
        return fail(MOE_ERROR_INVALID, Kind::shape, name, "storage shape %s, needed %d dimensions for shape %s",
                    describe_shape(tensor.storage_rank, tensor.storage_shape).text, tensor.rank + 2,
                    describe_shape(tensor.rank, tensor.shape).text);
    const int64_t c0 = tensor.storage_shape[tensor.storage_rank - 1];
    MOE_TRY(nz_c0_in_range(c0, name));
    int64_t needed[MOE_MAX_RANK];
    fill_storage_shape(tensor.rank, tensor.shape, c0, needed);
    if (std::equal(needed, needed + tensor.storage_rank, tensor.storage_shape)) return MOE_OK;
    return fail(MOE_ERROR_INVALID, Kind::shape, name, "storage shape %s, needed %s for shape %s",
                describe_shape(tensor.storage_rank, tensor.storage_shape).text,
                describe_shape(tensor.storage_rank, needed).text, describe_shape(tensor.rank, tensor.shape).text);
}

Status nz_describe(void* data, Dtype dtype, int32_t rank, const int64_t* shape, int64_t c0, const char* name,
                   Tensor* tensor) {
    // Checks the dimensions before they are rounded up, then the storage shape that came of it.
    Tensor made = moe_tensor_make(data, dtype, rank, shape);
    MOE_TRY(required(&made, name));
    made.format = MOE_FORMAT_NZ;
    made.storage_rank = rank + 2;
    fill_storage_shape(rank, shape, c0, made.storage_shape);
    MOE_TRY(required(&made, name));
    *tensor = made;
    return MOE_OK;
}

namespace {

Status nz_make(void* data, Dtype dtype, int32_t rank, const int64_t* shape, int64_t c0, Tensor* tensor) {
    if (shape == nullptr) return fail(MOE_ERROR_NULL, Kind::missing, "shape", "null");
    if (tensor == nullptr) return fail(MOE_ERROR_NULL, Kind::missing, "tensor", "null");
    if (rank < nz_lowest_rank || rank > nz_highest_rank)
        return fail(MOE_ERROR_INVALID, Kind::shape, "rank", "%d, needed %d to %d", rank, nz_lowest_rank,
                    nz_highest_rank);
    MOE_TRY(nz_c0_in_range(c0, "c0"));
    return nz_describe(data, dtype, rank, shape, c0, "shape", tensor);
}

constexpr const char* scope_name = "FRACTAL_NZ";

}  // namespace
}  // namespace moe

int64_t moe_nz_default_c0(moe_dtype dtype) {
    if (dtype == MOE_INT4) return 64;
    const int64_t size = moe_dtype_size(dtype);
    return size == 0 ? 0 : 32 / size;
}

moe_status moe_nz_make(void* data, moe_dtype dtype, int32_t rank, const int64_t* shape, int64_t c0,
                       moe_tensor* tensor) {
    const moe::OpScope scope(moe::scope_name);
    return moe::nz_make(data, dtype, rank, shape, c0, tensor);
}

moe_status moe_nz_element_count(int32_t rank, const int64_t* shape, int64_t c0, int64_t* count) {
    const moe::OpScope scope(moe::scope_name);
    if (count == nullptr) return moe::fail(MOE_ERROR_NULL, moe::Kind::missing, "count", "null");
    moe_tensor tensor;
    MOE_TRY(moe::nz_make(nullptr, MOE_INT8, rank, shape, c0, &tensor));
    const moe::NzLayout layout = moe::nz_layout(tensor);
    *count = layout.matrices * layout.matrix();
    return MOE_OK;
}

moe_status moe_nz_check(const moe_tensor* tensor) {
    const moe::OpScope scope(moe::scope_name);
    MOE_TRY(moe::required(tensor, "storage"));
    if (tensor->format != MOE_FORMAT_NZ)
        return moe::fail(MOE_ERROR_INVALID, moe::Kind::value, "storage", "format %d, needed %d (FRACTAL_NZ)",
                         static_cast<int>(tensor->format), static_cast<int>(MOE_FORMAT_NZ));
    if (tensor->dtype == MOE_BOOL)
        return moe::fail(MOE_ERROR_INVALID, moe::Kind::dtype, "storage", "dtype bool, needed an integer or a float");
    return MOE_OK;
}

moe_status moe_nz_locate(const moe_tensor* tensor, const int64_t* index, int64_t* position, int64_t* storage_index) {
    const moe::OpScope scope(moe::scope_name);
    MOE_TRY(moe_nz_check(tensor));
    if (index == nullptr) return moe::fail(MOE_ERROR_NULL, moe::Kind::missing, "index", "null");
    for (int32_t d = 0; d < tensor->rank; ++d)
        if (index[d] < 0 || index[d] >= tensor->shape[d])
            return moe::fail(MOE_ERROR_INVALID, moe::Kind::value, "index", "%lld in dimension %d, needed 0 to %lld",
                             static_cast<long long>(index[d]), d, static_cast<long long>(tensor->shape[d] - 1));
    const int32_t lead = tensor->rank - 2;
    const int64_t c0 = tensor->storage_shape[tensor->storage_rank - 1];
    const int64_t row = index[lead];
    const int64_t column = index[lead + 1];
    int64_t where[MOE_MAX_RANK];
    std::copy_n(index, lead, where);
    where[lead] = column / c0;
    where[lead + 1] = row / MOE_NZ_ROWS;
    where[lead + 2] = row % MOE_NZ_ROWS;
    where[lead + 3] = column % c0;
    int64_t flat = 0;
    for (int32_t d = 0; d < tensor->storage_rank; ++d) flat = flat * tensor->storage_shape[d] + where[d];
    if (position != nullptr) *position = flat;
    if (storage_index != nullptr) std::copy_n(where, tensor->storage_rank, storage_index);
    return MOE_OK;
}
