// Scratch memory: booked by name in the plan step, handed out from the caller's buffer in the run step.
#pragma once

#include <cstdint>

#include "core/status.h"
#include "moe_native/runtime.h"

namespace moe {

// A booked piece. The default one is empty and yields a null pointer.
struct Piece {
    uint64_t offset = 0;
    uint64_t size = 0;
};

constexpr uint64_t piece_alignment = 64;

class Ledger {
  public:
    explicit Ledger(moe_plan* plan) : plan_(plan) {}

    // Books `bytes` (0 is fine), aligned to 64 bytes. `name` must be a literal.
    Piece book(const char* name, uint64_t bytes);

    template <class T>
    Piece book(const char* name, int64_t count) {
        return book(name, static_cast<uint64_t>(count) * sizeof(T));
    }

    // Makes the plan fail with `status`.
    void refuse(Status status) {
        if (status_ == MOE_OK) status_ = status;
    }

    // What was refused: sizes that overflowed, more pieces than a plan holds, operands that no kernel reads.
    Status status() const { return status_; }

    // The largest team of the run step: book scratch for so many threads.
    int threads() const { return plan_->threads; }

  private:
    moe_plan* plan_;
    Status status_ = MOE_OK;
};

class Workspace {
  public:
    // Null memory is fine when the plan needs none.
    Workspace(const moe_plan& plan, void* memory);

    template <class T>
    T* at(const Piece& piece) const {
        return piece.size == 0 ? nullptr : reinterpret_cast<T*>(base_ + piece.offset);
    }

    // Verifies the guard bytes around every piece; debug builds only, elsewhere always MOE_OK.
    Status verify() const;

    int threads() const { return plan_.threads; }

  private:
    const moe_plan& plan_;
    unsigned char* base_;
};

}  // namespace moe
