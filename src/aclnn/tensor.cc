#include "aclnn/tensor.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <limits>

#include "kernels/numeric.h"
#include "moe_native/format.h"

namespace moe::device {
namespace {

// What the class of a real host holds; more is a mistake, not a tensor.
constexpr uint64_t most_dims = 25;
constexpr uint64_t most_values = uint64_t{1} << 24;

std::atomic<uint64_t> getter_arrays{0};

bool is_nz(aclFormat format) {
    return format == ACL_FORMAT_FRACTAL_NZ;
}

bool is_plain(aclFormat format) {
    switch (format) {
        case ACL_FORMAT_ND:
        case ACL_FORMAT_NCL:
        case ACL_FORMAT_NCHW:
        case ACL_FORMAT_NHWC:
        case ACL_FORMAT_HWCN:
        case ACL_FORMAT_NCDHW:
        case ACL_FORMAT_NDHWC:
        case ACL_FORMAT_NC:
            return true;
        default:
            return false;
    }
}

Status check_dims(const int64_t* dims, uint64_t count, const char* argument) {
    if (dims == nullptr && count > 0)
        return refuse(161001, Rule::null_argument, argument, "null",
                      text("%llu numbers", static_cast<unsigned long long>(count)));
    if (count > most_dims)
        return refuse(161002, Rule::tensor_layout, argument,
                      text("%llu dimensions", static_cast<unsigned long long>(count)),
                      text("at most %llu", static_cast<unsigned long long>(most_dims)));
    return 0;
}

template <class Made, class Value>
void* create_array(const Value* value, uint64_t size) {
    if (value == nullptr) size = 0;
    if (size > most_values) {
        refuse(161002, Rule::argument, "size", text("%llu", static_cast<unsigned long long>(size)),
               text("at most %llu", static_cast<unsigned long long>(most_values)));
        return nullptr;
    }
    return add_object(std::make_shared<Made>(
        std::vector<std::decay_t<decltype(std::declval<Made>().values[0])>>(value, value + size)));
}

void tell_double_destroy(const void* handle, Kind kind, const char* argument) {
    const Fate fate = fate_of(handle, kind);
    record(Rule::double_destroy, argument, fate.text, std::string("a live ") + kind_name(kind),
           {&fate.made, handle, fate.number});
}

template <class T>
aclnnStatus destroy(const void* handle, const char* argument) {
    if (handle == nullptr) return 0;
    if (withdraw<T>(handle) == nullptr) tell_double_destroy(handle, T::object_kind, argument);
    return 0;
}

void destroy_tensor(const void* handle, const char* argument) {
    if (handle == nullptr) return;
    const std::shared_ptr<Tensor> tensor = withdraw<Tensor>(handle);
    if (tensor == nullptr)
        tell_double_destroy(handle, Kind::tensor, argument);
    else
        tensor->destroyed = true;
}

// A list takes handles only of live elements, so that nothing is destroyed with it that is not its own.
template <class List, class Element>
void* create_list(const void* const* value, uint64_t size) {
    if (value == nullptr) size = 0;
    if (size > most_values) {
        refuse(161002, Rule::argument, "size", text("%llu", static_cast<unsigned long long>(size)),
               text("at most %llu", static_cast<unsigned long long>(most_values)));
        return nullptr;
    }
    std::vector<void*> elements;
    for (uint64_t i = 0; i < size; ++i) {
        if (value[i] != nullptr && lookup<Element>(value[i]) == nullptr) {
            const Fate fate = fate_of(value[i], Element::object_kind);
            refuse(161002, Rule::double_destroy, text("value[%llu]", static_cast<unsigned long long>(i)), fate.text,
                   std::string("a live ") + kind_name(Element::object_kind), {&fate.made, value[i], fate.number});
            return nullptr;
        }
        elements.push_back(const_cast<void*>(value[i]));
    }
    return add_object(std::make_shared<List>(std::move(elements)));
}

template <class T>
Status size_of(const void* handle, const char* argument, uint64_t* size) {
    if (handle == nullptr) return refuse(161001, Rule::null_argument, argument, "null", kind_name(T::object_kind));
    if (size == nullptr) return refuse(161001, Rule::null_argument, "size", "null", "a place for the result");
    const std::shared_ptr<T> object = lookup<T>(handle);
    if (object == nullptr) {
        const Fate fate = fate_of(handle, T::object_kind);
        return refuse(161002, Rule::double_destroy, argument, fate.text,
                      std::string("a live ") + kind_name(T::object_kind), {&fate.made, handle, fate.number});
    }
    *size = object->values.size();
    return 0;
}

template <class Get>
Status get_dims(const aclTensor* handle, int64_t** values, uint64_t* count, Get&& get) {
    if (values == nullptr || count == nullptr)
        return refuse(161001, Rule::null_argument, values == nullptr ? "values" : "num", "null",
                      "a place for the result");
    std::shared_ptr<Tensor> tensor;
    MOE_DEVICE_TRY(need_tensor(handle, "tensor", &tensor));
    const TensorState state = tensor->state();
    const std::vector<int64_t>& dims = get(state);
    *values = new int64_t[std::max<size_t>(1, dims.size())];  // the caller's, to delete[]
    ++getter_arrays;
    std::copy(dims.begin(), dims.end(), *values);
    *count = dims.size();
    return 0;
}

template <class T, class Get>
Status get_value(const aclTensor* handle, T* value, const char* argument, Get&& get) {
    if (value == nullptr) return refuse(161001, Rule::null_argument, argument, "null", "a place for the result");
    std::shared_ptr<Tensor> tensor;
    MOE_DEVICE_TRY(need_tensor(handle, "tensor", &tensor));
    *value = get(tensor->state());
    return 0;
}

}  // namespace

std::vector<int64_t> row_major(const std::vector<int64_t>& shape) {
    std::vector<int64_t> strides(shape.size());
    // Wrapping: a shape too large for 64 bits is refused by the operator.
    uint64_t stride = 1;
    for (size_t d = shape.size(); d-- > 0;) {
        strides[d] = static_cast<int64_t>(stride);
        stride *= static_cast<uint64_t>(shape[d]);
    }
    return strides;
}

uint64_t take_getter_arrays() {
    return getter_arrays.exchange(0);
}

bool TensorState::has_elements() const {
    return std::all_of(shape.begin(), shape.end(), [](int64_t dim) { return dim > 0; });
}

bool TensorState::is_dense() const {
    const std::vector<int64_t> dense = row_major(shape);
    for (size_t d = 0; d < shape.size(); ++d)
        if (shape[d] != 1 && strides[d] != dense[d]) return false;
    return true;
}

bool TensorState::is_described_as(const TensorState& other) const {
    return shape == other.shape && strides == other.strides && storage_shape == other.storage_shape &&
           offset == other.offset && dtype == other.dtype && format == other.format;
}

moe_tensor view_of(const TensorState& state, void* data) {
    moe_tensor view = {};
    view.dtype = static_cast<moe_dtype>(state.dtype);
    view.rank = static_cast<int32_t>(state.shape.size());
    view.format = is_plain(state.format) ? MOE_FORMAT_ND : static_cast<moe_format>(state.format);
    const int64_t size = moe_dtype_size(view.dtype);
    const auto rank = static_cast<size_t>(std::min(view.rank, MOE_MAX_RANK));
    // What is too far stays too far, for extent_of to see.
    const auto times = [](int64_t a, int64_t b) {
        int64_t product;
        if (!__builtin_mul_overflow(a, b, &product)) return product;
        return (a < 0) != (b < 0) ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int64_t>::max();
    };
    for (size_t d = 0; d < rank; ++d) {
        view.shape[d] = state.shape[d];
        view.stride[d] = times(state.strides[d], size);
    }
    const int64_t skipped = size == 0 ? state.offset / 2 : times(state.offset, size);
    view.data = data == nullptr
                    ? nullptr
                    : reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(skipped));
    if (!is_nz(state.format)) return view;
    const std::vector<int64_t>& storage = state.storage_shape;
    if (state.shape == storage) {
        view.format = MOE_FORMAT_ND;
        return view;
    }
    view.storage_rank = static_cast<int32_t>(storage.size());
    std::copy_n(storage.begin(), std::min<size_t>(storage.size(), MOE_MAX_RANK), view.storage_shape);
    if (storage.size() == state.shape.size() + 2) return view;
    // Storage that is told as so many elements: the tiles of a device, if there are as many.
    moe_tensor tiles;
    int64_t needed = 0;
    const int64_t c0 = moe_nz_default_c0(view.dtype);
    int64_t have = 1;
    for (const int64_t dim : storage) have = times(have, dim);
    if (view.rank <= MOE_MAX_RANK && moe_nz_make(view.data, view.dtype, view.rank, view.shape, c0, &tiles) == MOE_OK &&
        moe_nz_element_count(view.rank, view.shape, c0, &needed) == MOE_OK && needed == have)
        return tiles;
    return view;
}

