#include <algorithm>
#include <cstdint>
#include <utility>

#include "core/cache.h"
#include "moe_native/grouped_matmul.h"
#include "ops/grouped_matmul.h"

namespace moe {
namespace {

class GroupedMatmulFinalizeRouting {
  public:
    static constexpr const char* name = "npu_grouped_matmul_finalize_routing";
    using Args = moe_grouped_matmul_finalize_routing_args;

    explicit GroupedMatmulFinalizeRouting(const Args& args) : args_(args) {}

    Status resolve(Outputs outputs) {
        MOE_TRY(check_present(outputs));
        MOE_TRY(check_modes());
        MOE_TRY(check_product());
        MOE_TRY(check_row_operands());
        MOE_TRY(check_combine());
        MOE_TRY(check_limits());
        if (outputs == Outputs::ignored) return MOE_OK;
        MOE_TRY(dtype_in(*args_.out, "out", {MOE_FLOAT32}));
        return shape_is(*args_.out, "out", {batch_, n_}, "(output_bs, n)", MOE_ERROR_INVALID);
    }

    void shapes(Tensor* outputs) const {
        const int64_t shape[] = {batch_, n_};
        outputs[0] = moe_tensor_make(nullptr, MOE_FLOAT32, 2, shape);
    }

    void book(Ledger& ledger) {
        x_.book(args_.x, "x", ledger);
        scale_.book(args_.scale, "scale", ledger);
        bias_.book(args_.bias, "bias", ledger);
        offset_.book(args_.offset, "offset", ledger);
        pertoken_.book(args_.pertoken_scale, "pertoken_scale", ledger);
        shared_.book(args_.shared_input, "shared_input", ledger);
        logit_.book(args_.logit, "logit", ledger);
        row_index_.book(args_.row_index, "row_index", ledger);
        out_.book(args_.out, "out", ledger);
        experts_.book(args_.group_list, "group_list", args_.group_list_type, m_, ledger);
        target_piece_ = ledger.book<int64_t>("output rows", m_);
        if (args_.offset != nullptr) row_sum_piece_ = ledger.book<float>("row sums", m_);
        product_.book(weights_, m_, k_, 1, n_, 1, true, 0, ledger);
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        for (Input* input : {&x_, &scale_, &bias_, &offset_, &pertoken_, &shared_, &logit_, &row_index_})
            MOE_TRY(input->load(workspace));
        MOE_TRY(weights_.load());
        MOE_TRY(out_.load(workspace));
        MOE_TRY(experts_.load(workspace, context));
        target_ = workspace.at<int64_t>(target_piece_);
        MOE_TRY(read_targets(context));
        MOE_TRY(context.data_checked());
        row_sum_ = workspace.at<float>(row_sum_piece_);
        product_.load(workspace, x_.data<int8_t>(), weights_.int4() ? scale_.data<int64_t>() : nullptr, n_);
        const RowKernels& rows = row_kernels();
        initialise(rows, workspace.threads());
        if (row_sum_ != nullptr) sum_rows(workspace.threads());

        const IgemmKernels& kernels = igemm_kernels();
        const int64_t span = product_.span();
        const auto fill = [&](int64_t item, PanelGroup& group) {
            group.count = 0;
            for (int64_t column = item * span; column < std::min((item + 1) * span, n_); column += igemm::columns)
                group.columns[group.count++] = {column, std::min(igemm::columns, n_ - column)};
            const int64_t first = group.expert * n_ + group.columns[0].first;
            prefetch(scale_.data<char>() + first * moe_dtype_size(args_.scale->dtype),
                     group.run(0).width * moe_dtype_size(args_.scale->dtype));
        };
        const auto prepare = [&](const PanelGroup& group) { return Combine(*this, kernels, rows, group); };
        for (int64_t first = 0; first < experts_.used(); first += product_.batch_rows()) {
            const int64_t last = std::min(first + product_.batch_rows(), experts_.used());
            product_.pack(experts_, first, last);
            // A thread owns columns and walks experts and rows in ascending order: so the order of the additions to an
            // output row is that of the rows, whatever the number of threads.
            product_.multiply(experts_, first, last, ceil_divide(n_, span), fill, prepare);
        }
        out_.store();
        return MOE_OK;
    }

