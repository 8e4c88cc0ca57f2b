#include <algorithm>
#include <cstdint>

#include "core/op.h"
#include "kernels/rows/rows.h"
#include "moe_native/finalize.h"
#include "ops/combine_rows.h"

namespace moe {
namespace {

class FinalizeRouting {
  public:
    static constexpr const char* name = "npu_moe_finalize_routing";
    using Args = moe_finalize_routing_args;

    explicit FinalizeRouting(const Args& args) : args_(args) {}

    Status resolve(Outputs outputs) {
        MOE_TRY(check_present(outputs));
        MOE_TRY(check_dtypes(outputs));
        MOE_TRY(check_attributes());
        MOE_TRY(check_shapes());
        if (outputs == Outputs::checked)
            MOE_TRY(shape_is(*args_.out, "out", {tokens_, hidden_}, "(tokens, hidden)", MOE_ERROR_TILING));
        return MOE_OK;
    }

    void shapes(Tensor* outputs) const {
        const int64_t shape[] = {tokens_, hidden_};
        outputs[0] = moe_tensor_make(nullptr, args_.expanded_permuted_rows->dtype, 2, shape);
    }

    void book(Ledger& ledger) {
        rows_.book(args_.expanded_permuted_rows, "expanded_permuted_rows", ledger);
        skip1_.book(args_.skip1, "skip1", ledger);
        skip2_.book(args_.skip2, "skip2", ledger);
        bias_.book(args_.bias, "bias", ledger);
        scales_.book(args_.scales, "scales", ledger);
        index_.book(args_.expanded_src_to_dst_row, "expanded_src_to_dst_row", ledger);
        // Expert ids are not read without a bias: their memory may hold, or be, anything.
        if (args_.bias != nullptr) expert_.book(args_.export_for_source_row, "export_for_source_row", ledger);
        out_.book(args_.out, "out", ledger);
        terms_ = ledger.book("terms", combine_terms_bytes(ledger.threads(), experts_per_token_));
        if (padded()) zeros_ = ledger.book("row of zeros", static_cast<uint64_t>(row_bytes_));
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        for (Input* input : {&rows_, &skip1_, &skip2_, &bias_, &scales_, &index_, &expert_})
            MOE_TRY(input->load(workspace));
        MOE_TRY(out_.load(workspace));
        MOE_TRY(check_indices(context));
        MOE_TRY(context.data_checked());
        const RowKernels& kernels = row_kernels();
        char* const zeros = workspace.at<char>(zeros_);
        if (padded()) std::fill_n(zeros, row_bytes_, char{0});
        const int64_t skips = (skip1_ ? 1 : 0) + (skip2_ ? 1 : 0);
        const CombineProblem problem = {args_.out->dtype,
                                        tokens_,
                                        hidden_,
                                        experts_per_token_,
                                        tokens_ * (experts_per_token_ + skips),
                                        workspace.at<CombineTerm>(terms_)};
        combine_rows(problem, workspace.threads(),
                     [&](int64_t token, CombineTerm* terms) { return describe(kernels, token, zeros, terms); });
        out_.store();
        return MOE_OK;
    }

  private:
    bool padded() const { return args_.drop_pad_mode == 1 || args_.drop_pad_mode == 3; }

    Status check_present(Outputs outputs) const {
        MOE_TRY(required(args_.expanded_permuted_rows, "expanded_permuted_rows"));
        MOE_TRY(required(args_.expanded_src_to_dst_row, "expanded_src_to_dst_row"));
        if (outputs == Outputs::checked) MOE_TRY(required(args_.out, "out"));
        MOE_TRY(optional(args_.skip1, "skip1"));
        MOE_TRY(optional(args_.skip2, "skip2"));
        MOE_TRY(optional(args_.bias, "bias"));
        MOE_TRY(optional(args_.scales, "scales"));
        return optional(args_.export_for_source_row, "export_for_source_row");
    }

