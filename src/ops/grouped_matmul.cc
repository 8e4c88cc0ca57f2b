#include "ops/grouped_matmul.h"

#include <cstring>

namespace moe {
namespace {

constexpr int64_t stage_rows = 16;
constexpr int64_t stage_bytes = stage_rows * igemm::columns;

// A packed panel stays in the first-level cache while the tiles of x pass it.
constexpr int64_t largest_panel = 16 * 1024;
// Of weights that are streamed nothing needs to stay, but rows of plain ones: panels share their lines, or rows of x.
constexpr int64_t largest_stream = 64 * 1024;
constexpr int64_t streamed_plain_k = 64;
// So many rows of x stream plain weights of int8, which are interleaved anew for each.
constexpr int64_t most_streamed_rows = 3;
// Tiles that take panels of tiled weights in turn: for the second one they come from the second-level cache. More tiles
// had better find a panel in the first-level cache.
constexpr int64_t most_tiles_in_turn = 2;
// Rows of a batch, packed, and what the caller keeps of them, for each thread. More would save nothing: a batch that
// reads a weight again has many rows for it.
constexpr int64_t batch_bytes = 2 * 1024 * 1024;
// Products that make a thread worth its start.
constexpr int64_t products_per_thread = 1 << 20;
constexpr int64_t cache_line = 64;

// Saturates where the product does not fit: the ledger refuses that much.
uint64_t bytes_of(int64_t count, int64_t size) {
    uint64_t bytes;
    return __builtin_mul_overflow(static_cast<uint64_t>(count), static_cast<uint64_t>(size), &bytes) ? UINT64_MAX
                                                                                                     : bytes;
}

int8_t low_int4(int8_t byte) {
    return static_cast<int8_t>(((byte & 15) ^ 8) - 8);
}

int8_t high_int4(int8_t byte) {
    return static_cast<int8_t>(byte >> 4);
}

}  // namespace

// --- ExpertRows ------------------------------------------------------------------------------------------------------

void ExpertRows::book(const Tensor* list, const char* name, int64_t type, int64_t rows, Ledger& ledger) {
    dtype_ = list->dtype;
    type_ = type;
    experts_ = list->shape[0];
    rows_ = rows;
    name_ = name;
    list_.book(list, name, ledger);
    ends_piece_ = ledger.book<int64_t>("row ranges of the experts", experts_);
}

Status ExpertRows::load(const Workspace& workspace, const RunContext& context) {
    MOE_TRY(list_.load(workspace));
    ends_ = workspace.at<int64_t>(ends_piece_);
    int64_t row = 0;
    for (int64_t expert = 0; expert < experts_; ++expert) {
        const int64_t value = entry(expert);
        const int64_t lowest = type_ == counts ? 0 : row;
        const int64_t highest = type_ == counts ? rows_ - row : rows_;
        // The whole list is looked at for the message: not for every entry that is skipped.
        if (value < lowest || value > highest)
            MOE_TRY(context.bad_data(name_, expert, value, context.skips_bad_data() ? "" : needed()));
        row = (type_ == counts ? row : 0) + std::clamp(value, lowest, highest);
        ends_[expert] = row;
    }
    return MOE_OK;
}

int64_t ExpertRows::entry(int64_t expert) const {
    return dtype_ == MOE_INT32 ? list_.data<int32_t>()[expert] : list_.data<int64_t>()[expert];
}

// Says when the list would pass as one of the other type: mixing them up is the commonest mistake.
const char* ExpertRows::needed() const {
    bool decreases = false;
    int64_t left = rows_;  // of rows, taken as counts; -1 once they are not
    for (int64_t expert = 0; expert < experts_; ++expert) {
        const int64_t value = entry(expert);
        if (value < (expert == 0 ? 0 : entry(expert - 1)) || value > rows_) decreases = true;
        left = value < 0 || value > left ? -1 : left - value;
    }
    if (type_ == counts)
        return decreases ? "a count of rows (group_list_type 1), all of them at most the rows of x"
                         : "a count of rows, all of them at most the rows of x; the list looks like cumulative ends, "
                           "which is group_list_type 0";
    return left < 0 ? "a cumulative row end (group_list_type 0), not below the one before and at most the rows of x"
                    : "a cumulative row end, not below the one before and at most the rows of x; the list looks like "
                      "counts, which is group_list_type 1";
}

// --- ExpertWeights ---------------------------------------------------------------------------------------------------

Status ExpertWeights::resolve(const Tensor& tensor, const char* name, int64_t k, int64_t n) {
    tensor_ = &tensor;
    name_ = name;
    MOE_TRY(dtype_in(tensor, name, {MOE_INT8, MOE_INT32, MOE_INT4}));
    int4_ = tensor.dtype != MOE_INT8;
    if (is_packed(tensor)) return resolve_packed(tensor, k, n);
    word_columns_ = tensor.dtype == MOE_INT8 ? 1 : tensor.dtype == MOE_INT32 ? 8 : 2;
    if (tensor.rank != 3 && tensor.rank != 5)
        return fail(MOE_ERROR_INVALID, Kind::shape, name,
                    "shape %s, needed (experts, k, n) or tiles (experts, n1, k1, 16, c0)",
                    describe_shape(tensor.rank, tensor.shape).text);
    tiled_ = tensor.rank == 5 || tensor.format == MOE_FORMAT_NZ;
    return tiled_ ? resolve_tiles(tensor, k, n) : resolve_plain(tensor, k, n);
}

Status ExpertWeights::resolve_tiles(const Tensor& tensor, int64_t k, int64_t n) {
    const bool stored = tensor.format == MOE_FORMAT_NZ;
    const int32_t rank = stored ? tensor.storage_rank : tensor.rank;
    const int64_t* shape = stored ? tensor.storage_shape : tensor.shape;
    const int64_t packing = tensor.dtype == MOE_INT32 ? 8 : 1;
    const int64_t c0 = rank == 5 ? shape[4] * packing : 0;
    // Words of eight int4 come in tiles of more than one width: the library's default is 16 words, a device's 8.
    const bool known_c0 = tensor.dtype == MOE_INT32 ? c0 > 0 : c0 == (int4_ ? 64 : 32);
    if (!known_c0 || shape[3] != 16)
        return fail(MOE_ERROR_INVALID, Kind::shape, name_, "tiles %s, needed (experts, n1, k1, 16, %s)",
                    describe_shape(rank, shape).text,
                    tensor.dtype == MOE_INT8    ? "32"
                    : tensor.dtype == MOE_INT32 ? "c0"
                                                : "64");
    experts_ = shape[0];
    const int64_t k1 = ceil_divide(k, 16);
    rows_ = 16 * k1;
    const int64_t n1 = ceil_divide(n, c0);
    if (shape[1] != n1 || shape[2] != k1)
        return fail(MOE_ERROR_INVALID, Kind::shape, name_,
                    "tiles %s, needed (experts, n1, k1, 16, c0) with k1 = %lld for k = %lld and n1 = %lld for n = %lld",
                    describe_shape(rank, shape).text, static_cast<long long>(k1), static_cast<long long>(k),
                    static_cast<long long>(n1), static_cast<long long>(n));
    if (stored)
        MOE_TRY(shape_is(tensor, name_, {experts_, k, ceil_divide(n, packing)},
                         packing == 1 ? "(experts, k, n)" : "(experts, k, ceil(n / 8))", MOE_ERROR_INVALID));
    // NZ storage and packed int4 lie without gaps.
    const bool strided = !stored && tensor.dtype != MOE_INT4;
    int64_t stride[5];
    int64_t items = 1;
    for (int d = 4; d >= 0; items *= shape[d--])
        stride[d] = strided ? tensor.stride[d] : contiguous_bytes(tensor.dtype, items);
    tile_columns_ = c0;
    expert_stride_ = stride[0];
    tile_stride_ = stride[1];
    block_stride_ = stride[2];
    row_stride_ = stride[3];
    word_stride_ = stride[4];
    use_bytes();
    return MOE_OK;
}

Status ExpertWeights::resolve_plain(const Tensor& tensor, int64_t k, int64_t n) {
    const int64_t packing = tensor.dtype == MOE_INT32 ? 8 : 1;
    MOE_TRY(shape_is(tensor, name_, {-1, k, ceil_divide(n, packing)},
                     packing == 1 ? "(experts, k, n)" : "(experts, k, ceil(n / 8))", MOE_ERROR_INVALID));
    experts_ = tensor.shape[0];
    if (tensor.dtype == MOE_INT4 && n % 2 != 0)
        return fail(MOE_ERROR_INVALID, Kind::shape, name_, "%lld columns of int4, needed an even number",
                    static_cast<long long>(n));
    tile_columns_ = n;
    row_stride_ = tensor.dtype == MOE_INT4 ? n / 2 : tensor.stride[1];
    // Any stride is possible here: whether the addresses exist is not known before the run.
    block_stride_ = static_cast<int64_t>(16 * static_cast<uint64_t>(row_stride_));
    expert_stride_ = tensor.dtype == MOE_INT4 ? k * row_stride_ : tensor.stride[0];
    word_stride_ = tensor.dtype == MOE_INT4 ? 1 : tensor.stride[2];
    use_bytes();
    return MOE_OK;
}

Status ExpertWeights::resolve_packed(const Tensor& tensor, int64_t k, int64_t n) {
    MOE_TRY(shape_is(tensor, name_, {-1, k, n}, "(experts, k, n)", MOE_ERROR_INVALID));
    tiled_ = true;
    tile_columns_ = panel_width;
    experts_ = tensor.shape[0];
    storage_ = packed_storage(tensor);
    packed_ = storage_.layout != PanelLayout::rows;
    if (packed_) return MOE_OK;
    rows_ = k;
    tile_stride_ = storage_.panel_bytes;
    expert_stride_ = storage_.panels * tile_stride_;
    row_stride_ = panel_width;
    block_stride_ = 16 * row_stride_;
    word_stride_ = 1;
    return MOE_OK;
}

// int32 words side by side are bytes side by side, the lower nibbles first on every processor this is built for.
void ExpertWeights::use_bytes() {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
    if (word_columns_ != 8 || word_stride_ != sizeof(int32_t)) return;
    word_columns_ = 2;
    word_stride_ = 1;
}

Status ExpertWeights::load() {
    MOE_TRY(has_data(tensor_, name_));
    data_ = static_cast<const int8_t*>(tensor_->data);
    return MOE_OK;
}

const int8_t* ExpertWeights::address(int64_t expert, int64_t row, int64_t column) const {
    return data_ + expert * expert_stride_ + column / tile_columns_ * tile_stride_ + row / 16 * block_stride_ +
           row % 16 * row_stride_ + column % tile_columns_ / word_columns_ * word_stride_;
}

bool ExpertWeights::direct(const PanelColumns& columns) const {
    const int64_t in_tile = columns.first % tile_columns_;
    return word_stride_ == 1 && block_stride_ == 16 * row_stride_ && in_tile % word_columns_ == 0 &&
           in_tile + igemm::columns <= tile_columns_;
}

const int8_t* ExpertWeights::panel(const IgemmKernels& kernels, int64_t expert, int64_t row,
                                   const PanelColumns& columns) const {
    if (!packed_for(kernels) || columns.first % panel_width != 0 || row % kernels.k_step != 0) return nullptr;
    return packed_panel(expert, columns.first) + igemm::panel_bytes(kernels, row);
}

Ahead ExpertWeights::ahead(const IgemmKernels& kernels, int64_t expert, int64_t begin, int64_t end,
                           const PanelColumns& columns) const {
    if (packed_) {
        const int8_t* const ready = panel(kernels, expert, begin / kernels.k_step * kernels.k_step, columns);
        if (ready == nullptr) return {};
        return {reinterpret_cast<const char*>(ready), cache_line,
                ceil_divide(igemm::panel_bytes(kernels, end - begin), cache_line), 1};
    }
    if (word_stride_ != 1 || block_stride_ != 16 * row_stride_) return {};
    const char* const first = reinterpret_cast<const char*>(address(expert, begin, columns.first));
    const int64_t bytes = ceil_divide(columns.width, word_columns_);
    // Rows without a gap are one piece.
    if (bytes == row_stride_) return {first, cache_line, ceil_divide((end - begin) * bytes, cache_line), 1};
    const bool aligned = reinterpret_cast<uintptr_t>(first) % cache_line == 0 && row_stride_ % cache_line == 0;
    return {first, row_stride_, end - begin, ceil_divide(bytes, cache_line) + (aligned ? 0 : 1)};
}

void ExpertWeights::pack(const IgemmKernels& kernels, int64_t expert, int64_t row, int64_t k,
                         const PanelColumns& columns, void* panel, int8_t* stage) const {
    if (direct(columns)) {
        const auto pack_panel = nibbles() ? kernels.pack_panel_int4 : kernels.pack_panel;
        pack_panel(address(expert, row, columns.first), row_stride_, k, panel);
        return;
    }
    for (int64_t r = 0; r < k; r += stage_rows) {
        const int64_t rows = std::min(stage_rows, k - r);
        read(expert, row + r, rows, columns, stage);
        kernels.pack_panel(stage, igemm::columns, rows, static_cast<char*>(panel) + igemm::panel_bytes(kernels, r));
    }
}

int8_t ExpertWeights::item(const int8_t* word, int64_t column) const {
    if (!nibbles()) return *word;
    const int64_t nibble = column % tile_columns_ % word_columns_;
    return nibble % 2 == 0 ? low_int4(word[nibble / 2]) : high_int4(word[nibble / 2]);
}

void ExpertWeights::read(int64_t expert, int64_t row, int64_t rows, const PanelColumns& columns, int8_t* target) const {
    if (columns.width < igemm::columns) std::memset(target, 0, static_cast<size_t>(rows * igemm::columns));
    if (packed_) return read_packed(expert, row, rows, columns, target);
    int64_t done = 0;
    while (done < columns.width) {
        // Up to the end of a tile.
        const int64_t first = columns.first + done;
        const int64_t count = std::min(columns.width - done, tile_columns_ - first % tile_columns_);
        for (int64_t r = 0; r < rows; ++r) {
            const int8_t* source = address(expert, row + r, first);
            int8_t* values = target + r * igemm::columns + done;
            int64_t j = 0;
            if (word_stride_ == 1 && !nibbles()) {
                std::memcpy(values, source, static_cast<size_t>(count));
                j = count;
            } else if (word_stride_ == 1 && first % 2 == 0) {
                for (; j + 2 <= count; j += 2) {
                    values[j] = low_int4(source[j / 2]);
                    values[j + 1] = high_int4(source[j / 2]);
                }
            }
            for (; j < count; ++j) values[j] = item(address(expert, row + r, first + j), first + j);
        }
        done += count;
    }
}

const int8_t* ExpertWeights::packed_panel(int64_t expert, int64_t column) const {
    return data_ + (expert * storage_.panels + column / panel_width) * storage_.panel_bytes;
}

void ExpertWeights::read_packed(int64_t expert, int64_t row, int64_t rows, const PanelColumns& columns,
                                int8_t* target) const {
    const PanelOrder order = panel_order(storage_.layout);
    // The lowest byte of an element: the weight itself, or with its sign bit flipped.
    const int flip = order.flipped ? -128 : 0;
    const int8_t* column[igemm::columns];
    for (int64_t j = 0; j < columns.width; ++j) {
        const int64_t c = columns.first + j;
        column[j] = packed_panel(expert, c) + order.place(0, c % panel_width);
    }
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = order.place(row + r, 0);
        for (int64_t j = 0; j < columns.width; ++j)
            target[r * igemm::columns + j] = static_cast<int8_t>(column[j][at] ^ flip);
    }
}

