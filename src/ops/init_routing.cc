#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "core/op.h"
#include "kernels/rows/rows.h"
#include "moe_native/init_routing.h"
#include "ops/row_copies.h"
#include "ops/row_quantiser.h"

namespace moe {
namespace {

class InitRouting {
  public:
    static constexpr const char* name = "npu_moe_init_routing_v2";
    using Args = moe_init_routing_v2_args;

    explicit InitRouting(const Args& args) : args_(args) {}

    Status resolve(Outputs outputs) {
        MOE_TRY(check_present(outputs));
        MOE_TRY(check_dtypes(outputs));
        MOE_TRY(check_attributes());
        MOE_TRY(check_shapes());
        if (limits() == MOE_LIMITS_SEED) MOE_TRY(check_seed_limits());
        return outputs == Outputs::checked ? check_output_shapes() : static_cast<Status>(MOE_OK);
    }

    void shapes(Tensor* outputs) const {
        const int64_t padded_x[] = {args_.expert_num, args_.expert_capacity, hidden_};
        const int64_t dropless_x[] = {rows_, hidden_};
        const int64_t pairs[] = {args_.expert_num, 2};
        const Dtype dtype = expanded_dtype();
        outputs[0] =
            padded() ? moe_tensor_make(nullptr, dtype, 3, padded_x) : moe_tensor_make(nullptr, dtype, 2, dropless_x);
        outputs[1] = moe_tensor_make(nullptr, MOE_INT32, 1, &entries_);
        outputs[2] = tokens_are_pairs() ? moe_tensor_make(nullptr, MOE_INT64, 2, pairs)
                                        : moe_tensor_make(nullptr, MOE_INT64, 1, &experts_);
        outputs[3] = moe_tensor_make(nullptr, MOE_FLOAT32, 1, &rows_);
    }

    void book(Ledger& ledger) {
        x_.book(args_.x, "x", ledger);
        ids_.book(args_.expert_idx, "expert_idx", ledger);
        scale_.book(args_.scale, "scale", ledger);
        if (args_.quant_mode == 0) offset_.book(args_.offset, "offset", ledger);
        expanded_x_.book(args_.expanded_x, "expanded_x", ledger);
        row_idx_.book(args_.expanded_row_idx, "expanded_row_idx", ledger);
        tokens_.book(args_.expert_token_cumsum_or_count, "expert_token_cumsum_or_count", ledger);
        expanded_scale_.book(args_.expanded_scale, "expanded_scale", ledger);

        // A block pays when it has more entries than the counters that it adds.
        const int64_t block = std::max<int64_t>(16 * 1024, 4 * buckets_);
        blocks_ = std::clamp<int64_t>(entries_ / block, 1, ledger.threads());
        position_piece_ = ledger.book<int32_t>("positions", (blocks_ + 1) * buckets_);
        landing_count_piece_ = ledger.book<int64_t>("landing counts", blocks_ + 1);
        landing_piece_ = ledger.book<Landing>("landings", entries_);
        if (entries_ > 0 && factors())
            values_piece_ = ledger.book("rows in float32", row_of_each(ledger, sizeof(float)));
        if (entries_ > 0 && quantises()) codes_piece_ = ledger.book("rows in int8", row_of_each(ledger, 2));
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        MOE_TRY(context.data_checked());
        const bool zero = context.zeroes_undefined();
        for (Input* input : {&x_, &ids_, &scale_, &offset_}) MOE_TRY(input->load(workspace));
        for (Output* output : {&expanded_x_, &row_idx_}) MOE_TRY(output->load(workspace));
        // Outputs that stay undefined are not touched: there need not even be memory.
        if (args_.expert_tokens_num_flag || zero) MOE_TRY(tokens_.load(workspace));
        if (writes_scale() || zero) MOE_TRY(expanded_scale_.load(workspace));
        threads_ = workspace.threads();
        positions_ = workspace.at<int32_t>(position_piece_);
        landing_counts_ = workspace.at<int64_t>(landing_count_piece_);
        landings_ = workspace.at<Landing>(landing_piece_);
        values_ = workspace.at<float>(values_piece_);
        codes_ = workspace.at<int8_t>(codes_piece_);

        over_blocks([&](int64_t block) { count_block(block); });
        place_blocks();
        over_blocks([&](int64_t block) { order_block(block); });
        if (scatters()) sort_beyond();
        if (zero && !args_.expert_tokens_num_flag) clear(tokens_.data<char>(), *args_.expert_token_cumsum_or_count);
        if (zero && !writes_scale()) clear(expanded_scale_.data<char>(), *args_.expanded_scale);
        clear_empty_rows(zero);
        expand();

        for (const Output* output : {&expanded_x_, &row_idx_}) output->store();
        if (args_.expert_tokens_num_flag || zero) tokens_.store();
        if (writes_scale() || zero) expanded_scale_.store();
        return MOE_OK;
    }