  private:
    // Adds tiles of a group of panels to the output.
    class Combine {
      public:
        Combine(const GroupedMatmulFinalizeRouting& op, const IgemmKernels& kernels, const RowKernels& rows,
                const PanelGroup& group)
            : op_(op), kernels_(kernels), rows_(rows), group_(group) {
            for (int64_t p = 0; p < group.count; ++p) {
                const PanelColumns& columns = group.columns[p];
                const auto widen = [&](const Tensor* tensor, const Input& input, float* target) {
                    const int64_t first = (group.expert * op.n_ + columns.first) * moe_dtype_size(tensor->dtype);
                    widen_row(rows, tensor->dtype, input.data<char>() + first, target, columns.width);
                };
                if (!op.weights_.int4()) widen(op.args_.scale, op.scale_, scale_[p]);
                if (op.bias_) widen(op.args_.bias, op.bias_, bias_[p]);
            }
            prefetch_outputs(group.begin, op.product_.tile_rows());
        }

        void operator()(int64_t row, int64_t count, float* values) const {
            const float* pertoken = op_.pertoken_ ? op_.pertoken_.data<float>() + row : nullptr;
            const float* logit = op_.logit_ ? op_.logit_.data<float>() + row : nullptr;
            prefetch_outputs(row + count, op_.product_.tile_rows());
            for (int64_t p = 0; p < group_.count; ++p, values += op_.product_.tile_rows() * igemm::columns) {
                const PanelColumns& columns = group_.columns[p];
                float* y = op_.out_.data<float>() + columns.first;
                if (op_.weights_.int4())
                    op_.add_int4(rows_, group_.expert, row, count, columns, values, bias_[p], pertoken, logit, y);
                else
                    kernels_.combine(values, count, columns.width, scale_[p], op_.bias_ ? bias_[p] : nullptr, pertoken,
                                     logit, op_.target_ + row, y, op_.n_);
            }
        }

      private:
        // The columns of the output rows of `count` rows of x, which lie far from each other.
        void prefetch_outputs(int64_t row, int64_t count) const {
            const PanelColumns columns = group_.run(0);
            for (const int64_t end = std::min(row + count, group_.end); row < end; ++row)
                if (op_.target_[row] >= 0)
                    prefetch(op_.out_.data<float>() + op_.target_[row] * op_.n_ + columns.first,
                             columns.width * static_cast<int64_t>(sizeof(float)));
        }

        const GroupedMatmulFinalizeRouting& op_;
        const IgemmKernels& kernels_;
        const RowKernels& rows_;
        const PanelGroup& group_;
        float scale_[PanelGroup::most][igemm::columns];
        float bias_[PanelGroup::most][igemm::columns];
    };

    Status check_present(Outputs outputs) const {
        MOE_TRY(required(args_.x, "x"));
        MOE_TRY(required(args_.w, "w"));
        MOE_TRY(required(args_.scale, "scale"));
        MOE_TRY(required(args_.group_list, "group_list"));
        MOE_TRY(required(args_.row_index, "row_index"));
        MOE_TRY(optional(args_.bias, "bias"));
        MOE_TRY(optional(args_.offset, "offset"));
        MOE_TRY(optional(args_.pertoken_scale, "pertoken_scale"));
        MOE_TRY(optional(args_.shared_input, "shared_input"));
        MOE_TRY(optional(args_.logit, "logit"));
        if (args_.w->dtype == MOE_INT32 || args_.w->dtype == MOE_INT4)
            for (const auto& [tensor, argument] :
                 {std::pair{args_.bias, "bias"}, std::pair{args_.pertoken_scale, "pertoken_scale"}})
                if (tensor == nullptr)
                    return fail(MOE_ERROR_NULL, Kind::value, argument, "missing, needed with an int4 weight");
        // The first documents know a call without both, later ones do not.
        if (args_.logit == nullptr && (args_.shared_input != nullptr || limits() == MOE_LIMITS_ATLAS_A2))
            return fail(MOE_ERROR_NULL, Kind::value, "logit", "missing, needed %s",
                        args_.shared_input != nullptr ? "beside shared_input" : "on this card");
        return outputs == Outputs::checked ? required(args_.out, "out") : static_cast<Status>(MOE_OK);
    }

