#include "moe_native/permute.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/op.h"
#include "ops/routing_map.h"
#include "ops/row_copies.h"

namespace moe {
namespace {

class Permute {
  public:
    static constexpr const char* name = "npu_moe_token_permute_with_routing_map";
    using Args = moe_token_permute_with_routing_map_args;

    explicit Permute(const Args& args) : args_(args) {}

    Status resolve(Outputs outputs) {
        const bool checked = outputs == Outputs::checked;
        MOE_TRY(check_present(checked));
        MOE_TRY(check_dtypes(checked));
        MOE_TRY(check_sizes());
        if (checked) MOE_TRY(check_row_outputs());
        MOE_TRY(check_tokens());
        return checked ? check_other_outputs() : static_cast<Status>(MOE_OK);
    }

    void shapes(Tensor* outputs) const {
        const int64_t shape[] = {rows_, hidden_};
        outputs[0] = moe_tensor_make(nullptr, args_.tokens->dtype, 2, shape);
        outputs[1] = moe_tensor_make(nullptr, args_.probs == nullptr ? MOE_UNDEFINED : args_.probs->dtype, 1, shape);
        outputs[2] = moe_tensor_make(nullptr, MOE_INT32, 1, shape);
    }

    void book(Ledger& ledger) {
        if (rows_ == 0) return;
        tokens_.book(args_.tokens, "tokens", ledger);
        map_.book(args_.routing_map, "routing_map", ledger);
        probs_.book(args_.probs, "probs", ledger);
        permuted_tokens_.book(args_.permuted_tokens, "permuted_tokens", ledger);
        permuted_probs_.book(args_.permuted_probs, "permuted_probs", ledger);
        sorted_indices_.book(args_.sorted_indices, "sorted_indices", ledger);
        // A block pays from about 64 KiB of map and copied rows on.
        const int64_t token_bytes = expert_count_ + rows_ / token_count_ * row_bytes();
        blocks_.split(token_count_, ledger.threads(), 1 + 64 * 1024 / std::max<int64_t>(1, token_bytes));
        cursors_ = ledger.book<int64_t>("cursors", blocks_.count * expert_count_);
        if (args_.drop_and_pad) {
            routed_ = ledger.book<int64_t>("routed", expert_count_);
            open_ = ledger.book<int64_t>("open", blocks_.count * expert_count_);
        } else {
            first_ = ledger.book<int64_t>("first", blocks_.count);
            ragged_ = ledger.book<uint8_t>("ragged", blocks_.count);
        }
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        if (rows_ == 0) return MOE_OK;
        for (Input* input : {&tokens_, &map_, &probs_}) MOE_TRY(input->load(workspace));
        for (Output* output : {&permuted_tokens_, &permuted_probs_, &sorted_indices_}) MOE_TRY(output->load(workspace));
        if (args_.drop_and_pad) {
            MOE_TRY(context.data_checked());
            run_padded(workspace);
        } else {
            MOE_TRY(run_dropless(workspace, context));
        }
        for (const Output* output : {&permuted_tokens_, &permuted_probs_, &sorted_indices_}) output->store();
        return MOE_OK;
    }

  private:
    int64_t row_bytes() const { return hidden_ * moe_dtype_size(args_.tokens->dtype); }

    Status check_present(bool checked) const {
        MOE_TRY(required(args_.tokens, "tokens"));
        MOE_TRY(required(args_.routing_map, "routing_map"));
        MOE_TRY(optional(args_.probs, "probs"));
        if (!checked) return MOE_OK;
        MOE_TRY(required(args_.permuted_tokens, "permuted_tokens"));
        MOE_TRY(required(args_.sorted_indices, "sorted_indices"));
        MOE_TRY(optional(args_.permuted_probs, "permuted_probs"));
        if ((args_.probs == nullptr) != (args_.permuted_probs == nullptr))
            return fail(MOE_ERROR_NULL, Kind::missing, "permuted_probs", "%s, needed exactly when probs is given",
                        args_.probs == nullptr ? "given without probs" : "missing");
        return MOE_OK;
    }