  private:
    // An entry and the row of expanded_x that receives its token.
    struct Landing {
        int32_t entry;
        int32_t row;
    };

    // A row of every thread.
    uint64_t row_of_each(const Ledger& ledger, uint64_t item_size) const {
        uint64_t bytes;
        const uint64_t row = static_cast<uint64_t>(hidden_) * item_size;
        return __builtin_mul_overflow(row, static_cast<uint64_t>(ledger.threads()), &bytes) ? UINT64_MAX : bytes;
    }

    // --- Checks ---

    bool padded() const { return args_.drop_pad_mode == 1; }
    bool scatters() const { return args_.row_idx_type == 1; }
    bool quantises() const { return args_.quant_mode != -1; }
    bool tokens_are_pairs() const { return !padded() && args_.expert_tokens_num_type == 2; }
    bool writes_scale() const { return args_.quant_mode == 1 || (args_.quant_mode == -1 && args_.scale != nullptr); }
    bool factors() const { return args_.quant_mode == 1 && args_.scale != nullptr; }
    bool factors_per_expert() const { return factors() && args_.scale->shape[0] != 1; }
    Dtype expanded_dtype() const { return quantises() ? MOE_INT8 : args_.x->dtype; }

    Status check_present(Outputs outputs) const {
        MOE_TRY(required(args_.x, "x"));
        MOE_TRY(required(args_.expert_idx, "expert_idx"));
        if (outputs == Outputs::checked) {
            MOE_TRY(required(args_.expanded_x, "expanded_x"));
            MOE_TRY(required(args_.expanded_row_idx, "expanded_row_idx"));
            MOE_TRY(required(args_.expert_token_cumsum_or_count, "expert_token_cumsum_or_count"));
            MOE_TRY(required(args_.expanded_scale, "expanded_scale"));
        }
        MOE_TRY(optional(args_.scale, "scale"));
        if (args_.quant_mode == 0) MOE_TRY(optional(args_.offset, "offset"));
        if (args_.active_expert_range_length != 0 && args_.active_expert_range == nullptr)
            return fail(MOE_ERROR_NULL, Kind::missing, "active_expert_range", "null, needed %lld numbers",
                        static_cast<long long>(args_.active_expert_range_length));
        return MOE_OK;
    }