    Status check_modes() const {
        if (args_.dtype != 0)
            return fail(MOE_ERROR_INVALID, Kind::value, "dtype", "%lld, needed 0 (float32)",
                        static_cast<long long>(args_.dtype));
        if (args_.group_list_type != 0 && args_.group_list_type != 1)
            return fail(MOE_ERROR_INVALID, Kind::value, "group_list_type",
                        "%lld, needed 0 (cumulative ends) or 1 (counts)",
                        static_cast<long long>(args_.group_list_type));
        return MOE_OK;
    }

    Status check_product() {
        MOE_TRY(dtype_in(*args_.x, "x", {MOE_INT8}));
        MOE_TRY(rank_is(*args_.x, "x", 2, MOE_ERROR_INVALID));
        m_ = args_.x->shape[0];
        k_ = args_.x->shape[1];
        MOE_TRY(not_empty(*args_.x, "x"));
        MOE_TRY(dtype_in(*args_.w, "w", {MOE_INT8, MOE_INT32, MOE_INT4}));
        const bool int4 = args_.w->dtype != MOE_INT8;
        if (int4)
            MOE_TRY(dtype_in(*args_.scale, "scale", {MOE_INT64}));
        else
            MOE_TRY(dtype_in(*args_.scale, "scale", {MOE_FLOAT32, MOE_BFLOAT16}));
        MOE_TRY(rank_is(*args_.scale, "scale", int4 ? 3 : 2, MOE_ERROR_INVALID));
        MOE_TRY(not_empty(*args_.scale, "scale"));
        n_ = args_.scale->shape[int4 ? 2 : 1];
        MOE_TRY(weights_.resolve(*args_.w, "w", k_, n_));
        const int64_t experts = weights_.experts();
        if (int4)
            MOE_TRY(shape_is(*args_.scale, "scale", {experts, 1, n_}, "(experts, 1, n)", MOE_ERROR_INVALID));
        else
            MOE_TRY(shape_is(*args_.scale, "scale", {experts, n_}, "(experts, n)", MOE_ERROR_INVALID));
        MOE_TRY(dtype_in(*args_.group_list, "group_list", {MOE_INT64}));
        MOE_TRY(shape_is(*args_.group_list, "group_list", {experts}, "(experts,)", MOE_ERROR_INVALID));
        if (args_.bias != nullptr) {
            if (int4)
                MOE_TRY(dtype_in(*args_.bias, "bias", {MOE_FLOAT32}));
            else
                MOE_TRY(dtype_in(*args_.bias, "bias", {MOE_FLOAT32, MOE_BFLOAT16}));
            MOE_TRY(shape_is(*args_.bias, "bias", {experts, n_}, "(experts, n)", MOE_ERROR_INVALID));
        }
        if (args_.offset != nullptr) {
            if (!int4) return fail(MOE_ERROR_INVALID, Kind::value, "offset", "given, needed none with an int8 weight");
            MOE_TRY(dtype_in(*args_.offset, "offset", {MOE_FLOAT32}));
            MOE_TRY(shape_is(*args_.offset, "offset", {experts, 1, n_}, "(experts, 1, n)", MOE_ERROR_INVALID));
        }
        return MOE_OK;
    }

    Status check_row_operands() const {
        if (args_.pertoken_scale != nullptr) {
            MOE_TRY(dtype_in(*args_.pertoken_scale, "pertoken_scale", {MOE_FLOAT32}));
            MOE_TRY(shape_is(*args_.pertoken_scale, "pertoken_scale", {m_}, "(m,)", MOE_ERROR_INVALID));
        }
        if (args_.logit != nullptr) {
            MOE_TRY(dtype_in(*args_.logit, "logit", {MOE_FLOAT32}));
            MOE_TRY(shape_is(*args_.logit, "logit", {m_}, "(m,)", MOE_ERROR_INVALID));
        }
        if (weights_.int4() || limits() == MOE_LIMITS_SEED)
            MOE_TRY(dtype_in(*args_.row_index, "row_index", {MOE_INT64}));
        else
            MOE_TRY(dtype_in(*args_.row_index, "row_index", {MOE_INT64, MOE_INT32}));
        return shape_is(*args_.row_index, "row_index", {m_}, "(m,)", MOE_ERROR_INVALID);
    }