bool extent_of(const moe_tensor& view, Range* range) {
    using Wide = __int128;
    *range = {};
    const Wide size = moe_dtype_size(view.dtype);
    Wide lowest = 0, highest = 0;
    if (view.format == MOE_FORMAT_NZ || view.dtype == MOE_INT4) {
        const int32_t rank = view.format == MOE_FORMAT_NZ ? view.storage_rank : view.rank;
        const int64_t* dims = view.format == MOE_FORMAT_NZ ? view.storage_shape : view.shape;
        Wide count = 1;
        for (int32_t d = 0; d < rank; ++d) {
            count *= dims[d];
            if (count > std::numeric_limits<int64_t>::max()) return false;
        }
        if (count <= 0) return true;
        highest = view.dtype == MOE_INT4 ? (count + 1) / 2 : count * size;
    } else {
        for (int32_t d = 0; d < view.rank; ++d)
            if (view.shape[d] <= 0) return true;
        highest = size;
        for (int32_t d = 0; d < view.rank; ++d) {
            const Wide reach = static_cast<Wide>(view.shape[d] - 1) * view.stride[d];
            (reach < 0 ? lowest : highest) += reach;
        }
    }
    const Wide base = static_cast<Wide>(reinterpret_cast<uintptr_t>(view.data));
    if (base + lowest < 0 || base + highest > static_cast<Wide>(std::numeric_limits<uintptr_t>::max())) return false;
    *range = {static_cast<uintptr_t>(base + lowest), static_cast<uintptr_t>(base + highest)};
    return true;
}