// --- GroupedProduct --------------------------------------------------------------------------------------------------

void GroupedProduct::book(const ExpertWeights& weights, int64_t rows, int64_t k, int64_t blocks, int64_t columns,
                          int64_t runs, bool aligned, int64_t bytes_per_row, Ledger& ledger) {
    kernels_ = &igemm_kernels();
    const bool folds = folds_broadcasts() && kernels_->multiply_folded != nullptr;
    multiply_ = folds ? kernels_->multiply_folded : kernels_->multiply;
    row_kernels_ = &row_kernels();
    weights_ = &weights;
    k_ = k;
    parts_ = weights.int4() ? 2 : 1;
    threads_ = ledger.threads();
    units_ = blocks;
    unit_k_ = k / blocks;
    wide_ = unit_k_ > igemm::exact_k;
    if (streams_plain_rows()) row_products_ = &qgemm_kernels();
    in_turn_ = kernels_->multiply_in_turn != nullptr && !wide_ && aligned && weights.panels_in_place(*kernels_);
    pairs_in_turn_ = kernels_->stream_int4_in_turn != nullptr && weights.nibbles();
    const int64_t tiles_in_turn = kernels_->in_turn_rows == kernels_->rows ? most_tiles_in_turn : 1;
    streamed_rows_ = in_turn_ ? tiles_in_turn * kernels_->in_turn_rows : kernels_->stream_rows / parts_;
    const bool few_rows = rows <= (streams_plain_rows() ? most_streamed_rows : streamed_rows_) * weights.experts();
    const int64_t together = weights.panels_together(few_rows && (in_turn_ || pairs_in_turn_ || !weights.tiled()));
    const int64_t panels = ceil_divide(columns, igemm::columns);
    // Items are as equal as can be for all threads; tiles stay whole.
    const int64_t items = ceil_divide(ceil_divide(panels, together), threads_) * threads_;
    const int64_t unit = weights.panels_in_tile();
    const int64_t in_item = ceil_divide(ceil_divide(panels, items), unit) * unit;
    span_ = in_item * igemm::columns;
    panels_ = runs * in_item;
    const auto split = [&](int64_t largest_k) {
        const int64_t block_k = ceil_divide(ceil_divide(unit_k_, ceil_divide(unit_k_, largest_k)), 16) * 16;
        return Split{block_k, ceil_divide(unit_k_, block_k)};
    };
    packed_split_ = split(largest_panel / (igemm::columns * kernels_->item_size));
    streamed_split_ = split(in_turn_ ? unit_k_ : largest_stream / igemm::columns);
    streamed_plain_split_ = split(streamed_plain_k);
    tile_rows_ = kernels_->rows / parts_;
    row_bytes_ = 0;
    int64_t longest = 0;
    // Few rows, where the kernels stream them, take panels where they are.
    const bool streams_in_place = kernels_->stream_rows == 0 || in_turn_ || (aligned && weights.even_tiles());
    for (const Split* cut : {&packed_split_, weights.tiled() ? &streamed_split_ : &streamed_plain_split_}) {
        const Block last = block(*cut, units_ - 1, cut->count - 1);
        row_bytes_ = std::max(row_bytes_, parts_ * (last.offset + igemm::row_bytes(*kernels_, last.k)));
        if (!streams_in_place || cut == &packed_split_) longest = std::max(longest, std::min(cut->k, unit_k_));
    }
    batch_rows_ = std::min(rows, std::max(tile_rows_, threads_ * batch_bytes / (row_bytes_ + bytes_per_row)));
    chunk_rows_ = std::min(batch_rows_, tiles_per_chunk * tile_rows_);
    panel_bytes_ = igemm::panel_bytes(*kernels_, longest);
    split_bytes_ = parts_ == 1 ? 0 : kernels_->rows * longest;
    const int64_t kept_values = kept(threads_, 0, 0);
    packed_piece_ = ledger.book("packed rows of x", bytes_of(batch_rows_, row_bytes_));
    const bool ready = weights.packed_for(*kernels_) && aligned && (units_ == 1 || unit_k_ % kernels_->k_step == 0);
    if (!ready) {
        panel_piece_ = ledger.book("packed panels of weights", bytes_of(threads_ * panels_, panel_bytes_));
        stage_piece_ = ledger.book("rows of a panel", bytes_of(threads_, stage_bytes));
    }
    split_piece_ = ledger.book("high and low parts of x", bytes_of(threads_, split_bytes_));
    sums_piece_ = ledger.book<int32_t>("sums", kept_values);
    if (wide_) wide_piece_ = ledger.book<int64_t>("wide sums", kept_values);
    if (weights.int4()) totals_piece_ = ledger.book<float>("scaled sums", kept_values);
    values_piece_ = ledger.book<float>("values of a tile", threads_ * panels_ * tile_rows_ * igemm::columns);
    if (streams_plain_rows())
        row_sums_piece_ = ledger.book<int32_t>("sums of streamed rows", threads_ * most_streamed_rows * span_);
}

