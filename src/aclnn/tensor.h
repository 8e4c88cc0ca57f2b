// Tensors and the other arguments of operators that live behind handles.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "aclnn/acl_meta.h"
#include "aclnn/memory.h"
#include "aclnn/registry.h"
#include "moe_native/tensor.h"

namespace moe::device {

// Tiles as the client tells them, or of a conversion: planned by its phase 1, or queued by its phase 2.
enum class Tiles : uint8_t { told, planned, queued };

// What a client said about a tensor. Strides and offset count elements.
struct TensorState {
    std::vector<int64_t> shape, strides, storage_shape;
    int64_t offset = 0;
    aclDataType dtype = ACL_DT_UNDEFINED;
    aclFormat format = ACL_FORMAT_UNDEFINED;
    void* data = nullptr;              // of the storage
    Tiles tiles = Tiles::told;         // what is known about the contents in FRACTAL_NZ
    uint64_t raw_sets = 0;             // changes of the address by the client
    uint64_t redefinitions = 0;        // and of anything else
    const char* changed_by = nullptr;  // the operator whose phase 1 changed dtype or shape

    bool has_elements() const;
    // All the same but the address.
    bool is_described_as(const TensorState& other) const;
    // Row-major without gaps from the first viewed element on.
    bool is_dense() const;
};

class Tensor : public Object {
  public:
    static constexpr Kind object_kind = Kind::tensor;
    explicit Tensor(TensorState state) : Object(object_kind), state_(std::move(state)) {}

    TensorState state() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return state_;
    }
    template <class Look>
    void look(Look&& look) const {
        const std::lock_guard<std::mutex> lock(mutex_);
        look(state_);
    }
    template <class Change>
    void change(Change&& change) {
        const std::lock_guard<std::mutex> lock(mutex_);
        change(state_);
    }

    std::atomic<bool> destroyed{false};

  private:
    mutable std::mutex mutex_;
    TensorState state_;
};

template <class T, Kind K>
class Array : public Object {
  public:
    static constexpr Kind object_kind = K;
    explicit Array(std::vector<T> elements) : Object(K), values(std::move(elements)) {}
    const std::vector<T> values;
};
using IntArray = Array<int64_t, Kind::int_array>;
using FloatArray = Array<float, Kind::float_array>;
using BoolArray = Array<char, Kind::bool_array>;
using TensorList = Array<void*, Kind::tensor_list>;  // handles, which the list owns
using ScalarList = Array<void*, Kind::scalar_list>;

class Scalar : public Object {
  public:
    static constexpr Kind object_kind = Kind::scalar;
    explicit Scalar(aclDataType type) : Object(object_kind), dtype(type) {}
    const aclDataType dtype;
    unsigned char value[16] = {};
};

// Arrays that getters have handed out since the last call: nobody can see whether they were deleted.
uint64_t take_getter_arrays();

// Strides without gaps, in elements.
std::vector<int64_t> row_major(const std::vector<int64_t>& shape);

// The tensor as the core wants it, over other memory when `data` says so. Every plain format counts as ND, and a
// FRACTAL_NZ view that is the storage itself as well.
moe_tensor view_of(const TensorState& state, void* data);

// The addresses that the view's elements take; empty when it has none. False when they are beyond any address.
bool extent_of(const moe_tensor& view, Range* range);

// Words of int32 become eight int4 each, as phase 1 of the operator `by` leaves them on a card.
void become_int4(TensorState* state, const char* by);

// "FLOAT16 (3, 4)" for messages.
std::string describe(const TensorState& state);

// Refuses with `null_status` for null and 161002 for a handle that is no live tensor.
Status need_tensor(const void* handle, const char* argument, std::shared_ptr<Tensor>* tensor,
                   Status null_status = 161001);

}  // namespace moe::device
