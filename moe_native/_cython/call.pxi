# One call of an operator: arguments become tensor views, outputs are checked or allocated, the core is run.

import sys
import threading

import ml_dtypes
import numpy as np

cimport cython
cimport numpy as cnp
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.string cimport memset

cnp.import_array()

cdef int bfloat16_type_number = np.dtype(ml_dtypes.bfloat16).num

ctypedef moe_status (*plan_function)(const void*, moe_plan*) noexcept nogil
ctypedef moe_status (*run_function)(
    const void*, const moe_plan*, void*, uint64_t, const moe_run_options*) noexcept nogil


cdef moe_dtype dtype_of(cnp.ndarray array):
    """The core's number of an array's dtype, MOE_UNDEFINED if it has none (big-endian ones have none)."""
    cdef int number = cnp.PyArray_TYPE(array)
    if not cnp.PyArray_ISNOTSWAPPED(array):
        return MOE_UNDEFINED
    if number == bfloat16_type_number:
        return MOE_BFLOAT16
    if number == cnp.NPY_FLOAT32:
        return MOE_FLOAT32
    if number == cnp.NPY_FLOAT16:
        return MOE_FLOAT16
    if number == cnp.NPY_INT8:
        return MOE_INT8
    if number == cnp.NPY_INT32:
        return MOE_INT32
    if number == cnp.NPY_INT64 or number == cnp.NPY_LONGLONG:
        return MOE_INT64
    if number == cnp.NPY_BOOL:
        return MOE_BOOL
    if number == cnp.NPY_UINT8:
        return MOE_UINT8
    if number == cnp.NPY_INT16:
        return MOE_INT16
    if number == cnp.NPY_UINT16:
        return MOE_UINT16
    if number == cnp.NPY_UINT32:
        return MOE_UINT32
    if number == cnp.NPY_UINT64 or number == cnp.NPY_ULONGLONG:
        return MOE_UINT64
    if number == cnp.NPY_FLOAT64:
        return MOE_FLOAT64
    return MOE_UNDEFINED


cdef int type_number_of(moe_dtype dtype):
    if dtype == MOE_BFLOAT16:
        return bfloat16_type_number
    if dtype == MOE_FLOAT32:
        return cnp.NPY_FLOAT32
    if dtype == MOE_FLOAT16:
        return cnp.NPY_FLOAT16
    if dtype == MOE_INT8:
        return cnp.NPY_INT8
    if dtype == MOE_INT32:
        return cnp.NPY_INT32
    if dtype == MOE_INT64:
        return cnp.NPY_INT64
    if dtype == MOE_BOOL:
        return cnp.NPY_BOOL
    if dtype == MOE_UINT8:
        return cnp.NPY_UINT8
    if dtype == MOE_INT16:
        return cnp.NPY_INT16
    if dtype == MOE_UINT16:
        return cnp.NPY_UINT16
    if dtype == MOE_UINT32:
        return cnp.NPY_UINT32
    if dtype == MOE_UINT64:
        return cnp.NPY_UINT64
    return cnp.NPY_FLOAT64


def as_array(value):
    """`value` as an ndarray without a copy, or None when it is no array.

    Takes ndarrays, CPU torch tensors (bfloat16 too, which NumPy refuses: its bits are reinterpreted), and objects with
    ``__array_interface__`` or ``__dlpack__``.
    """
    if cnp.PyArray_Check(value):
        return value
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach()
        if value.dtype is torch.bfloat16:
            return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return value.numpy()
    if hasattr(value, "__array_interface__"):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    return None


cdef void bounds(cnp.ndarray array, char** first, char** end):
    """The bytes between which an array's elements lie; none if it has no elements."""
    cdef int d
    cdef cnp.npy_intp reach
    first[0] = <char*>cnp.PyArray_DATA(array)
    end[0] = first[0]
    if cnp.PyArray_SIZE(array) == 0:
        return
    end[0] += cnp.PyArray_ITEMSIZE(array)
    for d in range(cnp.PyArray_NDIM(array)):
        reach = (cnp.PyArray_DIM(array, d) - 1) * cnp.PyArray_STRIDE(array, d)
        if reach < 0:
            first[0] += reach
        else:
            end[0] += reach