void GroupedProduct::load(const Workspace& workspace, const int8_t* x, const int64_t* block_scale, int64_t n) {
    x_ = x;
    block_scale_ = block_scale;
    n_ = n;
    packed_ = workspace.at<char>(packed_piece_);
    panel_ = workspace.at<char>(panel_piece_);
    stage_ = workspace.at<int8_t>(stage_piece_);
    split_ = workspace.at<int8_t>(split_piece_);
    sums_ = workspace.at<int32_t>(sums_piece_);
    wide_sums_ = workspace.at<int64_t>(wide_piece_);
    totals_ = workspace.at<float>(totals_piece_);
    values_ = workspace.at<float>(values_piece_);
    row_sums_ = workspace.at<int32_t>(row_sums_piece_);
}

GroupedProduct::Tiles GroupedProduct::tiles(int64_t begin, int64_t end) const {
    return {begin, end - begin, ceil_divide(end - begin, tile_rows_)};
}

bool GroupedProduct::streams_plain_rows() const {
    return weights_->plain_rows() && !wide_;
}

bool GroupedProduct::streams_rows(const Tiles& tiles) const {
    return streams_plain_rows() && tiles.rows <= most_streamed_rows;
}

bool GroupedProduct::streams(const Tiles& tiles) const {
    return tiles.rows <= streamed_rows_;
}