    Status check_dtypes(Outputs outputs) const {
        MOE_TRY(dtype_in(*args_.x, "x", {MOE_FLOAT16, MOE_BFLOAT16, MOE_FLOAT32, MOE_INT8}));
        MOE_TRY(dtype_in(*args_.expert_idx, "expert_idx", {MOE_INT32}));
        if (args_.scale != nullptr) MOE_TRY(dtype_in(*args_.scale, "scale", {MOE_FLOAT32}));
        if (args_.quant_mode == 0 && args_.offset != nullptr) MOE_TRY(dtype_in(*args_.offset, "offset", {MOE_FLOAT32}));
        if (outputs == Outputs::ignored) return MOE_OK;
        if (args_.quant_mode == -1)
            MOE_TRY(same_dtype(*args_.expanded_x, "expanded_x", args_.x->dtype, "x"));
        else if (args_.quant_mode == 0 || args_.quant_mode == 1)
            MOE_TRY(dtype_in(*args_.expanded_x, "expanded_x", {MOE_INT8}));
        MOE_TRY(dtype_in(*args_.expanded_row_idx, "expanded_row_idx", {MOE_INT32}));
        if (tokens_are_pairs())
            MOE_TRY(dtype_in(*args_.expert_token_cumsum_or_count, "expert_token_cumsum_or_count", {MOE_INT64}));
        else
            MOE_TRY(
                dtype_in(*args_.expert_token_cumsum_or_count, "expert_token_cumsum_or_count", {MOE_INT64, MOE_INT32}));
        return writes_scale() ? dtype_in(*args_.expanded_scale, "expanded_scale", {MOE_FLOAT32})
                              : static_cast<Status>(MOE_OK);
    }

    static Status value_in(int64_t value, const char* argument, int64_t lowest, int64_t highest) {
        if (value >= lowest && value <= highest) return MOE_OK;
        if (lowest == highest)
            return fail(MOE_ERROR_TILING, Kind::value, argument, "%lld, needed %lld", static_cast<long long>(value),
                        static_cast<long long>(lowest));
        return fail(MOE_ERROR_TILING, Kind::value, argument, "%lld, needed %lld to %lld", static_cast<long long>(value),
                    static_cast<long long>(lowest), static_cast<long long>(highest));
    }

    Status check_attributes() {
        if (args_.x->dtype == MOE_INT8 && (args_.quant_mode == 0 || args_.quant_mode == 1))
            return fail(MOE_ERROR_TILING, Kind::value, "x",
                        "int8 with quant_mode %lld, needed float16, bfloat16 or float32",
                        static_cast<long long>(args_.quant_mode));
        if (args_.drop_pad_mode == 0 && args_.active_num < -1)
            return fail(MOE_ERROR_TILING, Kind::value, "active_num", "%lld, needed >= -1",
                        static_cast<long long>(args_.active_num));
        MOE_TRY(value_in(args_.expert_num, "expert_num", 1, args_.expert_tokens_num_type == 2 ? 5120 : 10240));
        MOE_TRY(check_range());
        MOE_TRY(value_in(args_.drop_pad_mode, "drop_pad_mode", 0, 1));
        MOE_TRY(value_in(args_.expert_tokens_num_type, "expert_tokens_num_type", 0, 2));
        MOE_TRY(value_in(args_.row_idx_type, "row_idx_type", 0, 1));
        if (args_.quant_mode >= 2 && args_.quant_mode <= 17)
            return fail(MOE_ERROR_TILING, Kind::value, "quant_mode", "%lld is not supported yet, needed -1, 0 or 1",
                        static_cast<long long>(args_.quant_mode));
        MOE_TRY(value_in(args_.quant_mode, "quant_mode", -1, 1));
        if (!padded()) return MOE_OK;
        if (args_.expert_capacity < 1)
            return fail(MOE_ERROR_TILING, Kind::value, "expert_capacity", "%lld, needed >= 1 with drop_pad_mode 1",
                        static_cast<long long>(args_.expert_capacity));
        if (scatters()) return fail(MOE_ERROR_TILING, Kind::value, "row_idx_type", "1, needed 0 with drop_pad_mode 1");
        if (experts_ != args_.expert_num)
            return fail(MOE_ERROR_TILING, Kind::value, "active_expert_range",
                        "[%lld, %lld), needed all %lld experts with drop_pad_mode 1", static_cast<long long>(start_),
                        static_cast<long long>(start_ + experts_), static_cast<long long>(args_.expert_num));
        if (args_.expert_tokens_num_flag && args_.expert_tokens_num_type != 1)
            return fail(MOE_ERROR_TILING, Kind::value, "expert_tokens_num_type",
                        "%lld, needed 1 with drop_pad_mode 1 and expert_tokens_num_flag",
                        static_cast<long long>(args_.expert_tokens_num_type));
        return MOE_OK;
    }

