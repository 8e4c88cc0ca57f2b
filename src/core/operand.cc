#include "core/operand.h"

#include <algorithm>
#include <cstring>

#include "core/threads.h"

namespace moe {
namespace {

// Below this many bytes a second thread costs more than it saves.
constexpr int64_t bytes_per_thread = 256 * 1024;

template <class T>
void copy_items(int64_t count, char* target, int64_t target_stride, const char* source, int64_t source_stride) {
    for (int64_t i = 0; i < count; ++i) std::memcpy(target + i * target_stride, source + i * source_stride, sizeof(T));
}

}  // namespace

void copy_line(int64_t count, int64_t item_size, char* target, int64_t target_stride, const char* source,
               int64_t source_stride) {
    if (target_stride == item_size && source_stride == item_size) {
        std::memcpy(target, source, static_cast<size_t>(count * item_size));
        return;
    }
    switch (item_size) {
        case 1:
            return copy_items<uint8_t>(count, target, target_stride, source, source_stride);
        case 2:
            return copy_items<uint16_t>(count, target, target_stride, source, source_stride);
        case 4:
            return copy_items<uint32_t>(count, target, target_stride, source, source_stride);
        default:
            return copy_items<uint64_t>(count, target, target_stride, source, source_stride);
    }
}

void copy_strided(int threads, int32_t rank, const int64_t* shape, int64_t item_size, void* target,
                  const int64_t* target_stride, const void* source, const int64_t* source_stride) {
    int64_t lines = 1;
    for (int32_t d = 0; d + 1 < rank; ++d) lines *= shape[d];
    const int64_t line = rank == 0 ? 1 : shape[rank - 1];
    if (lines == 0 || line == 0) return;
    const int64_t line_bytes = line * item_size;
    parallel_ranges(threads, lines, 1 + bytes_per_thread / line_bytes, [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            int64_t rest = i;
            char* to = static_cast<char*>(target);
            const char* from = static_cast<const char*>(source);
            for (int32_t d = rank - 2; d >= 0; --d) {
                const int64_t index = rest % shape[d];
                rest /= shape[d];
                to += index * target_stride[d];
                from += index * source_stride[d];
            }
            copy_line(line, item_size, to, rank == 0 ? item_size : target_stride[rank - 1], from,
                      rank == 0 ? item_size : source_stride[rank - 1]);
        }
    });
}

void Operand::book(const Tensor* tensor, const char* name, Ledger& ledger) {
    tensor_ = tensor;
    name_ = name;
    threads_ = ledger.threads();
    if (tensor == nullptr) return;
    if (tensor->format != MOE_FORMAT_ND && ledger.status() == MOE_OK)
        ledger.refuse(fail(MOE_ERROR_INVALID, Kind::value, name, "storage format %d, needed %d (ND)",
                           static_cast<int>(tensor->format), static_cast<int>(MOE_FORMAT_ND)));
    copied_ = !is_contiguous(*tensor);
    if (!copied_) return;
    copy_ = ledger.book(name, static_cast<uint64_t>(contiguous_bytes(tensor->dtype, element_count(*tensor))));
    const Tensor plain = moe_tensor_make(nullptr, tensor->dtype, tensor->rank, tensor->shape);
    std::copy_n(plain.stride, plain.rank, copy_stride_);
}

Status Operand::load(const Workspace& workspace) {
    if (tensor_ == nullptr) return MOE_OK;
    MOE_TRY(has_data(tensor_, name_));
    data_ = tensor_->data;
    if (!copied_) return MOE_OK;
    data_ = workspace.at<char>(copy_);
    copy_strided(threads_, tensor_->rank, tensor_->shape, moe_dtype_size(tensor_->dtype), data_, copy_stride_,
                 tensor_->data, tensor_->stride);
    return MOE_OK;
}

void Output::store() const {
    if (tensor_ == nullptr || !copied_) return;
    copy_strided(threads_, tensor_->rank, tensor_->shape, moe_dtype_size(tensor_->dtype), tensor_->data,
                 tensor_->stride, data_, copy_stride_);
}

}  // namespace moe
