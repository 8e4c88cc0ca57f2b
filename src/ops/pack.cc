#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/nz.h"
#include "core/packed.h"
#include "moe_native/pack.h"
#include "ops/ffn_float.h"
#include "ops/grouped_matmul.h"
#include "ops/pack_float.h"

namespace moe {
namespace {

class Pack {
  public:
    static constexpr const char* name = "pack";
    using Args = moe_pack_args;

    explicit Pack(const Args& args) : args_(args), kernels_(igemm_kernels()) {}

    Status resolve(Outputs outputs) {
        MOE_TRY(required(args_.w, "w"));
        if (outputs == Outputs::checked) MOE_TRY(required(args_.out, "out"));
        MOE_TRY(dtype_in(*args_.w, "w", {MOE_INT8, MOE_INT32, MOE_INT4, MOE_FLOAT32, MOE_FLOAT16, MOE_BFLOAT16}));
        MOE_TRY(floats() ? PackFloat::resolve(args_, &packed_) : resolve_integers());
        if (outputs == Outputs::ignored) return MOE_OK;
        MOE_TRY(dtype_in(*args_.out, "out", {MOE_UINT8}));
        MOE_TRY(shape_is(*args_.out, "out", {bytes()}, "(bytes,)", MOE_ERROR_INVALID));
        if (args_.out->format == MOE_FORMAT_ND && is_contiguous(*args_.out)) return MOE_OK;
        return fail(MOE_ERROR_INVALID, Kind::value, "out", "strided, needed contiguous");
    }

    void shapes(Tensor* outputs) const {
        const int64_t shape[] = {bytes()};
        outputs[0] = moe_tensor_make(nullptr, MOE_UINT8, 1, shape);
    }

    void book(Ledger& ledger) {
        if (floats()) return float_.book(args_, ledger);
        // Plain rows need no other place on the way.
        const int64_t bytes = kernels_.layout == PanelLayout::rows ? 0 : ledger.threads() * stage_bytes;
        stage_piece_ = ledger.book("rows of a panel", static_cast<uint64_t>(bytes));
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        MOE_TRY(context.data_checked());
        MOE_TRY(has_data(args_.out, "out"));
        packed_.data = static_cast<char*>(args_.out->data) + MOE_PACKED_HEADER;
        MOE_TRY(floats() ? float_.run(args_, packed_, workspace) : pack_integers(workspace));
        write_packed_header(packed_);
        return MOE_OK;
    }

  private:
    static constexpr int64_t stage_rows = 16;
    static constexpr int64_t stage_bytes = stage_rows * igemm::columns;
    static constexpr int64_t bytes_per_thread = 256 * 1024;

    bool floats() const { return is_float_weight(args_.w->dtype); }
    int64_t bytes() const { return MOE_PACKED_HEADER + packed_storage(packed_).bytes(); }

    Status resolve_integers() {
        int64_t k = 0;
        int64_t n = 0;
        whole(&k, &n);
        MOE_TRY(part(args_.k, "k", &k));
        MOE_TRY(part(args_.n, "n", &n));
        MOE_TRY(weights_.resolve(*args_.w, "w", k, n));
        return packed_describe(nullptr, weights_.int4() ? MOE_INT4 : MOE_INT8, weights_.experts(), k, n,
                               kernels_.layout, "w", &packed_);
    }

    Status pack_integers(const Workspace& workspace) {
        MOE_TRY(weights_.load());
        stage_ = workspace.at<int8_t>(stage_piece_);
        const PackedStorage to = packed_storage(packed_);
        const int64_t spans = ceil_divide(to.panels, weights_.panels_together(false));
        const int64_t grain = 1 + bytes_per_thread / (to.panel_bytes * weights_.panels_together(false));
        parallel_ranges(workspace.threads(), weights_.experts() * spans, grain,
                        [&](int thread, int64_t begin, int64_t end) {
                            for (int64_t item = begin; item < end; ++item)
                                pack_span(thread, item / spans, item % spans * weights_.panels_together(false));
                        });
        return MOE_OK;
    }

    // What the shape says, as large as it may be.
    void whole(int64_t* k, int64_t* n) const {
        const Tensor& w = *args_.w;
        const int64_t packing = w.dtype == MOE_INT32 ? 8 : 1;
        // A weight of another rank is refused later.
        if (w.rank == 5 && w.format == MOE_FORMAT_ND) {
            *k = w.shape[2] * w.shape[3];
            *n = w.shape[1] * w.shape[4] * packing;
        } else if (w.rank == 3) {
            *k = w.shape[1];
            *n = w.shape[2] * packing;
        } else {
            *k = *n = 1;
        }
    }

    static Status part(int64_t given, const char* argument, int64_t* size) {
        if (given < 0 || given > *size)
            return fail(MOE_ERROR_INVALID, Kind::value, argument, "%lld, needed 1 to the %lld of w, or 0 for them",
                        static_cast<long long>(given), static_cast<long long>(*size));
        if (given > 0) *size = given;
        if (*size > 0) return MOE_OK;
        return fail(MOE_ERROR_INVALID, Kind::shape, "w", "%s = 0, needed 1 or more", argument);
    }

    void pack_span(int thread, int64_t expert, int64_t first_panel) const {
        const PackedStorage to = packed_storage(packed_);
        const PanelOrder order = panel_order(to.layout);
        const int64_t last_panel = std::min(to.panels, first_panel + weights_.panels_together(false));
        char* const panels = static_cast<char*>(packed_.data) + expert * to.panels * to.panel_bytes;
        // Neighbouring panels share the cache lines of a plain weight.
        const int64_t step = weights_.panels_together(false) == 1 ? to.k : stage_rows;
        for (int64_t row = 0; row < to.k; row += step)
            for (int64_t p = first_panel; p < last_panel; ++p) {
                const int64_t first = p * panel_width;
                char* const panel = panels + p * to.panel_bytes + order.size(row);
                const PanelColumns columns = {first, std::min(panel_width, to.n - first)};
                const int64_t rows = std::min(step, to.k - row);
                if (to.layout == PanelLayout::rows)
                    weights_.read(expert, row, rows, columns, reinterpret_cast<int8_t*>(panel));
                else
                    weights_.pack(kernels_, expert, row, rows, columns, panel, stage_ + thread * stage_bytes);
            }
        if (last_panel == to.panels) clear_padding(to, order, panels + (to.panels - 1) * to.panel_bytes);
    }

    // The padding of tiles holds anything. Here it is zero: equal weights become equal bytes.
    static void clear_padding(const PackedStorage& to, const PanelOrder& order, char* panel) {
        for (int64_t t = 0; t < to.k; t += order.step)
            for (int64_t j = to.n - (to.panels - 1) * panel_width; j < panel_width; ++j)
                std::memset(panel + order.place(t, j), order.flipped ? 0x80 : 0, static_cast<size_t>(order.step));
    }

    const Args args_;
    const IgemmKernels& kernels_;
    ExpertWeights weights_;
    PackFloat float_;
    Tensor packed_ = {};
    Piece stage_piece_;
    int8_t* stage_ = nullptr;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::Pack, moe_pack)

bool moe_packed_is_current(const moe_tensor* tensor) {
    if (moe::required(tensor, "w") != MOE_OK || !moe::is_packed(*tensor)) return false;
    return moe::packed_storage(*tensor).layout ==
           (moe::is_float_weight(tensor->dtype) ? moe::ffn_kernels(tensor->dtype).layout : moe::igemm_kernels().layout);
}