const GroupedProduct::Split& GroupedProduct::split(const Tiles& tiles) const {
    if (!streams(tiles)) return packed_split_;
    return weights_->tiled() ? streamed_split_ : streamed_plain_split_;
}

GroupedProduct::Block GroupedProduct::block(const Split& blocks, int64_t unit, int64_t index) const {
    const int64_t begin = index * blocks.k;
    const int64_t last_k = unit_k_ - (blocks.count - 1) * blocks.k;
    const int64_t full_bytes = igemm::row_bytes(*kernels_, blocks.k);
    const int64_t unit_bytes = (blocks.count - 1) * full_bytes + igemm::row_bytes(*kernels_, last_k);
    return {unit * unit_k_ + begin, std::min(blocks.k, unit_k_ - begin), unit * unit_bytes + index * full_bytes};
}

char* GroupedProduct::packed(int64_t row, int64_t rows, const Block& block) const {
    return packed_ + (row - first_row_) * row_bytes_ + rows * parts_ * block.offset;
}

void GroupedProduct::pack(const ExpertRows& experts, int64_t first, int64_t last) {
    first_row_ = first;
    const int64_t grain = 1 + (64 * 1024) / k_;
    parallel_ranges(threads_, last - first, grain, [&](int thread, int64_t begin, int64_t end) {
        // Tiles begin with their expert; a thread packs those that begin in its range.
        experts.for_each(first, last, [&](int64_t, int64_t from, int64_t to) {
            const Tiles all = tiles(from, to);
            for (int64_t tile = 0; tile < all.count; ++tile) {
                const int64_t row = all.row(tile);
                if (row >= first + begin && row < first + end && !streams_rows(all))
                    pack_tile(thread, split(all), row, all.row(tile + 1) - row);
            }
        });
    });
}