    Status check_dtypes(Outputs outputs) const {
        const Dtype dtype = args_.expanded_permuted_rows->dtype;
        MOE_TRY(dtype_in(*args_.expanded_permuted_rows, "expanded_permuted_rows",
                         {MOE_FLOAT16, MOE_BFLOAT16, MOE_FLOAT32}));
        const auto same = [&](const Tensor* tensor, const char* argument) {
            return tensor == nullptr ? static_cast<Status>(MOE_OK)
                                     : same_dtype(*tensor, argument, dtype, "expanded_permuted_rows");
        };
        MOE_TRY(same(args_.skip1, "skip1"));
        MOE_TRY(same(args_.skip2, "skip2"));
        MOE_TRY(same(args_.bias, "bias"));
        if (args_.scales != nullptr) {
            MOE_TRY(dtype_in(*args_.scales, "scales", {MOE_FLOAT16, MOE_BFLOAT16, MOE_FLOAT32}));
            const bool bf16_with_f32 = dtype == MOE_BFLOAT16 && args_.scales->dtype == MOE_FLOAT32;
            if (limits() != MOE_LIMITS_NONE && !bf16_with_f32) MOE_TRY(same(args_.scales, "scales"));
        }
        MOE_TRY(dtype_in(*args_.expanded_src_to_dst_row, "expanded_src_to_dst_row", {MOE_INT32}));
        if (args_.export_for_source_row != nullptr)
            MOE_TRY(dtype_in(*args_.export_for_source_row, "export_for_source_row", {MOE_INT32}));
        return outputs == Outputs::checked ? same(args_.out, "out") : static_cast<Status>(MOE_OK);
    }

    Status check_attributes() const {
        const int64_t last_mode = limits() == MOE_LIMITS_SEED ? 0 : 3;
        if (args_.drop_pad_mode < 0 || args_.drop_pad_mode > last_mode)
            return fail(MOE_ERROR_TILING, Kind::value, "drop_pad_mode", "%lld, needed 0 to %lld",
                        static_cast<long long>(args_.drop_pad_mode), static_cast<long long>(last_mode));
        if (args_.k < 1)
            return fail(MOE_ERROR_TILING, Kind::value, "k", "%lld, needed >= 1", static_cast<long long>(args_.k));
        if (args_.skip2 != nullptr && args_.skip1 == nullptr)
            return fail(MOE_ERROR_TILING, Kind::value, "skip2", "given without skip1, needed both, skip1 or neither");
        if (args_.bias != nullptr && args_.export_for_source_row == nullptr)
            return fail(MOE_ERROR_TILING, Kind::value, "export_for_source_row", "missing, needed with bias");
        return MOE_OK;
    }

    Status check_shapes() {
        const Tensor& rows = *args_.expanded_permuted_rows;
        MOE_TRY(rank_is(rows, "expanded_permuted_rows", padded() ? 3 : 2, MOE_ERROR_TILING));
        MOE_TRY(rank_is(*args_.expanded_src_to_dst_row, "expanded_src_to_dst_row", 1, MOE_ERROR_TILING));
        experts_per_token_ = args_.k;
        if (args_.scales != nullptr) {
            MOE_TRY(rank_is(*args_.scales, "scales", 2, MOE_ERROR_TILING));
            experts_per_token_ = args_.scales->shape[1];
            if (args_.k != 1 && args_.k != experts_per_token_)
                return fail(MOE_ERROR_TILING, Kind::value, "k", "%lld, needed 1 or scales.shape[1] = %lld",
                            static_cast<long long>(args_.k), static_cast<long long>(experts_per_token_));
        }
        const int64_t indices = args_.expanded_src_to_dst_row->shape[0];
        if (element_count(rows) == 0)
            return fail(MOE_ERROR_TILING, Kind::shape, "expanded_permuted_rows", "shape %s, needed no empty dimension",
                        describe_shape(rows.rank, rows.shape).text);
        if (experts_per_token_ == 0)
            return fail(MOE_ERROR_TILING, Kind::shape, "scales", "shape %s, needed at least one expert per token",
                        describe_shape(2, args_.scales->shape).text);
        if (indices == 0 || indices % experts_per_token_ != 0)
            return fail(MOE_ERROR_TILING, Kind::shape, "expanded_src_to_dst_row",
                        "%lld indices, needed a positive multiple of the %lld experts per token",
                        static_cast<long long>(indices), static_cast<long long>(experts_per_token_));
        tokens_ = indices / experts_per_token_;
        hidden_ = rows.shape[rows.rank - 1];
        row_bytes_ = hidden_ * moe_dtype_size(rows.dtype);
        row_count_ = element_count(rows) / hidden_;
        if (!padded() && row_count_ != indices)
            return fail(MOE_ERROR_TILING, Kind::shape, "expanded_permuted_rows",
                        "%lld rows, needed one per index = %lld in drop_pad_mode %lld",
                        static_cast<long long>(row_count_), static_cast<long long>(indices),
                        static_cast<long long>(args_.drop_pad_mode));
        if (args_.scales != nullptr)
            MOE_TRY(shape_is(*args_.scales, "scales", {tokens_, experts_per_token_}, "(tokens, experts per token)",
                             MOE_ERROR_TILING));
        if (args_.skip1 != nullptr)
            MOE_TRY(shape_is(*args_.skip1, "skip1", {tokens_, hidden_}, "(tokens, hidden)", MOE_ERROR_TILING));
        if (args_.skip2 != nullptr)
            MOE_TRY(shape_is(*args_.skip2, "skip2", {tokens_, hidden_}, "(tokens, hidden)", MOE_ERROR_TILING));
        if (args_.export_for_source_row != nullptr)
            MOE_TRY(shape_is(*args_.export_for_source_row, "export_for_source_row", {tokens_, experts_per_token_},
                             "(tokens, experts per token)", MOE_ERROR_TILING));
        return args_.bias == nullptr ? static_cast<Status>(MOE_OK) : check_bias_shape();
    }