    Status check_range() {
        experts_ = args_.expert_num;
        if (args_.active_expert_range_length == 0) return MOE_OK;
        if (args_.active_expert_range_length != 2)
            return fail(MOE_ERROR_TILING, Kind::value, "active_expert_range", "%lld numbers, needed 2 or none",
                        static_cast<long long>(args_.active_expert_range_length));
        start_ = args_.active_expert_range[0];
        const int64_t end = args_.active_expert_range[1];
        if (start_ < 0 || start_ >= end || end > args_.expert_num)
            return fail(MOE_ERROR_TILING, Kind::value, "active_expert_range",
                        "[%lld, %lld), needed 0 <= start < end <= expert_num = %lld", static_cast<long long>(start_),
                        static_cast<long long>(end), static_cast<long long>(args_.expert_num));
        experts_ = end - start_;
        return MOE_OK;
    }

    Status check_shapes() {
        MOE_TRY(rank_is(*args_.x, "x", 2, MOE_ERROR_TILING));
        MOE_TRY(rank_is(*args_.expert_idx, "expert_idx", 2, MOE_ERROR_TILING));
        const int64_t token_count = args_.x->shape[0];
        hidden_ = args_.x->shape[1];
        top_k_ = args_.expert_idx->shape[1];
        MOE_TRY(shape_is(*args_.expert_idx, "expert_idx", {token_count, -1}, "(tokens, experts per token)",
                         MOE_ERROR_TILING));
        entries_ = token_count * top_k_;
        if (entries_ > INT32_MAX)
            return fail(MOE_ERROR_TILING, Kind::shape, "expert_idx", "%lld entries, needed at most %d",
                        static_cast<long long>(entries_), INT32_MAX);
        MOE_TRY(check_rows(token_count));
        // A bucket per routed expert. When all entries have to be ordered: also one per other expert below
        // expert_num, and one for the ids from there on. The last one takes what is left.
        buckets_ = scatters() ? args_.expert_num - start_ + 2 : experts_ + 1;
        return entries_ == 0 ? static_cast<Status>(MOE_OK) : check_quantisation(token_count);
    }

    Status check_rows(int64_t token_count) {
        rows_ = args_.active_num > 0 ? std::min(args_.active_num, entries_) : entries_;
        if (padded()) {
            if (args_.expert_capacity > token_count)
                return fail(MOE_ERROR_TILING, Kind::value, "expert_capacity",
                            "%lld, needed at most the number of tokens = %lld",
                            static_cast<long long>(args_.expert_capacity), static_cast<long long>(token_count));
            if (args_.expert_capacity > INT32_MAX / args_.expert_num)
                return fail(MOE_ERROR_TILING, Kind::value, "expert_capacity",
                            "%lld slots for each of %lld experts, needed at most %d in all",
                            static_cast<long long>(args_.expert_capacity), static_cast<long long>(args_.expert_num),
                            INT32_MAX);
            rows_ = args_.expert_num * args_.expert_capacity;
        }
        row_bytes_ = hidden_ * moe_dtype_size(expanded_dtype());
        int64_t bytes;
        if (__builtin_mul_overflow(rows_, row_bytes_, &bytes))
            return fail(MOE_ERROR_TILING, Kind::shape, "x", "%lld expanded rows of %lld columns are too large",
                        static_cast<long long>(rows_), static_cast<long long>(hidden_));
        return MOE_OK;
    }

