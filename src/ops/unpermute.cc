#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/op.h"
#include "kernels/rows/rows.h"
#include "moe_native/permute.h"
#include "ops/combine_rows.h"
#include "ops/routing_map.h"

namespace moe {
namespace {

class Unpermute {
  public:
    static constexpr const char* name = "npu_moe_token_unpermute_with_routing_map";
    using Args = moe_token_unpermute_with_routing_map_args;

    explicit Unpermute(const Args& args) : args_(args) {}

    Status resolve(Outputs outputs) {
        const bool checked = outputs == Outputs::checked;
        MOE_TRY(check_present(checked));
        MOE_TRY(check_dtypes(checked));
        MOE_TRY(check_ranks(checked));
        MOE_TRY(check_token_count());
        if (!empty()) MOE_TRY(args_.drop_and_pad ? check_padded() : check_dropless());
        return checked ? check_output_shapes() : static_cast<Status>(MOE_OK);
    }

    void shapes(Tensor* outputs) const {
        const int64_t tokens[] = {token_count_, hidden_};
        outputs[0] = moe_tensor_make(nullptr, args_.permuted_tokens->dtype, 2, tokens);
        outputs[1] = outputs[2] = moe_tensor_make(nullptr, MOE_INT32, 1, &slots_);
        outputs[3] = moe_tensor_make(nullptr, args_.probs == nullptr ? MOE_UNDEFINED : args_.probs->dtype, 1, &slots_);
    }

    void book(Ledger& ledger) {
        unpermuted_.book(args_.unpermuted, "unpermuted", ledger);
        out_index_.book(args_.out_index, "out_index", ledger);
        permuted_token_id_.book(args_.permuted_token_id, "permuted_token_id", ledger);
        if (args_.probs != nullptr) permute_probs_.book(args_.permute_probs, "permute_probs", ledger);
        if (empty()) return;
        permuted_tokens_.book(args_.permuted_tokens, "permuted_tokens", ledger);
        sorted_indices_.book(args_.sorted_indices, "sorted_indices", ledger);
        probs_.book(args_.probs, "probs", ledger);
        if (args_.drop_and_pad) {
            ends_ = ledger.book<int64_t>("ends", token_count_);
            return;
        }
        terms_ = ledger.book("terms", combine_terms_bytes(ledger.threads(), slots_ / token_count_));
        if (args_.probs != nullptr) {
            map_.book(args_.routing_map, "routing_map", ledger);
            // A block pays from about 64 KiB of map on.
            blocks_.split(token_count_, ledger.threads(), 1 + 64 * 1024 / std::max<int64_t>(1, expert_count_));
            first_ = ledger.book<int64_t>("first", blocks_.count);
            ragged_ = ledger.book<uint8_t>("ragged", blocks_.count);
            if (args_.permute_probs == nullptr) slot_probs_ = ledger.book("slot_probs", prob_bytes(slots_));
        }
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        for (Input* input : {&permuted_tokens_, &sorted_indices_, &map_, &probs_}) MOE_TRY(input->load(workspace));
        for (Output* output : {&unpermuted_, &out_index_, &permuted_token_id_, &permute_probs_})
            MOE_TRY(output->load(workspace));
        if (empty()) {
            MOE_TRY(context.data_checked());
            if (context.zeroes_undefined()) zero_all();
        } else {
            MOE_TRY(check_indices(context));
            // The map is read with probabilities only, and checked where that happens.
            if (args_.drop_and_pad || !probs_) MOE_TRY(context.data_checked());
            if (args_.drop_and_pad)
                run_padded(workspace);
            else
                MOE_TRY(run_dropless(workspace, context));
        }
        for (const Output* output : {&unpermuted_, &out_index_, &permuted_token_id_, &permute_probs_}) output->store();
        return MOE_OK;
    }

  private:
    // A tile of the sum and one widened row stay in the first-level cache.
    static constexpr int64_t tile = 1024;
    static constexpr int64_t most_experts_per_token = 512;

    struct Named {
        const Tensor* tensor;
        const char* argument;
    };

    bool empty() const { return slots_ == 0 || row_count_ == 0; }
    uint64_t prob_bytes(int64_t count) const {
        return static_cast<uint64_t>(count * moe_dtype_size(args_.probs->dtype));
    }