    Status check_bias_shape() {
        const int64_t experts = padded() ? args_.expanded_permuted_rows->shape[0] : -1;
        MOE_TRY(shape_is(*args_.bias, "bias", {experts, hidden_}, "(experts, hidden)", MOE_ERROR_TILING));
        experts_ = args_.bias->shape[0];
        if (experts_ < experts_per_token_)
            return fail(MOE_ERROR_TILING, Kind::shape, "bias", "%lld experts, needed at least the %lld per token",
                        static_cast<long long>(experts_), static_cast<long long>(experts_per_token_));
        return MOE_OK;
    }

    Status check_indices(const RunContext& context) const {
        const int64_t lowest = padded() ? -1 : 0;
        const int32_t* index = index_.data<int32_t>();
        for (int64_t p = 0; p < tokens_ * experts_per_token_; ++p)
            if (index[p] < lowest || index[p] >= row_count_)
                MOE_TRY(context.bad_data(
                    "expanded_src_to_dst_row", p, index[p],
                    padded() ? "-1 or a row of expanded_permuted_rows" : "a row of expanded_permuted_rows"));
        const int32_t* expert = expert_.data<int32_t>();
        for (int64_t p = 0; expert != nullptr && p < tokens_ * experts_per_token_; ++p)
            if (expert[p] < 0 || expert[p] >= experts_)
                MOE_TRY(context.bad_data("export_for_source_row", p, expert[p], "a row of bias"));
        return MOE_OK;
    }

    const char* row_of(const Input& input, int64_t row) const {
        return input ? input.data<char>() + row * row_bytes_ : nullptr;
    }

    // Leaves out the terms that check_indices counted.
    CombineSum describe(const RowKernels& kernels, int64_t token, const char* zeros, CombineTerm* terms) const {
        int64_t count = 0;
        for (int64_t k = 0; k < experts_per_token_; ++k) {
            const int64_t source = index_.data<int32_t>()[index_position(token, k)];
            const int64_t expert = bias_ ? expert_.data<int32_t>()[token * experts_per_token_ + k] : 0;
            const bool bad_index = source < -1 || source >= row_count_ || (source == -1 && !padded());
            const bool bad_expert = bias_ && (expert < 0 || expert >= experts_);
            if (bad_index || bad_expert) continue;
            terms[count++] = {source == -1 ? zeros : row_of(rows_, source), row_of(bias_, expert),
                              scales_ ? scale_of(kernels, token, k) : 1.0f};
        }
        return {
            0.0f, {row_of(skip1_, token), row_of(skip2_, token)}, terms, count, out_.data<char>() + token * row_bytes_};
    }

    int64_t index_position(int64_t token, int64_t k) const {
        return args_.drop_pad_mode < 2 ? k * tokens_ + token : token * experts_per_token_ + k;
    }

    float scale_of(const RowKernels& kernels, int64_t token, int64_t k) const {
        const Dtype dtype = args_.scales->dtype;
        float scale;
        widen_row(kernels, dtype, scales_.data<char>() + (token * experts_per_token_ + k) * moe_dtype_size(dtype),
                  &scale, 1);
        return scale;
    }

    const Args args_;
    int64_t tokens_ = 0;
    int64_t experts_per_token_ = 0;
    int64_t hidden_ = 0;
    int64_t row_bytes_ = 0;
    int64_t row_count_ = 0;
    int64_t experts_ = 0;  // of the bias
    Input rows_, skip1_, skip2_, bias_, scales_, index_, expert_;
    Output out_;
    Piece terms_, zeros_;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::FinalizeRouting, moe_finalize_routing)