void GroupedProduct::pack_tile(int thread, const Split& blocks, int64_t row, int64_t rows) const {
    for (int64_t unit = 0; unit < units_; ++unit) {
        for (int64_t index = 0; index < blocks.count; ++index) {
            const Block b = block(blocks, unit, index);
            const int8_t* x = x_ + row * k_ + b.k_begin;
            char* target = packed(row, rows, b);
            if (parts_ == 1) {
                kernels_->pack_tile(x, k_, rows, b.k, target);
                continue;
            }
            // x = 16 * high + low + 8, with both parts in [-8, 7].
            int8_t* high = split_ + thread * split_bytes_;
            int8_t* low = high + rows * b.k;
            for (int64_t r = 0; r < rows; ++r) {
                for (int64_t t = 0; t < b.k; ++t) {
                    const int value = x[r * k_ + t];
                    high[r * b.k + t] = static_cast<int8_t>(value >> 4);
                    low[r * b.k + t] = static_cast<int8_t>((value & 15) - 8);
                }
            }
            kernels_->pack_tile(high, b.k, 2 * rows, b.k, target);
        }
    }
}

int64_t GroupedProduct::grain(int64_t rows) const {
    // Packing a panel costs about as much as multiplying a tile with it.
    const double products = static_cast<double>(rows + tile_rows_) * static_cast<double>(parts_ * panels_ * k_) *
                            static_cast<double>(igemm::columns);
    return 1 + static_cast<int64_t>(products_per_thread / products);
}