void become_int4(TensorState* state, const char* by) {
    state->dtype = ACL_INT4;
    // Strides of dimensions of 1 are anything, and may wrap.
    for (size_t d = 0; d + 1 < state->shape.size(); ++d)
        state->strides[d] = static_cast<int64_t>(static_cast<uint64_t>(state->strides[d]) * 8);
    state->shape.back() *= 8;
    state->changed_by = by;
}

std::string describe(const TensorState& state) {
    std::string out = std::string(moe_dtype_name(static_cast<moe_dtype>(state.dtype))) + " (";
    for (size_t d = 0; d < state.shape.size(); ++d) out += (d == 0 ? "" : ", ") + std::to_string(state.shape[d]);
    return out + ")";
}

Status need_tensor(const void* handle, const char* argument, std::shared_ptr<Tensor>* tensor, Status null_status) {
    if (handle == nullptr) return refuse(null_status, Rule::null_argument, argument, "null", "a tensor");
    *tensor = lookup<Tensor>(handle);
    if (*tensor != nullptr) return 0;
    const Fate fate = fate_of(handle, Kind::tensor);
    return refuse(161002, Rule::tensor_destroyed, argument, fate.text, "a live tensor",
                  {&fate.made, handle, fate.number});
}

}  // namespace moe::device

using namespace moe::device;

aclTensor* aclCreateTensor(const int64_t* viewDims, uint64_t viewDimsNum, aclDataType dataType, const int64_t* stride,
                           int64_t offset, aclFormat format, const int64_t* storageDims, uint64_t storageDimsNum,
                           void* tensorData) {
    return entry(MOE_HERE, [&]() -> aclTensor* {
        if (check_dims(viewDims, viewDimsNum, "viewDims") != 0) return nullptr;
        if (check_dims(storageDims, storageDimsNum, "storageDims") != 0) return nullptr;
        TensorState state;
        state.shape.assign(viewDims, viewDims + viewDimsNum);
        state.strides = stride == nullptr ? row_major(state.shape) : std::vector<int64_t>(stride, stride + viewDimsNum);
        state.storage_shape.assign(storageDims, storageDims + storageDimsNum);
        state.offset = offset;
        state.dtype = dataType;
        state.format = format;
        state.data = tensorData;
        return static_cast<aclTensor*>(add_object(std::make_shared<Tensor>(std::move(state))));
    });
}