    Status check_present(bool checked) const {
        MOE_TRY(required(args_.permuted_tokens, "permuted_tokens"));
        MOE_TRY(required(args_.sorted_indices, "sorted_indices"));
        MOE_TRY(optional(args_.routing_map, "routing_map"));
        MOE_TRY(optional(args_.probs, "probs"));
        if (args_.probs == nullptr && args_.restore_shape == nullptr)
            return fail(MOE_ERROR_NULL, Kind::missing, "restore_shape", "missing, needed when probs is missing too");
        if (!checked) return MOE_OK;
        MOE_TRY(required(args_.unpermuted, "unpermuted"));
        const auto index = [&](const Tensor* tensor, const char* argument) {
            return args_.drop_and_pad ? required(tensor, argument) : optional(tensor, argument);
        };
        MOE_TRY(index(args_.out_index, "out_index"));
        MOE_TRY(index(args_.permuted_token_id, "permuted_token_id"));
        MOE_TRY(optional(args_.permute_probs, "permute_probs"));
        return MOE_OK;
    }

    Status check_dtypes(bool checked) const {
        MOE_TRY(dtype_in(*args_.permuted_tokens, "permuted_tokens", {MOE_FLOAT16, MOE_BFLOAT16, MOE_FLOAT32}));
        MOE_TRY(dtype_in(*args_.sorted_indices, "sorted_indices", {MOE_INT32}));
        if (args_.probs != nullptr) MOE_TRY(dtype_in(*args_.probs, "probs", {MOE_FLOAT16, MOE_BFLOAT16, MOE_FLOAT32}));
        if (!checked) return MOE_OK;
        MOE_TRY(same_dtype(*args_.unpermuted, "unpermuted", args_.permuted_tokens->dtype, "permuted_tokens"));
        if (args_.out_index != nullptr) MOE_TRY(dtype_in(*args_.out_index, "out_index", {MOE_INT32}));
        if (args_.permuted_token_id != nullptr)
            MOE_TRY(dtype_in(*args_.permuted_token_id, "permuted_token_id", {MOE_INT32}));
        if (args_.permute_probs != nullptr && args_.probs != nullptr)
            MOE_TRY(same_dtype(*args_.permute_probs, "permute_probs", args_.probs->dtype, "probs"));
        return MOE_OK;
    }

    Status check_ranks(bool checked) {
        MOE_TRY(rank_is(*args_.permuted_tokens, "permuted_tokens", 2, MOE_ERROR_INVALID));
        MOE_TRY(rank_is(*args_.sorted_indices, "sorted_indices", 1, MOE_ERROR_INVALID));
        if (checked) MOE_TRY(rank_is(*args_.unpermuted, "unpermuted", 2, MOE_ERROR_INVALID));
        row_count_ = args_.permuted_tokens->shape[0];
        hidden_ = args_.permuted_tokens->shape[1];
        slots_ = args_.sorted_indices->shape[0];
        return MOE_OK;
    }

    Status check_token_count() {
        if (args_.routing_map != nullptr)
            MOE_TRY(dtype_in(*args_.routing_map, "routing_map", {MOE_INT8, MOE_BOOL}, MOE_ERROR_TILING));
        if (args_.probs != nullptr) {
            MOE_TRY(rank_is(*args_.probs, "probs", 2, MOE_ERROR_TILING));
            token_count_ = args_.probs->shape[0];
            expert_count_ = args_.probs->shape[1];
        }
        if (args_.restore_shape == nullptr) return MOE_OK;
        const int64_t* const shape = args_.restore_shape;
        const auto refuse = [&](const char* needed, int64_t value) {
            return fail(MOE_ERROR_TILING, Kind::shape, "restore_shape", "(%lld, %lld), needed %s = %lld",
                        static_cast<long long>(shape[0]), static_cast<long long>(shape[1]), needed,
                        static_cast<long long>(value));
        };
        if (shape[0] < 0) return refuse("a number of tokens of at least", 0);
        if (shape[1] != hidden_) return refuse("the columns of permuted_tokens", hidden_);
        if (args_.probs != nullptr && shape[0] != token_count_) return refuse("the tokens of probs", token_count_);
        token_count_ = shape[0];
        return MOE_OK;
    }

    Status check_slots() const {
        if (token_count_ == 0)
            return fail(MOE_ERROR_TILING, Kind::shape, "sorted_indices", "%lld indices for 0 tokens, needed 0",
                        static_cast<long long>(slots_));
        if (slots_ > INT32_MAX)
            return fail(MOE_ERROR_TILING, Kind::shape, "sorted_indices",
                        "%lld indices, needed at most 2147483647: indices are int32", static_cast<long long>(slots_));
        if (row_count_ != slots_)
            return fail(MOE_ERROR_TILING, Kind::shape, "permuted_tokens",
                        "%lld rows, needed one for each of the %lld sorted_indices", static_cast<long long>(row_count_),
                        static_cast<long long>(slots_));
        return MOE_OK;
    }