    Status check_combine() {
        if (args_.output_bs < 0 || args_.output_bs > m_)
            return fail(MOE_ERROR_INVALID, Kind::value, "output_bs", "%lld, needed 0 to the %lld rows of x",
                        static_cast<long long>(args_.output_bs), static_cast<long long>(m_));
        batch_ = args_.output_bs == 0 ? m_ : args_.output_bs;
        int64_t shared_rows = 0;
        if (args_.shared_input != nullptr) {
            MOE_TRY(dtype_in(*args_.shared_input, "shared_input", {MOE_BFLOAT16}));
            MOE_TRY(shape_is(*args_.shared_input, "shared_input", {-1, n_}, "(shared rows, n)", MOE_ERROR_INVALID));
            MOE_TRY(not_empty(*args_.shared_input, "shared_input"));
            shared_rows = args_.shared_input->shape[0];
            if (shared_rows > batch_)
                return fail(MOE_ERROR_INVALID, Kind::shape, "shared_input",
                            "%lld rows, needed at most the %lld of the output", static_cast<long long>(shared_rows),
                            static_cast<long long>(batch_));
        }
        if (args_.shared_input_offset < 0 || args_.shared_input_offset > batch_ - shared_rows)
            return fail(MOE_ERROR_INVALID, Kind::value, "shared_input_offset",
                        "%lld, needed 0 to %lld: %lld output rows less %lld shared ones",
                        static_cast<long long>(args_.shared_input_offset), static_cast<long long>(batch_ - shared_rows),
                        static_cast<long long>(batch_), static_cast<long long>(shared_rows));
        if (args_.tuning_config_size < 0)
            return fail(MOE_ERROR_INVALID, Kind::value, "tuning_config", "%lld entries, needed 0 or more",
                        static_cast<long long>(args_.tuning_config_size));
        if (args_.tuning_config_size > 0 && args_.tuning_config == nullptr)
            return fail(MOE_ERROR_NULL, Kind::missing, "tuning_config", "null with %lld entries",
                        static_cast<long long>(args_.tuning_config_size));
        if (args_.tuning_config_size > 0 && (args_.tuning_config[0] < 0 || args_.tuning_config[0] > m_))
            return fail(MOE_ERROR_INVALID, Kind::value, "tuning_config",
                        "%lld as its first entry, needed 0 to the %lld rows of x",
                        static_cast<long long>(args_.tuning_config[0]), static_cast<long long>(m_));
        return MOE_OK;
    }

    Status check_limits() const {
        if (limits() == MOE_LIMITS_NONE) return MOE_OK;
        const auto refuse = [](const char* argument, const char* what, int64_t seen, const char* needed) {
            return fail(MOE_ERROR_INVALID, Kind::shape, argument, "%s = %lld, needed %s on this card", what,
                        static_cast<long long>(seen), needed);
        };
        if (weights_.int4()) {
            const int64_t multiple = weights_.tiled() ? 64 : 8;
            if (k_ % 64 != 0 || k_ <= 128 || k_ > 18432)
                return refuse("x", "k", k_, "a multiple of 64 from 192 to 18432 with an int4 weight");
            if (n_ % multiple != 0 || n_ <= 64)
                return refuse("w", "n", n_,
                              weights_.tiled() ? "a multiple of 64 above 64" : "a multiple of 8 above 64");
            return MOE_OK;
        }
        if (args_.bias != nullptr && args_.bias->dtype != MOE_BFLOAT16)
            return fail(MOE_ERROR_INVALID, Kind::dtype, "bias", "dtype %s, needed bfloat16 on this card",
                        moe_dtype_name(args_.bias->dtype));
        if (k_ % 16 != 0) return refuse("x", "k", k_, "a multiple of 16");
        if (n_ % 32 != 0 || n_ < 256) return refuse("scale", "n", n_, "a multiple of 32 from 256 on");
        if (limits() != MOE_LIMITS_SEED) return MOE_OK;
        if (k_ != 2048) return refuse("x", "k", k_, "2048");
        if (n_ != 7168) return refuse("scale", "n", n_, "7168");
        if (m_ > 131072) return refuse("x", "m", m_, "at most 131072");
        if (weights_.experts() > 256) return refuse("w", "experts", weights_.experts(), "at most 256");
        if (batch_ > 16384) return refuse("output_bs", "rows", batch_, "at most 16384");
        if (args_.shared_input != nullptr && args_.shared_input->shape[0] > 2048)
            return refuse("shared_input", "rows", args_.shared_input->shape[0], "at most 2048");
        const struct {
            const Tensor* tensor;
            const char* argument;
        } inputs[] = {{args_.x, "x"},
                      {args_.w, "w"},
                      {args_.group_list, "group_list"},
                      {args_.scale, "scale"},
                      {args_.bias, "bias"},
                      {args_.pertoken_scale, "pertoken_scale"},
                      {args_.shared_input, "shared_input"},
                      {args_.logit, "logit"},
                      {args_.row_index, "row_index"}};
        for (const auto& input : inputs)
            if (input.tensor != nullptr && !is_contiguous(*input.tensor))
                return fail(MOE_ERROR_INVALID, Kind::value, input.argument, "strided, needed contiguous on this card");
        return MOE_OK;
    }