# Set by moe_native.layout and moe_native.packed, which stand above this layer.
cdef object nz_array_class = ()
cdef object packed_weight_class = ()


def set_nz_array_class(cls):
    global nz_array_class
    nz_array_class = cls


def set_packed_weight_class(cls):
    global packed_weight_class
    packed_weight_class = cls


cdef class Scratch:
    """Memory that grows with the largest workspace a thread has needed."""

    cdef void* memory
    cdef uint64_t size

    def __dealloc__(self):
        PyMem_RawFree(self.memory)

    cdef void* at_least(self, uint64_t size) except? NULL:
        if size > self.size:
            PyMem_RawFree(self.memory)
            self.size = 0
            self.memory = PyMem_RawMalloc(size)
            if self.memory == NULL:
                raise MemoryError(f"workspace of {size} bytes")
            self.size = size
        return self.memory


cdef object scratch_of_thread = threading.local()

# A larger workspace, as a copy of a large strided input needs, is returned to the system after the call.
cdef uint64_t largest_kept_scratch = 64 << 20


# How many calls of `watched` are under way, in any thread: while there is none, plans are not looked at.
cdef int watchers = 0


cdef int keep_plan(str op, const moe_plan* plan) except -1:
    cdef int i
    plans = getattr(scratch_of_thread, "plans", None)
    if plans is not None:
        pieces = tuple([(plan.pieces[i].name.decode(), plan.pieces[i].size) for i in range(plan.piece_count)])
        plans.append((op, plan.threads, plan.workspace_size, pieces))
    return 0


# Set by moe_native.backend while some call may be computed elsewhere or is recorded, else None. Says of an operator
# what computes it and what records it, each a function of its name, arguments and outputs, or None.
cdef object dispatcher = None


def set_dispatcher(function):
    global dispatcher
    dispatcher = function


cdef enum:
    MAX_TENSORS = 24