    // Without entries nothing is scaled: callers then pass empty or no scales.
    Status check_quantisation(int64_t token_count) const {
        if (args_.quant_mode == 0) {
            const auto single = [](const Tensor* tensor, const char* argument) {
                return tensor == nullptr
                           ? fail(MOE_ERROR_TILING, Kind::value, argument, "missing, needed with quant_mode 0")
                           : shape_is(*tensor, argument, {1}, "(1,)", MOE_ERROR_TILING);
            };
            MOE_TRY(single(args_.scale, "scale"));
            return single(args_.offset, "offset");
        }
        if (args_.scale == nullptr) return MOE_OK;
        if (args_.quant_mode == -1)
            return shape_is(*args_.scale, "scale", {token_count}, "(tokens,)", MOE_ERROR_TILING);
        if (args_.scale->rank == 2 && args_.scale->shape[0] == 1 && args_.scale->shape[1] == hidden_) return MOE_OK;
        return shape_is(*args_.scale, "scale", {experts_, hidden_}, "(1, hidden) or (experts in the range, hidden)",
                        MOE_ERROR_TILING);
    }

    // The first document knew dropless rows, counts as numbers or pairs, and no static quantisation.
    Status check_seed_limits() const {
        MOE_TRY(value_in(args_.drop_pad_mode, "drop_pad_mode", 0, 0));
        MOE_TRY(value_in(args_.expert_tokens_num_type, "expert_tokens_num_type", 1, 2));
        if (!args_.expert_tokens_num_flag)
            return fail(MOE_ERROR_TILING, Kind::value, "expert_tokens_num_flag", "false, needed true");
        if (args_.quant_mode == 0) return fail(MOE_ERROR_TILING, Kind::value, "quant_mode", "0, needed -1 or 1");
        if (factors()) MOE_TRY(shape_is(*args_.scale, "scale", {experts_, -1}, "(experts, hidden)", MOE_ERROR_TILING));
        return value_in(args_.active_num, "active_num", entries_, entries_);
    }

    Status check_output_shapes() const {
        if (padded())
            MOE_TRY(shape_is(*args_.expanded_x, "expanded_x", {args_.expert_num, args_.expert_capacity, hidden_},
                             "(experts, capacity, hidden)", MOE_ERROR_TILING));
        else
            MOE_TRY(shape_is(*args_.expanded_x, "expanded_x", {rows_, hidden_}, "(rows, hidden)", MOE_ERROR_TILING));
        MOE_TRY(shape_is(*args_.expanded_row_idx, "expanded_row_idx", {entries_}, "(entries,)", MOE_ERROR_TILING));
        const Tensor& tokens = *args_.expert_token_cumsum_or_count;
        if (args_.expert_tokens_num_flag && tokens_are_pairs())
            MOE_TRY(shape_is(tokens, "expert_token_cumsum_or_count", {args_.expert_num, 2}, "(experts, 2)",
                             MOE_ERROR_TILING));
        else if (args_.expert_tokens_num_flag)
            MOE_TRY(shape_is(tokens, "expert_token_cumsum_or_count", {experts_}, "(experts in the range,)",
                             MOE_ERROR_TILING));
        return writes_scale() ? shape_is(*args_.expanded_scale, "expanded_scale", {rows_}, "(rows,)", MOE_ERROR_TILING)
                              : static_cast<Status>(MOE_OK);
    }

    // --- Routing: a counting sort in three passes. Its result does not depend on the number of blocks. ---

    template <class Body>
    void over_blocks(Body&& body) const {
        parallel_ranges(threads_, blocks_, 1, [&](int, int64_t begin, int64_t end) {
            for (int64_t block = begin; block < end; ++block) body(block);
        });
    }

    int64_t block_begin(int64_t block) const {
        return entries_ / blocks_ * block + std::min(block, entries_ % blocks_);
    }

    int64_t bucket_of(int32_t id) const {
        // Ids below the range wrap to numbers beyond every bucket.
        const uint32_t bucket = static_cast<uint32_t>(id) - static_cast<uint32_t>(start_);
        if (!scatters()) return std::min<int64_t>(bucket, experts_);
        if (static_cast<int64_t>(bucket) < args_.expert_num - start_) return bucket;
        return id >= args_.expert_num && id != INT32_MAX ? buckets_ - 2 : buckets_ - 1;
    }