int64_t GroupedProduct::kept(int thread, int64_t panel, int64_t chunk_row) const {
    return (thread * panels_ + panel) * panel_values() + chunk_row * parts_ * igemm::columns;
}

int64_t GroupedProduct::panel_values() const {
    // A line more than the rows take: off the powers of two, or the sums of panels would compete for the same sets of
    // the first-level cache.
    return chunk_rows_ * parts_ * igemm::columns + cache_line / static_cast<int64_t>(sizeof(int32_t));
}

char* GroupedProduct::panel(int thread, int64_t index) const {
    return panel_ + (thread * panels_ + index) * panel_bytes_;
}

void GroupedProduct::pack_panels(int thread, const Block& block, const PanelGroup& group, const bool* wanted) const {
    int8_t* const stage = stage_ + thread * stage_bytes;
    // The rows of a column of tiles follow each other; those of plain weights are shared by neighbouring panels.
    const int64_t step = weights_->tiled() ? block.k : stage_rows;
    for (int64_t row = 0; row < block.k; row += step)
        for (int64_t p = 0; p < group.count; ++p)
            if (wanted[p])
                weights_->pack(*kernels_, group.expert, block.k_begin + row, std::min(step, block.k - row),
                               group.columns[p], panel(thread, p) + igemm::panel_bytes(*kernels_, row), stage);
}

void GroupedProduct::sum(int thread, const Tiles& tiles, int64_t first, int64_t last, const PanelGroup& group,
                         const PanelGroup& next) const {
    if (streams_rows(tiles)) return sum_streamed_rows(thread, tiles, group);
    if (in_turn_ && streams(tiles)) return sum_panels_in_turn(thread, tiles, first, last, group, next);
    const Split& blocks = split(tiles);
    const int64_t rows = tiles.row(last) - tiles.row(first);
    for (int64_t unit = 0; unit < units_; ++unit) {
        for (int64_t index = 0; index < blocks.count; ++index) {
            const bool last_of_unit = index + 1 == blocks.count;
            const bool done = last_of_unit && unit + 1 == units_;
            const Block next_block = done           ? block(blocks, 0, 0)
                                     : last_of_unit ? block(blocks, unit + 1, 0)
                                                    : block(blocks, unit, index + 1);
            sum_block(thread, tiles, first, last, group, block(blocks, unit, index), index > 0 && !wide_,
                      done ? next : group, next_block);
            if (wide_) widen_sums(thread, rows, group.count, index > 0);
        }
        if (parts_ == 2) add_scaled_sums(thread, unit, rows, group);
    }
}