    Status check_dtypes(bool checked) const {
        const Dtype dtype = args_.tokens->dtype;
        MOE_TRY(dtype_in(*args_.tokens, "tokens", {MOE_FLOAT16, MOE_BFLOAT16, MOE_FLOAT32}));
        MOE_TRY(dtype_in(*args_.routing_map, "routing_map", {MOE_INT8, MOE_BOOL}));
        if (args_.probs != nullptr && !(dtype == MOE_BFLOAT16 && args_.probs->dtype == MOE_FLOAT32))
            MOE_TRY(same_dtype(*args_.probs, "probs", dtype, "tokens"));
        if (!checked) return MOE_OK;
        MOE_TRY(same_dtype(*args_.permuted_tokens, "permuted_tokens", dtype, "tokens"));
        MOE_TRY(dtype_in(*args_.sorted_indices, "sorted_indices", {MOE_INT32}));
        return args_.probs == nullptr
                   ? static_cast<Status>(MOE_OK)
                   : same_dtype(*args_.permuted_probs, "permuted_probs", args_.probs->dtype, "probs");
    }

    Status check_sizes() {
        const Tensor& map = *args_.routing_map;
        MOE_TRY(rank_is(map, "routing_map", 2, MOE_ERROR_INVALID));
        if (args_.probs != nullptr) MOE_TRY(rank_is(*args_.probs, "probs", 2, MOE_ERROR_INVALID));
        token_count_ = map.shape[0];
        expert_count_ = map.shape[1];
        if (args_.num_out_tokens < 0 || args_.num_out_tokens > token_count_ * expert_count_)
            return fail(MOE_ERROR_INVALID, Kind::value, "num_out_tokens",
                        "%lld, needed 0 to tokens * experts = %lld * %lld = %lld",
                        static_cast<long long>(args_.num_out_tokens), static_cast<long long>(token_count_),
                        static_cast<long long>(expert_count_), static_cast<long long>(token_count_ * expert_count_));
        const int64_t most = limits() == MOE_LIMITS_NONE ? INT32_MAX : most_on_card;
        if (token_count_ > most || (limits() != MOE_LIMITS_NONE && expert_count_ > most))
            return fail(MOE_ERROR_INVALID, Kind::shape, "routing_map", "shape %s, needed at most %lld %s",
                        describe_shape(map.rank, map.shape).text, static_cast<long long>(most),
                        limits() == MOE_LIMITS_NONE ? "tokens: indices are int32" : "tokens and experts on this card");
        const int64_t unit = args_.drop_and_pad ? expert_count_ : token_count_;
        rows_ = unit == 0 ? 0 : args_.num_out_tokens / unit * unit;
        if (rows_ > INT32_MAX)
            return fail(MOE_ERROR_INVALID, Kind::value, "num_out_tokens",
                        "%lld, needed at most 2147483647: indices are int32",
                        static_cast<long long>(args_.num_out_tokens));
        return MOE_OK;
    }

    Status check_row_outputs() const {
        const Tensor& tokens = *args_.permuted_tokens;
        if (tokens.rank == 0 || tokens.shape[0] != rows_)
            return fail(MOE_ERROR_INVALID, Kind::shape, "permuted_tokens", "shape %s, needed %lld rows",
                        describe_shape(tokens.rank, tokens.shape).text, static_cast<long long>(rows_));
        return args_.probs == nullptr
                   ? static_cast<Status>(MOE_OK)
                   : shape_is(*args_.permuted_probs, "permuted_probs", {rows_}, "(rows,)", MOE_ERROR_INVALID);
    }

    Status check_tokens() {
        MOE_TRY(
            shape_is(*args_.tokens, "tokens", {token_count_, -1}, "(tokens of routing_map, hidden)", MOE_ERROR_TILING));
        hidden_ = args_.tokens->shape[1];
        if (limits() != MOE_LIMITS_NONE && !args_.drop_and_pad && rows_ > 0) {
            if (rows_ / token_count_ > most_experts_per_token)
                return fail(MOE_ERROR_TILING, Kind::value, "num_out_tokens",
                            "%lld, which is %lld experts per token, needed at most %lld on this card",
                            static_cast<long long>(args_.num_out_tokens), static_cast<long long>(rows_ / token_count_),
                            static_cast<long long>(most_experts_per_token));
            if (rows_ > most_on_card)
                return fail(MOE_ERROR_TILING, Kind::value, "num_out_tokens",
                            "%lld, needed at most %lld rows on this card", static_cast<long long>(args_.num_out_tokens),
                            static_cast<long long>(most_on_card));
        }
        return args_.probs == nullptr ? static_cast<Status>(MOE_OK)
                                      : shape_is(*args_.probs, "probs", {token_count_, expert_count_},
                                                 "the shape of routing_map", MOE_ERROR_INVALID);
    }