    void count_block(int64_t block) const {
        int32_t* counts = positions_ + block * buckets_;
        std::fill_n(counts, buckets_, 0);
        const int32_t* ids = ids_.data<int32_t>();
        for (int64_t entry = block_begin(block); entry < block_begin(block + 1); ++entry)
            ++counts[bucket_of(ids[entry])];
    }

    // Turns the counts of every block into the place of its next entry: among all entries, or with padding among
    // those of the expert. Behind the last block stands where the buckets end.
    void place_blocks() {
        int32_t* ends = positions_ + blocks_ * buckets_;
        std::fill_n(ends, buckets_, 0);
        for (int64_t block = 0; block < blocks_; ++block) {
            const int32_t* counts = positions_ + block * buckets_;
            for (int64_t i = 0, n = buckets_; i < n; ++i) ends[i] += counts[i];
        }
        const int32_t routed = begins_of_counts(ends, experts_, 0);
        begins_of_counts(ends + experts_, buckets_ - experts_, routed);
        routed_ = routed;
        if (padded()) std::fill_n(ends, buckets_, 0);
        for (int64_t block = 0; block < blocks_; ++block) {
            int32_t* positions = positions_ + block * buckets_;
            for (int64_t i = 0, n = buckets_; i < n; ++i) {
                const int32_t count = positions[i];
                positions[i] = ends[i];
                ends[i] += count;
            }
        }
        if (scatters()) {
            beyond_begin_ = positions_[buckets_ - 2];
            beyond_end_ = ends[buckets_ - 2];
        }
        const auto limit = static_cast<int32_t>(padded() ? args_.expert_capacity : rows_);
        landing_counts_[0] = 0;
        for (int64_t block = 0; block < blocks_; ++block)
            landing_counts_[block + 1] =
                landing_counts_[block] +
                places_below(limit, positions_ + block * buckets_, positions_ + (block + 1) * buckets_, experts_);
        if (args_.expert_tokens_num_flag) record_tokens(positions_, ends);
    }

    // Counts become the places where their entries begin, from `place` on. Returns the place behind them all.
    static int32_t begins_of_counts(int32_t* counts, int64_t n, int32_t place) {
        for (int64_t i = 0; i < n; ++i) {
            const int32_t count = counts[i];
            counts[i] = place;
            place += count;
        }
        return place;
    }

    static int64_t places_below(int32_t limit, const int32_t* begins, const int32_t* ends, int64_t count) {
        int64_t places = 0;
        for (int64_t i = 0; i < count; ++i) places += std::min(ends[i], limit) - std::min(begins[i], limit);
        return places;
    }

    void record_tokens(const int32_t* begins, const int32_t* ends) const {
        if (tokens_are_pairs())
            record_pairs(begins, ends);
        else if (args_.expert_token_cumsum_or_count->dtype == MOE_INT32)
            record_numbers(tokens_.data<int32_t>(), begins, ends);
        else
            record_numbers(tokens_.data<int64_t>(), begins, ends);
    }

    template <class T>
    void record_numbers(T* numbers, const int32_t* begins, const int32_t* ends) const {
        const int64_t experts = experts_;
        if (args_.expert_tokens_num_type == 0)
            for (int64_t q = 0; q < experts; ++q) numbers[q] = ends[q];
        else
            for (int64_t q = 0; q < experts; ++q) numbers[q] = ends[q] - begins[q];
    }

    void record_pairs(const int32_t* begins, const int32_t* ends) const {
        int64_t* pair = tokens_.data<int64_t>();
        int64_t* const end = pair + 2 * args_.expert_num;
        for (int64_t q = 0; q < experts_; ++q) {
            if (ends[q] == begins[q]) continue;
            *pair++ = start_ + q;
            *pair++ = ends[q] - begins[q];
        }
        std::fill(pair, end, 0);
    }

