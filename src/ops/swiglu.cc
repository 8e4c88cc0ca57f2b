#include <algorithm>
#include <cstdint>

#include "core/cache.h"
#include "core/op.h"
#include "kernels/copy/copy.h"
#include "kernels/rows/rows.h"
#include "moe_native/quant.h"

namespace moe {
namespace {

class Swiglu {
  public:
    static constexpr const char* name = "npu_swiglu";
    using Args = moe_swiglu_args;

    explicit Swiglu(const Args& args) : args_(args) {}

    Status resolve(Outputs outputs) {
        MOE_TRY(required(args_.input, "input"));
        if (outputs == Outputs::checked) MOE_TRY(required(args_.out, "out"));
        MOE_TRY(dtype_in(*args_.input, "input", {MOE_FLOAT16, MOE_BFLOAT16, MOE_FLOAT32}));
        if (outputs == Outputs::checked) MOE_TRY(same_dtype(*args_.out, "out", args_.input->dtype, "input"));
        MOE_TRY(resolve_shapes());
        if (outputs == Outputs::ignored) return MOE_OK;
        const Tensor& out = *args_.out;
        if (out.rank == needed_.rank && std::equal(out.shape, out.shape + out.rank, needed_.shape)) return MOE_OK;
        return fail(MOE_ERROR_TILING, Kind::shape, "out", "shape %s, needed %s",
                    describe_shape(out.rank, out.shape).text, describe_shape(needed_.rank, needed_.shape).text);
    }

    void shapes(Tensor* outputs) const { outputs[0] = needed_; }

    void book(Ledger& ledger) {
        input_.book(args_.input, "input", ledger);
        out_.book(args_.out, "out", ledger);
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        MOE_TRY(context.data_checked());
        MOE_TRY(input_.load(workspace));
        MOE_TRY(out_.load(workspace));
        const int64_t bytes = element_count(needed_) * moe_dtype_size(needed_.dtype);
        const CopyKernels* streaming = long_halves() && outgrows_caches(bytes) ? &copy_kernels() : nullptr;
        // A thread pays from about 16 Ki results on.
        parallel_ranges(workspace.threads(), element_count(needed_), 16 * 1024,
                        [&](int, int64_t begin, int64_t end) { compute(streaming, begin, end); });
        out_.store();
        return MOE_OK;
    }

  private:
    static constexpr int64_t tile = 512;
    static constexpr int64_t line = 64;

    Status resolve_shapes() {
        const Tensor& input = *args_.input;
        if (input.rank == 0) return fail(MOE_ERROR_TILING, Kind::shape, "input", "shape (), needed 1 to 8 dimensions");
        if (args_.dim < -input.rank || args_.dim >= input.rank)
            return fail(MOE_ERROR_TILING, Kind::value, "dim", "%lld, needed %d to %d",
                        static_cast<long long>(args_.dim), -input.rank, input.rank - 1);
        const int64_t dim = args_.dim < 0 ? args_.dim + input.rank : args_.dim;
        if (element_count(input) == 0)
            return fail(MOE_ERROR_TILING, Kind::shape, "input", "shape %s, needed no empty dimension",
                        describe_shape(input.rank, input.shape).text);
        if (input.shape[dim] % 2 != 0)
            return fail(MOE_ERROR_TILING, Kind::shape, "input", "shape %s, needed an even number in dimension %lld",
                        describe_shape(input.rank, input.shape).text, static_cast<long long>(dim));
        int64_t shape[MOE_MAX_RANK];
        std::copy_n(input.shape, input.rank, shape);
        shape[dim] /= 2;
        half_ = 1;
        for (int64_t d = dim; d < input.rank; ++d) half_ *= shape[d];
        needed_ = moe_tensor_make(nullptr, input.dtype, input.rank, shape);
        return MOE_OK;
    }

    // Whether reading ahead and writing past the caches pay: pieces of a few lines cost more than they gain.
    bool long_halves() const { return half_ >= tile / 2; }

    // Results [begin, end): result i is made of elements i % half of both halves of block i / half. `streaming` is null
    // when they go through the caches.
    void compute(const CopyKernels* streaming, int64_t begin, int64_t end) const {
        const RowKernels& kernels = row_kernels();
        const Dtype dtype = args_.input->dtype;
        const int64_t size = moe_dtype_size(dtype);
        alignas(line) float gated[tile];
        alignas(line) float gate[tile];
        alignas(line) char results[tile * sizeof(float)];
        const auto gated_at = [&](int64_t i) {
            return input_.data<char>() + (i / half_ * 2 * half_ + i % half_) * size;
        };
        for (int64_t i = begin; i < end;) {
            char* const out = out_.data<char>() + i * size;
            // Whole lines of the result, from the second tile of a half on.
            const auto misplaced = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % line) / size;
            const int64_t n = std::min({tile - misplaced, end - i, half_ - i % half_});
            const char* first = gated_at(i);
            const int64_t next_i = i + n;
            const int64_t ahead = long_halves() ? std::min({tile, end - next_i, half_ - next_i % half_}) * size : 0;
            const char* next = ahead > 0 ? gated_at(next_i) : first;
            // The processor's own prefetching starts anew in every page, and both halves are left and taken up again.
            prefetch(next, ahead);
            widen_row(kernels, dtype, first, gated, n);
            kernels.silu(gated, n);
            prefetch(next + half_ * size, ahead);
            widen_row(kernels, dtype, first + half_ * size, gate, n);
            kernels.multiply(gated, gate, n);
            narrow_row(kernels, dtype, gated, streaming == nullptr ? out : results, n);
            if (streaming != nullptr) streaming->stream(out, results, n * size);
            i += n;
        }
        if (streaming != nullptr) streaming->end();
    }

    const Args args_;
    Tensor needed_ = {};
    int64_t half_ = 0;  // contiguous elements of one half
    Input input_;
    Output out_;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::Swiglu, moe_swiglu)