void GroupedProduct::sum_streamed_rows(int thread, const Tiles& tiles, const PanelGroup& group) const {
    int32_t* const row_sums = row_sums_ + thread * most_streamed_rows * span_;
    // A piece of the weights stays in the cache for all rows of x; one row needs nothing to stay.
    const int64_t step = tiles.rows == 1 ? k_ : streamed_plain_k;
    for (int64_t run = 0; run < group.runs; ++run) {
        const PanelColumns columns = group.run(run);
        std::fill_n(row_sums, tiles.rows * span_, 0);
        for (int64_t k = 0; k < k_; k += step)
            for (int64_t r = 0; r < tiles.rows; ++r)
                row_products_->row(weights_->address(group.expert, k, columns.first), weights_->row_stride(),
                                   std::min(step, k_ - k), columns.width, x_ + (tiles.begin + r) * k_ + k,
                                   row_sums + r * span_);
        for (int64_t p = run * group.in_run(); p < (run + 1) * group.in_run(); ++p)
            for (int64_t r = 0; r < tiles.rows; ++r)
                std::copy_n(row_sums + r * span_ + group.columns[p].first - columns.first, group.columns[p].width,
                            sums_ + kept(thread, p, r));
    }
}

void GroupedProduct::sum_panels_in_turn(int thread, const Tiles& tiles, int64_t first, int64_t last,
                                        const PanelGroup& group, const PanelGroup& next) const {
    const bool ready = weights_->packed_for(*kernels_);
    const auto panels_of = [&](const PanelGroup& panels, const int8_t** address) {
        for (int64_t p = 0; p < panels.count; ++p)
            address[p] = ready ? weights_->panel(*kernels_, panels.expert, 0, panels.columns[p])
                               : weights_->address(panels.expert, 0, panels.columns[p].first);
    };
    const int8_t* panel[PanelGroup::most];
    const int8_t* next_panel[PanelGroup::most];
    panels_of(group, panel);
    // Where no panel follows, its predecessor again: any address will do.
    std::copy_n(panel, group.count, next_panel);
    panels_of(next, next_panel);
    const Block all = block(streamed_split_, 0, 0);
    for (int64_t index = first; index < last; ++index) {
        const int64_t row = tiles.row(index);
        const int64_t rows = tiles.row(index + 1) - row;
        const int8_t* const* behind = index + 1 < last ? panel : next_panel;
        kernels_->multiply_in_turn(packed(row, rows, all), {panel, behind, group.count, ready, panel_values()}, rows,
                                   all.k, sums_ + kept(thread, 0, row - tiles.row(first)));
    }
}

int64_t GroupedProduct::sum_pairs(int thread, const Tiles& tiles, int64_t first, int64_t last, const PanelGroup& group,
                                  const Block& block, bool accumulate, const PanelGroup& next, const Block& next_block,
                                  bool* paired) const {
    constexpr int64_t panel_row_bytes = igemm::columns / 2;
    const int8_t* pair[PanelGroup::most / 2];
    const int8_t* next_pair[PanelGroup::most / 2];
    int64_t panel[PanelGroup::most / 2];
    const auto row_of = [&](int64_t p) {
        return weights_->direct(group.columns[p])
                   ? weights_->address(group.expert, block.k_begin, group.columns[p].first)
                   : nullptr;
    };
    int64_t count = 0;
    for (int64_t p = 0; p + 1 < group.count; ++p) {
        const int8_t* const row = row_of(p);
        if (row == nullptr || row_of(p + 1) != row + panel_row_bytes) continue;
        pair[count] = row;
        // Where none follows, any address will do.
        next_pair[count] =
            p < next.count ? weights_->address(next.expert, next_block.k_begin, next.columns[p].first) : row;
        paired[p] = paired[p + 1] = true;
        panel[count++] = p++;
    }
    for (int64_t index = first; index < last; ++index) {
        const int64_t row = tiles.row(index);
        const int64_t rows = tiles.row(index + 1) - row;
        kernels_->stream_int4_in_turn(
            packed(row, rows, block), {pair, next_pair, panel, count, weights_->row_stride(), panel_values()},
            rows * parts_, block.k, accumulate, sums_ + kept(thread, 0, row - tiles.row(first)));
    }
    return 2 * count;
}

