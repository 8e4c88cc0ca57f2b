// Packing of weights of npu_ffn that have a floating type.
#pragma once

#include "core/op.h"
#include "core/packed.h"
#include "moe_native/pack.h"

namespace moe {

class PackFloat {
  public:
    // Describes what becomes of args.w, whose type is checked, without memory.
    static Status resolve(const moe_pack_args& args, Tensor* packed);
    void book(const moe_pack_args& args, Ledger& ledger);
    // Fills the contents of `packed`.
    Status run(const moe_pack_args& args, const Tensor& packed, const Workspace& workspace);

  private:
    void pack_rows(const moe_pack_args& args, const FloatPanels& to, int64_t expert, int64_t row, char* stage) const;

    Input w_;
    Piece stage_;
    int64_t stage_size_ = 0;
};

}  // namespace moe