    Status check_map_shape() const {
        if (args_.routing_map == nullptr) return MOE_OK;
        return shape_is(*args_.routing_map, "routing_map", {token_count_, args_.probs == nullptr ? -1 : expert_count_},
                        "(tokens, experts)", MOE_ERROR_TILING);
    }

    Status check_dropless() const {
        MOE_TRY(check_slots());
        if (slots_ % token_count_ != 0)
            return fail(MOE_ERROR_TILING, Kind::shape, "sorted_indices",
                        "%lld indices, needed a multiple of the %lld tokens", static_cast<long long>(slots_),
                        static_cast<long long>(token_count_));
        const int64_t experts_per_token = slots_ / token_count_;
        if (limits() != MOE_LIMITS_NONE && experts_per_token > most_experts_per_token)
            return fail(MOE_ERROR_TILING, Kind::shape, "sorted_indices",
                        "%lld per token, needed at most %lld on this card", static_cast<long long>(experts_per_token),
                        static_cast<long long>(most_experts_per_token));
        if (args_.probs != nullptr && args_.routing_map == nullptr)
            return fail(MOE_ERROR_TILING, Kind::value, "routing_map", "missing, needed with probs when dropless");
        MOE_TRY(check_map_shape());
        if (args_.routing_map != nullptr && experts_per_token > args_.routing_map->shape[1])
            return fail(MOE_ERROR_TILING, Kind::shape, "routing_map",
                        "%lld experts, needed at least the %lld indices per token",
                        static_cast<long long>(args_.routing_map->shape[1]), static_cast<long long>(experts_per_token));
        return MOE_OK;
    }

    Status check_padded() const {
        MOE_TRY(check_slots());
        MOE_TRY(check_map_shape());
        if (args_.probs == nullptr) return MOE_OK;
        if (expert_count_ == 0 || slots_ % expert_count_ != 0)
            return fail(MOE_ERROR_TILING, Kind::shape, "sorted_indices",
                        "%lld indices, needed a multiple of the %lld experts", static_cast<long long>(slots_),
                        static_cast<long long>(expert_count_));
        if (slots_ / expert_count_ > token_count_)
            return fail(MOE_ERROR_TILING, Kind::shape, "sorted_indices",
                        "%lld indices per expert, needed at most the %lld tokens",
                        static_cast<long long>(slots_ / expert_count_), static_cast<long long>(token_count_));
        return MOE_OK;
    }

    Status check_output_shapes() const {
        MOE_TRY(
            shape_is(*args_.unpermuted, "unpermuted", {token_count_, hidden_}, "(tokens, hidden)", MOE_ERROR_TILING));
        for (const auto& [tensor, argument] :
             {Named{args_.out_index, "out_index"},
              {args_.permuted_token_id, "permuted_token_id"},
              {args_.probs == nullptr ? nullptr : args_.permute_probs, "permute_probs"}})
            if (tensor != nullptr) MOE_TRY(shape_is(*tensor, argument, {slots_}, "(rows,)", MOE_ERROR_TILING));
        return MOE_OK;
    }

    int64_t index_bound() const { return args_.drop_and_pad ? token_count_ : row_count_; }
    bool in_range(int64_t index) const { return index >= 0 && index < index_bound(); }

    Status check_indices(const RunContext& context) const {
        const int32_t* const index = sorted_indices_.data<int32_t>();
        for (int64_t i = 0; i < slots_; ++i)
            if (!in_range(index[i]))
                MOE_TRY(context.bad_data("sorted_indices", i, index[i],
                                         args_.drop_and_pad ? "a token" : "a row of permuted_tokens"));
        return MOE_OK;
    }

    static void zero(const Output& output, const Tensor* tensor) {
        if (!output || element_count(*tensor) == 0) return;
        std::memset(output.data<char>(), 0,
                    static_cast<size_t>(contiguous_bytes(tensor->dtype, element_count(*tensor))));
    }

    void zero_indices() const {
        zero(out_index_, args_.out_index);
        zero(permuted_token_id_, args_.permuted_token_id);
    }

    void zero_all() const {
        zero(unpermuted_, args_.unpermuted);
        zero_indices();
        zero(permute_probs_, args_.permute_probs);
    }

    // An element of an array of probabilities, exactly: they are float32 or narrower.
    float prob_at(const RowKernels& kernels, const char* probs, int64_t position) const {
        float prob;
        widen_row(kernels, args_.probs->dtype, probs + prob_bytes(position), &prob, 1);
        return prob;
    }