aclnnStatus aclInitTensor(aclTensor* tensor, const int64_t* viewDims, uint64_t viewDimsNum, aclDataType dataType,
                          const int64_t* stride, int64_t offset, aclFormat format, const int64_t* storageDims,
                          uint64_t storageDimsNum, void* tensorData) {
    return entry(MOE_HERE, [&]() -> Status {
        std::shared_ptr<Tensor> object;
        MOE_DEVICE_TRY(need_tensor(tensor, "tensor", &object));
        if (viewDims != nullptr) MOE_DEVICE_TRY(check_dims(viewDims, viewDimsNum, "viewDims"));
        if (storageDims != nullptr) MOE_DEVICE_TRY(check_dims(storageDims, storageDimsNum, "storageDims"));
        object->change([&](TensorState& state) {
            const TensorState before = state;
            if (viewDims != nullptr) state.shape.assign(viewDims, viewDims + viewDimsNum);
            const size_t rank = state.shape.size();
            state.strides = stride == nullptr || viewDims == nullptr ? row_major(state.shape)
                                                                     : std::vector<int64_t>(stride, stride + rank);
            if (storageDims != nullptr) state.storage_shape.assign(storageDims, storageDims + storageDimsNum);
            state.offset = offset;
            state.dtype = dataType;
            state.format = format;
            state.tiles = Tiles::told;
            state.changed_by = nullptr;
            if (tensorData != nullptr) state.data = tensorData;
            if (!state.is_described_as(before))
                ++state.redefinitions;
            else if (state.data != before.data)
                ++state.raw_sets;
        });
        return 0;
    });
}

aclnnStatus aclDestroyTensor(const aclTensor* tensor) {
    return entry(MOE_HERE, [&]() -> Status {
        destroy_tensor(tensor, "tensor");
        return 0;
    });
}

aclScalar* aclCreateScalar(void* value, aclDataType dataType) {
    return entry(MOE_HERE, [&]() -> aclScalar* {
        if (value == nullptr) {
            refuse(161001, Rule::null_argument, "value", "null", "the value");
            return nullptr;
        }
        auto scalar = std::make_shared<Scalar>(dataType);
        std::memcpy(scalar->value, value, std::min(sizeof scalar->value, aclDataTypeSize(dataType)));
        return static_cast<aclScalar*>(add_object(std::move(scalar)));
    });
}

aclIntArray* aclCreateIntArray(const int64_t* value, uint64_t size) {
    return entry(MOE_HERE, [&] { return static_cast<aclIntArray*>(create_array<IntArray>(value, size)); });
}
aclFloatArray* aclCreateFloatArray(const float* value, uint64_t size) {
    return entry(MOE_HERE, [&] { return static_cast<aclFloatArray*>(create_array<FloatArray>(value, size)); });
}
aclBoolArray* aclCreateBoolArray(const bool* value, uint64_t size) {
    return entry(MOE_HERE, [&] { return static_cast<aclBoolArray*>(create_array<BoolArray>(value, size)); });
}

aclTensorList* aclCreateTensorList(const aclTensor* const* value, uint64_t size) {
    return entry(MOE_HERE, [&] {
        return static_cast<aclTensorList*>(
            create_list<TensorList, Tensor>(reinterpret_cast<const void* const*>(value), size));
    });
}
aclScalarList* aclCreateScalarList(const aclScalar* const* value, uint64_t size) {
    return entry(MOE_HERE, [&] {
        return static_cast<aclScalarList*>(
            create_list<ScalarList, Scalar>(reinterpret_cast<const void* const*>(value), size));
    });
}

aclnnStatus aclDestroyScalar(const aclScalar* scalar) {
    return entry(MOE_HERE, [&] { return destroy<Scalar>(scalar, "scalar"); });
}
aclnnStatus aclDestroyIntArray(const aclIntArray* array) {
    return entry(MOE_HERE, [&] { return destroy<IntArray>(array, "array"); });
}
aclnnStatus aclDestroyFloatArray(const aclFloatArray* array) {
    return entry(MOE_HERE, [&] { return destroy<FloatArray>(array, "array"); });
}
aclnnStatus aclDestroyBoolArray(const aclBoolArray* array) {
    return entry(MOE_HERE, [&] { return destroy<BoolArray>(array, "array"); });
}

aclnnStatus aclDestroyTensorList(const aclTensorList* array) {
    return entry(MOE_HERE, [&]() -> Status {
        if (array == nullptr) return 0;
        const std::shared_ptr<TensorList> list = withdraw<TensorList>(array);
        if (list == nullptr) tell_double_destroy(array, Kind::tensor_list, "array");
        for (size_t i = 0; list != nullptr && i < list->values.size(); ++i)
            destroy_tensor(list->values[i], "element of the list");
        return 0;
    });
}
aclnnStatus aclDestroyScalarList(const aclScalarList* array) {
    return entry(MOE_HERE, [&]() -> Status {
        if (array == nullptr) return 0;
        const std::shared_ptr<ScalarList> list = withdraw<ScalarList>(array);
        if (list == nullptr) tell_double_destroy(array, Kind::scalar_list, "array");
        for (size_t i = 0; list != nullptr && i < list->values.size(); ++i)
            destroy<Scalar>(list->values[i], "element of the list");
        return 0;
    });
}