void GroupedProduct::sum_block(int thread, const Tiles& tiles, int64_t first, int64_t last, const PanelGroup& group,
                               const Block& block, bool accumulate, const PanelGroup& next,
                               const Block& next_block) const {
    const bool few_rows = streams(tiles);
    bool paired[PanelGroup::most] = {};
    int64_t pair_panels = 0;
    if (few_rows && pairs_in_turn_)
        pair_panels = sum_pairs(thread, tiles, first, last, group, block, accumulate, next, next_block, paired);
    if (pair_panels == group.count) return;
    const auto streamed = [&](int64_t p) { return few_rows && weights_->direct(group.columns[p]); };
    const auto ready = [&](int64_t p) -> const void* {
        return weights_->panel(*kernels_, group.expert, block.k_begin, group.columns[p]);
    };
    bool packs[PanelGroup::most];
    for (int64_t p = 0; p < group.count; ++p) packs[p] = !(paired[p] || streamed(p) || ready(p) != nullptr);
    if (std::find(packs, packs + group.count, true) != packs + group.count) pack_panels(thread, block, group, packs);
    // What follows is prefetched in equal shares for all calls, piece by piece: panels of tiles lie far from each
    // other, those of other weights side by side.
    const bool apart = weights_->tiled() && !weights_->nibbles();
    // Few panels are left of pairs, which fetch what follows themselves.
    const int64_t pieces = pair_panels > 0 || next.count == 0 ? 0 : apart ? next.count : next.runs;
    const int64_t calls_of_piece = (apart ? 1 : group.in_run()) * (last - first);
    Ahead left;
    int64_t share = 0;
    int64_t calls = 0;
    const auto next_weights = [&] {
        const int64_t piece = calls / calls_of_piece;
        if (piece >= pieces) return Ahead();
        if (calls % calls_of_piece == 0) {
            left = weights_->ahead(*kernels_, next.expert, next_block.k_begin, next_block.k_begin + next_block.k,
                                   apart ? next.columns[piece] : next.run(piece));
            share = ceil_divide(left.count, calls_of_piece);
        }
        ++calls;
        return left.take(share);
    };
    for (int64_t p = 0; p < group.count; ++p) {
        if (paired[p]) continue;
        const void* const packed_panel = ready(p);
        for (int64_t index = first; index < last; ++index) {
            const int64_t row = tiles.row(index);
            const int64_t rows = tiles.row(index + 1) - row;
            const char* tile = packed(row, rows, block);
            int32_t* sums = sums_ + kept(thread, p, row - tiles.row(first));
            if (streamed(p)) {
                const auto stream = weights_->nibbles() ? kernels_->stream_int4 : kernels_->stream;
                stream(tile, weights_->address(group.expert, block.k_begin, group.columns[p].first),
                       weights_->row_stride(), rows * parts_, block.k, accumulate, sums, next_weights());
            } else {
                multiply_(tile, packed_panel == nullptr ? panel(thread, p) : packed_panel, rows * parts_, block.k,
                          accumulate, sums, next_weights());
            }
        }
    }
}

void GroupedProduct::widen_sums(int thread, int64_t rows, int64_t panels, bool accumulate) const {
    for (int64_t p = 0; p < panels; ++p) {
        const int32_t* sums = sums_ + kept(thread, p, 0);
        int64_t* wide = wide_sums_ + kept(thread, p, 0);
        for (int64_t i = 0; i < rows * parts_ * igemm::columns; ++i) wide[i] = (accumulate ? wide[i] : 0) + sums[i];
    }
}

void GroupedProduct::add_scaled_sums(int thread, int64_t unit, int64_t rows, const PanelGroup& group) const {
    for (int64_t p = 0; p < group.count; ++p) {
        float scale[igemm::columns] = {};
        const int64_t* bits = block_scale_ + (group.expert * units_ + unit) * n_ + group.columns[p].first;
        for (int64_t j = 0; j < group.columns[p].width; ++j) {
            const auto low = static_cast<uint32_t>(static_cast<uint64_t>(bits[j]));
            std::memcpy(&scale[j], &low, sizeof low);
        }
        const int64_t first = kept(thread, p, 0);
        float* totals = totals_ + first;
        if (!wide_) {
            kernels_->add_scaled(sums_ + first, rows * parts_, scale, unit > 0, totals);
            continue;
        }
        for (int64_t i = 0; i < rows * parts_ * igemm::columns; ++i) {
            const float product = static_cast<float>(wide_sums_[first + i]) * scale[i % igemm::columns];
            totals[i] = unit == 0 ? product : totals[i] + product;
        }
    }
}

float* GroupedProduct::values(int thread, int64_t chunk_row, int64_t rows, int64_t panels) const {
    float* const tile = values_ + thread * panels_ * tile_rows_ * igemm::columns;
    const int64_t n = rows * igemm::columns;
    for (int64_t p = 0; p < panels; ++p) {
        float* values = tile + p * tile_rows_ * igemm::columns;
        const int64_t from = kept(thread, p, chunk_row);
        if (parts_ == 1) {
            if (wide_)
                std::copy_n(wide_sums_ + from, n, values);
            else
                kernels_->to_float(sums_ + from, values, n);
            continue;
        }
        float* high = totals_ + from;
        float* low = high + n;
        uint16_t half[igemm::columns];
        for (int64_t i = 0; i < 2 * n; i += igemm::columns) {
            row_kernels_->narrow_f16(high + i, half, igemm::columns);
            row_kernels_->widen_f16(half, high + i, igemm::columns);
        }
        for (int64_t i = 0; i < n; ++i) values[i] = high[i] * 16.0f + low[i];
    }
    return tile;
}

}  // namespace moe