    Status check_other_outputs() const {
        MOE_TRY(
            shape_is(*args_.permuted_tokens, "permuted_tokens", {rows_, hidden_}, "(rows, hidden)", MOE_ERROR_TILING));
        MOE_TRY(rank_is(*args_.sorted_indices, "sorted_indices", 1, MOE_ERROR_TILING));
        return shape_is(*args_.sorted_indices, "sorted_indices", {rows_}, "(rows,)", MOE_ERROR_INVALID);
    }

    template <class Body>
    void for_each_block(const Workspace& workspace, Body&& body) const {
        parallel_ranges(workspace.threads(), blocks_.count, 1, [&](int, int64_t begin, int64_t end) {
            for (int64_t block = begin; block < end; ++block) body(block);
        });
    }

    const uint8_t* map_row(int64_t token) const { return map_.data<uint8_t>() + token * expert_count_; }

    // The probability of a routed pair becomes that of an output row. Copied as bits.
    void put_prob(int64_t row, int64_t token, int64_t expert) const {
        if (!probs_) return;
        const int64_t source = token * expert_count_ + expert;
        if (moe_dtype_size(args_.probs->dtype) == 2)
            permuted_probs_.data<uint16_t>()[row] = probs_.data<uint16_t>()[source];
        else
            permuted_probs_.data<uint32_t>()[row] = probs_.data<uint32_t>()[source];
    }

    const char* token_row(int64_t token) const { return tokens_.data<char>() + token * row_bytes(); }

    RowCopies row_copies() const { return {permuted_tokens_.data<char>(), rows_, row_bytes()}; }

    // A counting sort by expert: count per block, turn counts into the first row of every (expert, block), scatter.
    // A token is read once and copied to all of its rows while it is in the cache.
    Status run_dropless(const Workspace& workspace, const RunContext& context) const {
        const int64_t experts_per_token = rows_ / token_count_;
        int64_t* const cursors = workspace.at<int64_t>(cursors_);
        int64_t* const first = workspace.at<int64_t>(first_);
        uint8_t* const ragged = workspace.at<uint8_t>(ragged_);
        for_each_block(workspace, [&](int64_t block) {
            int64_t* const count = cursors + block * expert_count_;
            std::fill_n(count, expert_count_, int64_t{0});
            ragged[block] = 0;
            for (int64_t t = blocks_.begin(block); t < blocks_.begin(block + 1); ++t) {
                int64_t routed = 0;
                for_each_routed(map_row(t), expert_count_, [&](int64_t e) {
                    ++count[e];
                    ++routed;
                });
                if (routed != experts_per_token) ragged[block] = 1;
            }
        });
        if (std::any_of(ragged, ragged + blocks_.count, [](uint8_t r) { return r != 0; }))
            MOE_TRY(check_row_counts(context, map_.data<uint8_t>(), token_count_, expert_count_, experts_per_token,
                                     "num_out_tokens // tokens"));
        MOE_TRY(context.data_checked());
        // Pairs beyond the last row, which a ragged map may have, are left out: each block counts those it keeps.
        std::fill_n(first, blocks_.count, int64_t{0});
        int64_t row = 0;
        for (int64_t e = 0; e < expert_count_; ++e)
            for (int64_t block = 0; block < blocks_.count; ++block) {
                int64_t& cursor = cursors[block * expert_count_ + e];
                const int64_t count = cursor;
                cursor = row;
                first[block] += std::min(row + count, rows_) - std::min(row, rows_);
                row += count;
            }
        int64_t kept = 0;
        for (int64_t block = 0; block < blocks_.count; ++block) {
            const int64_t count = first[block];
            first[block] = kept;
            kept += count;
        }
        int32_t* const sorted_indices = sorted_indices_.data<int32_t>();
        const RowCopies copies = row_copies();
        for_each_block(workspace, [&](int64_t block) {
            RowCopies::Targets targets(copies);
            int64_t* const cursor = cursors + block * expert_count_;
            int64_t next = first[block];
            const int64_t end = blocks_.begin(block + 1);
            for (int64_t t = blocks_.begin(block); t < end; ++t) {
                const char* const source = token_row(t);
                for_each_routed(map_row(t), expert_count_, [&](int64_t e) {
                    const int64_t target = cursor[e]++;
                    if (target >= rows_) return;
                    sorted_indices[next++] = static_cast<int32_t>(target);
                    put_prob(target, t, e);
                    targets.add(target, source);
                });
                targets.copy(source, {source + row_bytes(), t + 1 < end ? row_bytes() : 0});
            }
        });
        fill_missing(kept);
        return MOE_OK;
    }