aclnnStatus aclGetViewShape(const aclTensor* tensor, int64_t** viewDims, uint64_t* viewDimsNum) {
    return entry(MOE_HERE, [&] {
        return get_dims(tensor, viewDims, viewDimsNum,
                        [](const TensorState& state) -> const std::vector<int64_t>& { return state.shape; });
    });
}
aclnnStatus aclGetStorageShape(const aclTensor* tensor, int64_t** storageDims, uint64_t* storageDimsNum) {
    return entry(MOE_HERE, [&] {
        return get_dims(tensor, storageDims, storageDimsNum,
                        [](const TensorState& state) -> const std::vector<int64_t>& { return state.storage_shape; });
    });
}
aclnnStatus aclGetViewStrides(const aclTensor* tensor, int64_t** stridesValue, uint64_t* stridesNum) {
    return entry(MOE_HERE, [&] {
        return get_dims(tensor, stridesValue, stridesNum,
                        [](const TensorState& state) -> const std::vector<int64_t>& { return state.strides; });
    });
}
aclnnStatus aclGetViewOffset(const aclTensor* tensor, int64_t* offset) {
    return entry(MOE_HERE, [&] {
        return get_value(tensor, offset, "offset", [](const TensorState& state) { return state.offset; });
    });
}
aclnnStatus aclGetFormat(const aclTensor* tensor, aclFormat* format) {
    return entry(MOE_HERE, [&] {
        return get_value(tensor, format, "format", [](const TensorState& state) { return state.format; });
    });
}
aclnnStatus aclGetDataType(const aclTensor* tensor, aclDataType* dataType) {
    return entry(MOE_HERE, [&] {
        return get_value(tensor, dataType, "dataType", [](const TensorState& state) { return state.dtype; });
    });
}

aclnnStatus aclGetIntArraySize(const aclIntArray* array, uint64_t* size) {
    return entry(MOE_HERE, [&] { return size_of<IntArray>(array, "array", size); });
}
aclnnStatus aclGetFloatArraySize(const aclFloatArray* array, uint64_t* size) {
    return entry(MOE_HERE, [&] { return size_of<FloatArray>(array, "array", size); });
}
aclnnStatus aclGetBoolArraySize(const aclBoolArray* array, uint64_t* size) {
    return entry(MOE_HERE, [&] { return size_of<BoolArray>(array, "array", size); });
}
aclnnStatus aclGetTensorListSize(const aclTensorList* tensorList, uint64_t* size) {
    return entry(MOE_HERE, [&] { return size_of<TensorList>(tensorList, "tensorList", size); });
}
aclnnStatus aclGetScalarListSize(const aclScalarList* scalarList, uint64_t* size) {
    return entry(MOE_HERE, [&] { return size_of<ScalarList>(scalarList, "scalarList", size); });
}

aclnnStatus aclSetRawTensorAddr(aclTensor* tensor, void* addr) {
    return entry(MOE_HERE, [&]() -> Status {
        std::shared_ptr<Tensor> object;
        MOE_DEVICE_TRY(need_tensor(tensor, "tensor", &object));
        object->change([&](TensorState& state) {
            state.data = addr;
            ++state.raw_sets;
        });
        return 0;
    });
}
aclnnStatus aclGetRawTensorAddr(const aclTensor* tensor, void** addr) {
    return entry(MOE_HERE,
                 [&] { return get_value(tensor, addr, "addr", [](const TensorState& state) { return state.data; }); });
}

size_t aclDataTypeSize(aclDataType dataType) {
    if (dataType == ACL_COMPLEX64) return 8;
    if (dataType == ACL_COMPLEX128) return 16;
    if (dataType == ACL_COMPLEX32) return 4;
    if (dataType >= ACL_HIFLOAT8 && dataType <= ACL_FLOAT8_E8M0) return 1;
    return static_cast<size_t>(moe_dtype_size(static_cast<moe_dtype>(dataType)));
}

float aclFloat16ToFloat(aclFloat16 value) {
    return moe::widen_f16(value);
}
aclFloat16 aclFloatToFloat16(float value) {
    return moe::narrow_f16(value);
}