# The free list spares the allocator five kilobytes in every call.
@cython.freelist(4)
cdef class Call:
    cdef str op
    cdef int count
    cdef moe_tensor[MAX_TENSORS] tensors
    # Of the inputs, then of the outputs.
    cdef list names
    cdef list inputs
    cdef list outputs
    # What the dispatcher says, and the arguments by name as far as they were read; None when it says nothing.
    cdef object elsewhere
    cdef object recorder
    cdef dict arguments

    def __init__(self, str op):
        self.op = op
        self.names = []
        self.inputs = []
        self.outputs = []
        if dispatcher is not None:
            self.elsewhere, self.recorder = dispatcher(op)
            if self.elsewhere is not None or self.recorder is not None:
                self.arguments = {}

    cdef int note(self, str name, object value) except -1:
        """Keeps an argument for those who compute elsewhere or record."""
        if self.arguments is not None:
            self.arguments[name] = value
        return 0

    cdef moe_tensor* view(self, str name, cnp.ndarray array) except NULL:
        """The next tensor view, over an array that the caller keeps alive."""
        cdef moe_dtype dtype = dtype_of(array)
        cdef int rank = cnp.PyArray_NDIM(array)
        cdef int d
        if dtype == MOE_UNDEFINED:
            raise TypeError(f"{self.op}: {name}: dtype {array.dtype}, which no operator of this library takes")
        if rank > MOE_MAX_RANK:
            raise ValueError(f"{self.op}: {name}: {rank} dimensions, needed at most {MOE_MAX_RANK}")
        cdef moe_tensor* tensor = &self.tensors[self.count]
        self.count += 1
        tensor.data = cnp.PyArray_DATA(array)
        tensor.dtype = dtype
        tensor.format = MOE_FORMAT_ND
        tensor.rank = rank
        tensor.storage_rank = 0
        for d in range(rank):
            tensor.shape[d] = cnp.PyArray_DIM(array, d)
            tensor.stride[d] = cnp.PyArray_STRIDE(array, d)
        return tensor

    cdef int keep(self, list arrays, str name, cnp.ndarray array) except -1:
        """Keeps the array of a tensor view alive until the call is over."""
        self.names.append(name)
        arrays.append(array)
        return 0

    cdef moe_tensor* input(self, str name, object value) except? NULL:
        """An array argument; None is absent (null)."""
        if value is None:
            return NULL
        array = as_array(value)
        if array is None:
            raise TypeError(f"{self.op}: {name}: {type(value).__name__}, needed an array")
        self.keep(self.inputs, name, array)
        self.note(name, array)
        return self.view(name, array)

    cdef moe_tensor* nz_view(self, str name, cnp.ndarray storage, object shape) except NULL:
        """The next tensor view, of a FRACTAL_NZ matrix of a logical shape; the core checks that shape."""
        cdef moe_tensor* tensor = self.view(name, storage)
        cdef int d
        if not cnp.PyArray_ISCARRAY_RO(storage):
            raise ValueError(f"{self.op}: {name}: storage in FRACTAL_NZ must be C-contiguous and aligned")
        if len(shape) > MOE_MAX_RANK:
            raise ValueError(f"{self.op}: {name}: {len(shape)} dimensions, needed at most {MOE_MAX_RANK}")
        tensor.format = MOE_FORMAT_NZ
        tensor.storage_rank = tensor.rank
        for d in range(tensor.rank):
            tensor.storage_shape[d] = tensor.shape[d]
        tensor.rank = len(shape)
        for d in range(tensor.rank):
            tensor.shape[d] = shape[d]
        return tensor

    cdef moe_tensor* packed_view(self, str name, cnp.ndarray array) except NULL:
        """The next tensor view, of a packed weight: the core reads and checks its header."""
        cdef moe_tensor* tensor = &self.tensors[self.count]
        fail_if(moe_packed_view(cnp.PyArray_DATA(array), cnp.PyArray_NBYTES(array), tensor))
        self.count += 1
        self.keep(self.inputs, name, array)
        return tensor

    cdef moe_tensor* weight(self, str name, object value) except? NULL:
        """An array argument that may be a PackedWeight; None is absent (null)."""
        if not isinstance(value, packed_weight_class):
            return self.input(name, value)
        self.note(name, value)
        return self.packed_view(name, value.array)

    cdef moe_tensor* matrix(self, str name, object value) except? NULL:
        """An array argument that may be an NzArray or a PackedWeight; None is absent (null)."""
        if not isinstance(value, nz_array_class):
            return self.weight(name, value)
        storage = value.storage
        self.note(name, value)
        self.keep(self.inputs, name, storage)
        return self.nz_view(name, storage, value.shape)

    cdef tuple results(self, object out, int count):
        """The `out` argument of an operator with several results, as a tuple of that many arrays or None."""
        if out is None:
            return (None,) * count
        if not isinstance(out, tuple):
            raise TypeError(f"{self.op}: out: {type(out).__name__}, needed None or a tuple of {count}")
        if len(out) != count:
            raise ValueError(f"{self.op}: out: {len(out)} entries, needed {count}")
        return out

    cdef moe_tensor* output(self, str name, object out, const moe_tensor* needed) except NULL:
        """A result: allocated when `out` is None, else checked to be exactly what is needed."""
        cdef cnp.npy_intp[8] dims
        cdef int d
        cdef cnp.ndarray array
        for d in range(needed.rank):
            dims[d] = needed.shape[d]
        if out is None:
            try:
                array = cnp.PyArray_EMPTY(needed.rank, dims, type_number_of(needed.dtype), 0)
            except ValueError:
                shape = tuple([dims[d] for d in range(needed.rank)])
                raise ValueError(
                    f"{self.op}: {name}: {moe_dtype_name(needed.dtype).decode()} {shape}, which is more than an array "
                    "can hold"
                ) from None
        else:
            if not cnp.PyArray_Check(out):
                raise TypeError(f"{self.op}: out: {type(out).__name__} for {name}, needed a NumPy array")
            array = out
            if (
                dtype_of(array) != needed.dtype
                or cnp.PyArray_NDIM(array) != needed.rank
                or not cnp.PyArray_CompareLists(cnp.PyArray_DIMS(array), dims, needed.rank)
            ):
                shape = tuple([dims[d] for d in range(needed.rank)])
                raise ValueError(
                    f"{self.op}: out: {array.dtype} {out.shape} for {name}, "
                    f"needed {moe_dtype_name(needed.dtype).decode()} {shape}"
                )
            if not cnp.PyArray_ISCARRAY(array):
                raise ValueError(f"{self.op}: out: the array for {name} must be C-contiguous, aligned and writeable")
        self.keep(self.outputs, name, array)
        return self.view(name, array)

    cdef object array_of(self, int index):
        return self.outputs[index]

    cdef tuple arrays(self):
        return tuple(self.outputs)

    cdef int refuse_overlap(self) except -1:
        cdef list arrays = self.inputs + self.outputs
        cdef Py_ssize_t input_count = len(self.inputs)
        cdef Py_ssize_t count = len(arrays)
        cdef Py_ssize_t i, j
        cdef char* first[MAX_TENSORS]
        cdef char* end[MAX_TENSORS]
        for i in range(count):
            bounds(arrays[i], &first[i], &end[i])
        for i in range(input_count, count):
            for j in range(count):
                if input_count <= j <= i or first[i] >= end[j] or first[j] >= end[i]:
                    continue
                # Only asked of arrays in the same memory: it takes long.
                if np.shares_memory(arrays[i], arrays[j]):
                    raise ValueError(f"{self.op}: out: the array for {self.names[i]} overlaps {self.names[j]}")
        return 0

    cdef int hand_over(self) except -1:
        """The call to those who compute elsewhere or record."""
        outputs = dict(zip(self.names[len(self.inputs):], self.outputs, strict=True))
        if self.elsewhere is not None:
            self.elsewhere(self.op, self.arguments, outputs)
        if self.recorder is not None:
            self.recorder(self.op, self.arguments, outputs)
        return 0

    cdef int run(self, plan_function plan_it, run_function run_it, const void* args, bint own_outputs) except -1:
        """Plans and runs. `own_outputs`: all outputs are new arrays, which overlap nothing.

        A call that is computed elsewhere is checked here all the same, its data too.
        """
        cdef moe_plan plan
        cdef moe_run_options options
        cdef void* memory = NULL
        cdef moe_status status
        cdef Scratch scratch
        if not own_outputs:
            self.refuse_overlap()
        if plan_it(args, &plan) != 0:
            raise_last_error()
        if watchers > 0:
            keep_plan(self.op, &plan)
        if plan.workspace_size > 0:
            scratch = getattr(scratch_of_thread, "scratch", None)
            if scratch is None or plan.workspace_size > largest_kept_scratch:
                scratch = Scratch()
                if plan.workspace_size <= largest_kept_scratch:
                    scratch_of_thread.scratch = scratch
            memory = scratch.at_least(plan.workspace_size)
        memset(&options, 0, sizeof(options))
        options.data_policy = MOE_DATA_REJECT if self.elsewhere is None else MOE_DATA_CHECK
        options.undefined_policy = MOE_UNDEFINED_ZERO
        with nogil:
            status = run_it(args, &plan, memory, plan.workspace_size, &options)
        if status != 0:
            raise_last_error()
        if self.arguments is not None:
            self.hand_over()
        return 0

    cdef int64_t integer(self, str name, object value) except? -1:
        cdef int overflow = 0
        cdef int64_t small
        # What nearly every call passes.
        if type(value) is int:
            small = PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow == 0:
                self.note(name, value)
                return small
        if isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{self.op}: {name}: {value!r}, needed an int")
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"{self.op}: {name}: {type(value).__name__}, needed an int") from None
        if not -(1 << 63) <= number < 1 << 63:
            raise ValueError(f"{self.op}: {name}: {number}, which does not fit 64 bits")
        self.note(name, number)
        return number

    cdef cbool boolean(self, str name, object value) except? False:
        self.note(name, value)
        if value is True or value is False:
            return value is True
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{self.op}: {name}: {type(value).__name__}, needed a bool")
        return value

    cdef double real(self, str name, object value) except? -1.0:
        self.note(name, value)
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"{self.op}: {name}: {type(value).__name__}, needed a float")
        try:
            return value
        except OverflowError:
            raise ValueError(f"{self.op}: {name}: an int beyond the range of a float") from None


cdef int fail_if(moe_status status) except -1:
    return raise_last_error() if status != 0 else 0