    void order_block(int64_t block) const {
        int32_t* positions = positions_ + block * buckets_;
        Landing* landing = landings_ + landing_counts_[block];
        const int32_t* ids = ids_.data<int32_t>();
        int32_t* row_idx = row_idx_.data<int32_t>();
        for (int64_t entry = block_begin(block); entry < block_begin(block + 1); ++entry) {
            const int64_t bucket = bucket_of(ids[entry]);
            const int64_t place = positions[bucket]++;
            int64_t row = -1;
            bool lands = false;
            if (bucket < experts_) {
                lands = place < (padded() ? args_.expert_capacity : rows_);
                if (!padded())
                    row = place;
                else if (lands)
                    row = bucket * args_.expert_capacity + place;
            }
            if (lands) *landing++ = {static_cast<int32_t>(entry), static_cast<int32_t>(row)};
            if (scatters())
                row_idx[place] = static_cast<int32_t>(entry);
            else
                row_idx[entry] = static_cast<int32_t>(row);
        }
    }

    // The one bucket that holds several ids: those from expert_num on, which no valid routing has.
    void sort_beyond() const {
        const int32_t* ids = ids_.data<int32_t>();
        int32_t* begin = row_idx_.data<int32_t>() + beyond_begin_;
        int32_t* end = row_idx_.data<int32_t>() + beyond_end_;
        const auto before = [ids](int32_t a, int32_t b) { return ids[a] != ids[b] ? ids[a] < ids[b] : a < b; };
        // A single id, such as a padding id of expert_num, is in order already.
        if (!std::is_sorted(begin, end, before)) std::sort(begin, end, before);
    }

    // --- Rows ---

    static void clear(char* data, const Tensor& tensor) {
        const int64_t bytes = contiguous_bytes(tensor.dtype, element_count(tensor));
        if (bytes > 0) std::memset(data, 0, static_cast<size_t>(bytes));
    }

    void clear_rows(int64_t begin, int64_t end) const {
        if (begin >= end) return;
        if (row_bytes_ > 0)
            std::memset(expanded_x_.data<char>() + begin * row_bytes_, 0,
                        static_cast<size_t>((end - begin) * row_bytes_));
        if (writes_scale()) std::fill(expanded_scale_.data<float>() + begin, expanded_scale_.data<float>() + end, 0.0f);
    }

    void clear_empty_rows(bool zero) const {
        const int64_t grain = 1 + 256 * 1024 / (row_bytes_ + 4);
        if (padded()) {
            const int32_t* sizes = positions_ + blocks_ * buckets_;
            const int64_t capacity = args_.expert_capacity;
            parallel_ranges(threads_, experts_, 1 + grain / capacity, [&](int, int64_t begin, int64_t end) {
                for (int64_t q = begin; q < end; ++q)
                    clear_rows(q * capacity + std::min<int64_t>(sizes[q], capacity), (q + 1) * capacity);
            });
        } else if (zero && routed_ < rows_) {
            parallel_ranges(threads_, rows_ - routed_, grain,
                            [&](int, int64_t begin, int64_t end) { clear_rows(routed_ + begin, routed_ + end); });
        }
    }

    // Landings stand in the order of the entries: a token's row is read from memory once, and quantised once
    // unless every expert has factors of its own.
    void expand() const {
        // A thread pays from about 128 KiB of copied rows or 16 Ki quantised elements on.
        int64_t grain = 1 + (quantises() ? 16 * 1024 / (hidden_ + 1) : 128 * 1024 / (row_bytes_ + 1));
        if (quantises() && !factors_per_expert()) grain *= top_k_;
        const RowCopies copies(expanded_x_.data<char>(), rows_, row_bytes_);
        parallel_ranges(threads_, landing_counts_[blocks_], grain, [&](int thread, int64_t begin, int64_t end) {
            if (quantises())
                expand_quantised(copies, thread, begin, end);
            else
                expand_copied(copies, begin, end);
        });
    }

    int64_t token_of(int64_t landing) const { return landings_[landing].entry / top_k_; }
    int64_t x_bytes() const { return hidden_ * moe_dtype_size(args_.x->dtype); }
    const char* x_row(int64_t token) const { return x_.data<char>() + token * x_bytes(); }