    // The rows that a ragged map does not fill.
    void fill_missing(int64_t kept) const {
        const auto missing = static_cast<size_t>(rows_ - kept);
        if (missing == 0) return;
        std::fill_n(sorted_indices_.data<int32_t>() + kept, missing, -1);
        if (row_bytes() > 0)
            std::memset(permuted_tokens_.data<char>() + kept * row_bytes(), 0,
                        missing * static_cast<size_t>(row_bytes()));
        if (!probs_) return;
        const auto size = static_cast<size_t>(moe_dtype_size(args_.probs->dtype));
        std::memset(permuted_probs_.data<char>() + static_cast<size_t>(kept) * size, 0, missing * size);
    }

    // Slots are found by a walk over the map, then all rows are copied: the walk gives the first tokens the most slots,
    // the copy splits evenly.
    void run_padded(const Workspace& workspace) const {
        const int64_t capacity = rows_ / expert_count_;
        int64_t* const cursors = workspace.at<int64_t>(cursors_);
        int64_t* const routed = workspace.at<int64_t>(routed_);
        int32_t* const sorted_indices = sorted_indices_.data<int32_t>();
        for_each_block(workspace, [&](int64_t block) {
            int64_t* const count = cursors + block * expert_count_;
            std::fill_n(count, expert_count_, int64_t{0});
            for (int64_t t = blocks_.begin(block); t < blocks_.begin(block + 1); ++t)
                for_each_routed(map_row(t), expert_count_, [&](int64_t e) { ++count[e]; });
        });
        for (int64_t e = 0; e < expert_count_; ++e) {
            int64_t before = 0;
            for (int64_t block = 0; block < blocks_.count; ++block) {
                int64_t& cursor = cursors[block * expert_count_ + e];
                const int64_t count = cursor;
                cursor = before;
                before += count;
            }
            routed[e] = before;
        }
        const auto put = [&](int64_t e, int64_t slot, int64_t t) {
            sorted_indices[e * capacity + slot] = static_cast<int32_t>(t);
            put_prob(e * capacity + slot, t, e);
        };
        for_each_block(workspace, [&](int64_t block) {
            // cursor[e] tokens before the current one are routed to e, and so t - cursor[e] are not.
            int64_t* const cursor = cursors + block * expert_count_;
            int64_t* const open = workspace.at<int64_t>(open_) + block * expert_count_;
            int64_t open_count = 0;
            for (int64_t e = 0; e < expert_count_; ++e)
                if (routed[e] + blocks_.begin(block) - cursor[e] < capacity) open[open_count++] = e;
            for (int64_t t = blocks_.begin(block); t < blocks_.begin(block + 1); ++t) {
                const uint8_t* const row = map_row(t);
                for_each_routed(row, expert_count_, [&](int64_t e) {
                    const int64_t slot = cursor[e]++;
                    if (slot < capacity) put(e, slot, t);
                });
                for (int64_t i = 0; i < open_count;) {
                    const int64_t e = open[i];
                    const int64_t slot = routed[e] + t - cursor[e];
                    if (row[e] == 0) put(e, slot, t);
                    if (row[e] == 0 && slot + 1 == capacity)
                        open[i] = open[--open_count];
                    else
                        ++i;
                }
            }
        });
        const int64_t grain = 1 + 64 * 1024 / std::max<int64_t>(1, row_bytes());
        const RowCopies copies = row_copies();
        parallel_ranges(workspace.threads(), rows_, grain, [&](int, int64_t begin, int64_t end) {
            RowCopies::Targets targets(copies);
            for (int64_t row = begin; row < end; ++row) {
                const char* const source = token_row(sorted_indices[row]);
                const char* const next = row + 1 < end ? token_row(sorted_indices[row + 1]) : source;
                targets.add(row, source);
                targets.copy(source, {next, row_bytes()});
            }
        });
    }

    // A card sorts indices as float32.
    static constexpr int64_t most_on_card = 16777214;
    static constexpr int64_t most_experts_per_token = 512;

    const Args args_;
    int64_t token_count_ = 0;
    int64_t expert_count_ = 0;
    int64_t hidden_ = 0;
    int64_t rows_ = 0;
    TokenBlocks blocks_;
    Input tokens_, map_, probs_;
    Output permuted_tokens_, permuted_probs_, sorted_indices_;
    Piece cursors_, first_, ragged_, routed_, open_;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::Permute, moe_token_permute_with_routing_map)