    void widen(const RowKernels& kernels, int64_t row, int64_t column, float* target, int64_t n) const {
        const Dtype dtype = args_.permuted_tokens->dtype;
        widen_row(kernels, dtype, permuted_tokens_.data<char>() + (row * hidden_ + column) * moe_dtype_size(dtype),
                  target, n);
    }

    char* unpermuted_at(int64_t token, int64_t column) const {
        return unpermuted_.data<char>() + (token * hidden_ + column) * moe_dtype_size(args_.permuted_tokens->dtype);
    }

    // About 64 KiB of rows.
    int64_t slot_grain() const { return 1 + 64 * 1024 / (1 + hidden_ * moe_dtype_size(args_.permuted_tokens->dtype)); }

    Status run_dropless(const Workspace& workspace, const RunContext& context) const {
        const int64_t experts_per_token = slots_ / token_count_;
        const char* slot_probs = nullptr;
        if (probs_) {
            char* const target = permute_probs_ ? permute_probs_.data<char>() : workspace.at<char>(slot_probs_);
            MOE_TRY(select_probs(workspace, context, experts_per_token, target));
            slot_probs = target;
        }
        if (context.zeroes_undefined()) zero_indices();
        const RowKernels& kernels = row_kernels();
        const CombineProblem problem = {
            args_.permuted_tokens->dtype,     token_count_, hidden_, experts_per_token, slots_,
            workspace.at<CombineTerm>(terms_)};
        combine_rows(problem, workspace.threads(), [&](int64_t token, CombineTerm* terms) {
            return describe(kernels, token, experts_per_token, slot_probs, terms);
        });
        return MOE_OK;
    }

    // The routed entries of probs, row by row. Blocks of tokens start where the blocks before them end.
    Status select_probs(const Workspace& workspace, const RunContext& context, int64_t experts_per_token,
                        char* target) const {
        int64_t* const first = workspace.at<int64_t>(first_);
        uint8_t* const ragged = workspace.at<uint8_t>(ragged_);
        const auto map_row = [&](int64_t t) { return map_.data<uint8_t>() + t * expert_count_; };
        const auto for_each_block = [&](auto&& body) {
            parallel_ranges(workspace.threads(), blocks_.count, 1, [&](int, int64_t begin, int64_t end) {
                for (int64_t block = begin; block < end; ++block) body(block);
            });
        };
        for_each_block([&](int64_t block) {
            first[block] = 0;
            ragged[block] = 0;
            for (int64_t t = blocks_.begin(block); t < blocks_.begin(block + 1); ++t) {
                const int64_t routed = count_routed(map_row(t), expert_count_);
                first[block] += routed;
                if (routed != experts_per_token) ragged[block] = 1;
            }
        });
        if (std::any_of(ragged, ragged + blocks_.count, [](uint8_t r) { return r != 0; }))
            MOE_TRY(check_row_counts(context, map_.data<uint8_t>(), token_count_, expert_count_, experts_per_token,
                                     "indices per token"));
        MOE_TRY(context.data_checked());
        int64_t selected = 0;
        for (int64_t block = 0; block < blocks_.count; ++block) {
            const int64_t count = first[block];
            first[block] = selected;
            selected += count;
        }
        const uint64_t size = prob_bytes(1);
        for_each_block([&](int64_t block) {
            int64_t slot = first[block];
            for (int64_t t = blocks_.begin(block); t < blocks_.begin(block + 1); ++t)
                for_each_routed(map_row(t), expert_count_, [&](int64_t e) {
                    if (slot < slots_)
                        std::memcpy(target + prob_bytes(slot), probs_.data<char>() + prob_bytes(t * expert_count_ + e),
                                    size);
                    ++slot;
                });
        });
        if (selected < slots_) std::memset(target + prob_bytes(selected), 0, prob_bytes(slots_ - selected));
        return MOE_OK;
    }

    // A slot with probability 0 contributes nothing. -0 is what changes no number that is added to it; the sum of no
    // rows is +0.
    CombineSum describe(const RowKernels& kernels, int64_t token, int64_t experts_per_token, const char* slot_probs,
                        CombineTerm* terms) const {
        const int32_t* const index = sorted_indices_.data<int32_t>();
        const int64_t row_bytes = hidden_ * moe_dtype_size(args_.permuted_tokens->dtype);
        int64_t count = 0;
        for (int64_t slot = token * experts_per_token; slot < (token + 1) * experts_per_token; ++slot) {
            const float prob = slot_probs == nullptr ? 1.0f : prob_at(kernels, slot_probs, slot);
            if (in_range(index[slot]) && prob != 0.0f)
                terms[count++] = {permuted_tokens_.data<char>() + index[slot] * row_bytes, nullptr, prob};
        }
        return {count == 0 ? 0.0f : -0.0f, {nullptr, nullptr}, terms, count, unpermuted_at(token, 0)};
    }