    // Collects the rows of the landings from `first` on that are copies of the same. Returns where they end.
    int64_t collect(RowCopies::Targets& targets, int64_t first, int64_t end, const char* source, float scale) const {
        const int64_t entry = landings_[first].entry;
        const int64_t next_entry = factors_per_expert() ? entry + 1 : (entry / top_k_ + 1) * top_k_;
        int64_t i = first;
        for (; i < end && landings_[i].entry < next_entry; ++i) {
            targets.add(landings_[i].row, source);
            if (writes_scale()) expanded_scale_.data<float>()[landings_[i].row] = scale;
        }
        return i;
    }

    void expand_copied(const RowCopies& copies, int64_t begin, int64_t end) const {
        RowCopies::Targets targets(copies);
        for (int64_t i = begin; i < end;) {
            const int64_t token = token_of(i);
            i = collect(targets, i, end, x_row(token), writes_scale() ? scale_.data<float>()[token] : 0.0f);
            targets.copy(x_row(token), i < end ? ReadAhead{x_row(token_of(i)), x_bytes()} : ReadAhead{nullptr, 0});
        }
    }

    // A row is quantised while the copies of the one before it are on their way, and read ahead before that.
    void expand_quantised(const RowCopies& copies, int thread, int64_t begin, int64_t end) const {
        RowQuantiser::Static fixed = {};
        if (args_.quant_mode == 0) fixed = {scale_.data<float>()[0], offset_.data<float>()[0]};
        RowQuantiser quantiser(row_kernels(), args_.x->dtype, args_.quant_mode == 0 ? &fixed : nullptr, hidden_,
                               values_ == nullptr ? nullptr : values_ + thread * hidden_);
        int8_t* codes = codes_ + thread * 2 * hidden_;
        int8_t* next_codes = codes + hidden_;
        RowCopies::Targets targets(copies);
        const auto begin_row = [&](int64_t landing) {
            const int64_t expert = factors_per_expert() ? ids_.data<int32_t>()[landings_[landing].entry] - start_ : 0;
            const float* row_factors = factors() ? scale_.data<float>() + expert * hidden_ : nullptr;
            quantiser.begin({x_row(token_of(landing)), row_factors}, next_codes, nullptr);
        };
        begin_row(begin);
        quantiser.complete();
        for (int64_t i = begin; i < end;) {
            std::swap(codes, next_codes);
            const char* source = reinterpret_cast<const char*>(codes);
            i = collect(targets, i, end, source, quantiser.scale());
            if (i < end) begin_row(i);
            // The row after the next one is that of the next token, or near it.
            const int64_t ahead = i < end ? std::min(token_of(i) + 1, args_.x->shape[0] - 1) : 0;
            targets.copy(source, {x_row(ahead), x_bytes()}, [&](int64_t part, int64_t parts) {
                if (i < end) quantiser.advance(part, parts);
            });
        }
    }

    const Args args_;
    int64_t start_ = 0;
    int64_t experts_ = 0;  // of the range
    int64_t hidden_ = 0;
    int64_t top_k_ = 0;
    int64_t entries_ = 0;
    int64_t rows_ = 0;  // of expanded_x, slots with padding
    int64_t row_bytes_ = 0;
    int64_t buckets_ = 0;
    int64_t blocks_ = 1;
    int threads_ = 1;
    int64_t routed_ = 0;
    int64_t beyond_begin_ = 0;
    int64_t beyond_end_ = 0;
    Piece position_piece_, landing_count_piece_, landing_piece_, values_piece_, codes_piece_;
    int32_t* positions_ = nullptr;       // (blocks + 1, buckets)
    int64_t* landing_counts_ = nullptr;  // (blocks + 1), running sum
    Landing* landings_ = nullptr;
    float* values_ = nullptr;  // (threads, hidden)
    int8_t* codes_ = nullptr;  // (threads, 2, hidden)
    Input x_, ids_, scale_, offset_;
    Output expanded_x_, row_idx_, tokens_, expanded_scale_;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::InitRouting, moe_init_routing_v2)