    static Status not_empty(const Tensor& tensor, const char* argument) {
        if (element_count(tensor) > 0) return MOE_OK;
        return fail(MOE_ERROR_INVALID, Kind::shape, argument, "shape %s, needed no empty dimension",
                    describe_shape(tensor.rank, tensor.shape).text);
    }

    // Output row of every used row of x, -1 where it is bad.
    Status read_targets(const RunContext& context) {
        for (int64_t row = 0; row < experts_.used(); ++row) {
            const int64_t index =
                args_.row_index->dtype == MOE_INT32 ? row_index_.data<int32_t>()[row] : row_index_.data<int64_t>()[row];
            const bool inside = index >= 0 && index < batch_;
            if (!inside) MOE_TRY(context.bad_data("row_index", row, index, "a row of the output"));
            target_[row] = inside ? index : -1;
        }
        return MOE_OK;
    }

    void initialise(const RowKernels& rows, int threads) const {
        const int64_t shared_begin = args_.shared_input_offset;
        const int64_t shared_end = shared_ ? shared_begin + args_.shared_input->shape[0] : shared_begin;
        parallel_ranges(threads, batch_, 1 + 64 * 1024 / n_, [&](int, int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) {
                float* y = out_.data<float>() + row * n_;
                if (row < shared_begin || row >= shared_end) {
                    std::fill_n(y, n_, 0.0f);
                    continue;
                }
                rows.widen_bf16(shared_.data<uint16_t>() + (row - shared_begin) * n_, y, n_);
                rows.scale(y, args_.shared_input_weight, n_);
            }
        });
    }

    void sum_rows(int threads) const {
        parallel_ranges(threads, experts_.used(), 1 + 64 * 1024 / k_, [&](int, int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) {
                const int8_t* x = x_.data<int8_t>() + row * k_;
                int64_t sum = 0;
                for (int64_t t = 0; t < k_; ++t) sum += x[t];
                row_sum_[row] = static_cast<float>(sum);
            }
        });
    }

    void add_int4(const RowKernels& rows, int64_t expert, int64_t row, int64_t count, const PanelColumns& columns,
                  float* values, const float* bias, const float* pertoken, const float* logit, float* y) const {
        const float* offset = offset_ ? offset_.data<float>() + expert * n_ + columns.first : nullptr;
        for (int64_t r = 0; r < count; ++r, values += igemm::columns) {
            const int64_t target = target_[row + r];
            if (target < 0) continue;
            rows.add(values, bias, columns.width);
            if (offset != nullptr) rows.add_scaled(values, offset, row_sum_[row + r], columns.width);
            rows.add_scaled(y + target * n_, values, logit == nullptr ? pertoken[r] : pertoken[r] * logit[r],
                            columns.width);
        }
    }

    const Args args_;
    int64_t m_ = 0;
    int64_t k_ = 0;
    int64_t n_ = 0;
    int64_t batch_ = 0;
    ExpertWeights weights_;
    ExpertRows experts_;
    GroupedProduct product_;
    Input x_, scale_, bias_, offset_, pertoken_, shared_, logit_, row_index_;
    Output out_;
    Piece target_piece_, row_sum_piece_;
    int64_t* target_ = nullptr;
    float* row_sum_ = nullptr;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::GroupedMatmulFinalizeRouting, moe_grouped_matmul_finalize_routing)