    // A counting sort by token. Afterwards ends[t] is where token t's part of out_index ends and that of t + 1 begins.
    void run_padded(const Workspace& workspace) const {
        int64_t* const ends = workspace.at<int64_t>(ends_);
        const int32_t* const index = sorted_indices_.data<int32_t>();
        int32_t* const out_index = out_index_.data<int32_t>();
        int32_t* const token_id = permuted_token_id_.data<int32_t>();
        std::fill_n(ends, token_count_, int64_t{0});
        for (int64_t j = 0; j < slots_; ++j)
            if (in_range(index[j])) ++ends[index[j]];
        int64_t used = 0;
        for (int64_t t = 0; t < token_count_; ++t) {
            const int64_t count = ends[t];
            ends[t] = used;
            used += count;
        }
        for (int64_t j = 0; j < slots_; ++j) {
            if (!in_range(index[j])) continue;
            const int64_t place = ends[index[j]]++;
            out_index[place] = static_cast<int32_t>(j);
            token_id[place] = index[j];
        }
        std::fill(out_index + used, out_index + slots_, -1);
        std::fill(token_id + used, token_id + slots_, -1);
        if (permute_probs_) gather_probs();

        // Tokens differ in their number of rows. A token weighs one more than it has, and a thread gets those that
        // begin within its share of the weight.
        const RowKernels& kernels = row_kernels();
        const auto weight_before = [&](int64_t t) { return t == 0 ? 0 : ends[t - 1] + t; };
        parallel_ranges(workspace.threads(), used + token_count_, slot_grain(), [&](int, int64_t begin, int64_t end) {
            int64_t low = 0;
            for (int64_t high = token_count_; low < high;) {
                const int64_t middle = low + (high - low) / 2;
                if (weight_before(middle) < begin)
                    low = middle + 1;
                else
                    high = middle;
            }
            for (int64_t t = low; t < token_count_ && weight_before(t) < end; ++t)
                sum_padded(kernels, t, out_index + (t == 0 ? 0 : ends[t - 1]), out_index + ends[t]);
        });
    }

    int64_t prob_position(int64_t slot, int64_t token) const {
        return token * expert_count_ + slot / (slots_ / expert_count_);
    }

    void gather_probs() const {
        const int32_t* const index = sorted_indices_.data<int32_t>();
        char* const target = permute_probs_.data<char>();
        const uint64_t size = prob_bytes(1);
        for (int64_t j = 0; j < slots_; ++j)
            if (in_range(index[j]))
                std::memcpy(target + prob_bytes(j), probs_.data<char>() + prob_bytes(prob_position(j, index[j])), size);
            else
                std::memset(target + prob_bytes(j), 0, size);
    }

    void sum_padded(const RowKernels& kernels, int64_t token, const int32_t* begin, const int32_t* end) const {
        double sum[tile];
        float row[tile];
        for (int64_t column = 0; column < hidden_; column += tile) {
            const int64_t n = std::min(tile, hidden_ - column);
            // -0 is what changes no number that is added to it; the sum of no rows is +0.
            std::fill_n(sum, n, begin == end ? 0.0 : -0.0);
            for (const int32_t* slot = begin; slot != end; ++slot) {
                widen(kernels, *slot, column, row, n);
                if (probs_) kernels.scale(row, prob_at(kernels, probs_.data<char>(), prob_position(*slot, token)), n);
                kernels.add_to_double(sum, row, n);
            }
            narrow_double_row(kernels, args_.permuted_tokens->dtype, sum, row, unpermuted_at(token, column), n);
        }
    }

    const Args args_;
    int64_t token_count_ = 0;
    int64_t expert_count_ = 0;
    int64_t hidden_ = 0;
    int64_t row_count_ = 0;
    int64_t slots_ = 0;
    TokenBlocks blocks_;
    Input permuted_tokens_, sorted_indices_, map_, probs_;
    Output unpermuted_, out_index_, permuted_token_id_, permute_probs_;
    Piece terms_, ends_, first_, ragged_, slot_probs_;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::Unpermute, moe_token_unpermute_with_routing_map)
