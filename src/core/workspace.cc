#include "core/workspace.h"

#include <cstring>

namespace moe {
namespace {

#if defined(MOE_NATIVE_GUARDS)
constexpr uint64_t guard = 64;
#else
constexpr uint64_t guard = 0;
#endif
constexpr unsigned char guard_byte = 0xA5;

constexpr uint64_t largest_workspace = UINT64_MAX / 4;

uint64_t align(uint64_t bytes) {
    return (bytes + piece_alignment - 1) / piece_alignment * piece_alignment;
}

// The slack lets the pieces be aligned in a buffer that is not.
uint64_t used_bytes(const moe_plan& plan) {
    return plan.workspace_size == 0 ? 0 : plan.workspace_size - piece_alignment;
}

}  // namespace

Piece Ledger::book(const char* name, uint64_t bytes) {
    if (bytes == 0 || status_ != MOE_OK) return {};
    const uint64_t used = used_bytes(*plan_);
    if (bytes > largest_workspace || used > largest_workspace) {
        status_ =
            fail(MOE_ERROR_INVALID, Kind::shape, "", "scratch for %s needs %llu bytes, more than can be addressed",
                 name, static_cast<unsigned long long>(bytes));
        return {};
    }
    if (plan_->piece_count == MOE_PLAN_MAX_PIECES) {
        status_ = fail(MOE_ERROR_INNER, Kind::runtime, "", "more than %d pieces of scratch", MOE_PLAN_MAX_PIECES);
        return {};
    }
    const Piece piece{used + guard, bytes};
    plan_->pieces[plan_->piece_count++] = {name, piece.offset, piece.size};
    plan_->workspace_size = piece.offset + align(bytes + guard) + piece_alignment;
    return piece;
}

Workspace::Workspace(const moe_plan& plan, void* memory)
    : plan_(plan), base_(reinterpret_cast<unsigned char*>(align(reinterpret_cast<uintptr_t>(memory)))) {
    for (int32_t i = 0; guard > 0 && i < plan.piece_count; ++i) {
        std::memset(base_ + plan.pieces[i].offset - guard, guard_byte, guard);
        std::memset(base_ + plan.pieces[i].offset + plan.pieces[i].size, guard_byte, guard);
    }
}

Status Workspace::verify() const {
    for (int32_t i = 0; guard > 0 && i < plan_.piece_count; ++i) {
        const unsigned char* piece = base_ + plan_.pieces[i].offset;
        for (uint64_t b = 0; b < guard; ++b)
            if (piece[b - guard] != guard_byte || piece[plan_.pieces[i].size + b] != guard_byte)
                return fail(MOE_ERROR_INNER, Kind::runtime, "", "the run step wrote outside its piece \"%s\"",
                            plan_.pieces[i].name);
    }
    return MOE_OK;
}

}  // namespace moe
