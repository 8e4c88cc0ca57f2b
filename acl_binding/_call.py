"""Calls of operators: arguments, the two phases, executors."""

import operator as python_operator
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from acl_binding._cdef import ffi
from acl_binding._layout import NZ
from acl_binding._resources import Resource, need
from acl_binding._signatures import PHASE_1, Operator, Parameter, operators
from acl_binding._stream import Stream
from acl_binding._tensor import Buffer, Tensor
from acl_binding.errors import AclMissingError

if TYPE_CHECKING:
    from acl_binding._device import Device


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _check_range(operator: Operator, parameter: Parameter, values: Sequence[int]) -> None:
    for value in values:
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{operator.name}: {parameter.short_name} is {value}, needed a number of 64 bits")


def _convert(operator: Operator, parameter: Parameter, value: Any, device: "Device") -> Any:
    """Return what the parameter's C type is made from; raise a TypeError for anything else."""
    needed = ""
    match parameter.type:
        case "const aclTensor*" | "aclTensor*":
            if value is None or isinstance(value, Tensor):
                if value is not None and value.device is not device:
                    raise ValueError(f"{operator.name}: {parameter.short_name} is a tensor of another device")
                return value
            needed = "a Tensor or None"
        case "const aclIntArray*":
            if value is None:
                return None
            if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes)):
                numbers = list(value)
                if all(_is_integer(number) for number in numbers):
                    converted = [python_operator.index(number) for number in numbers]
                    _check_range(operator, parameter, converted)
                    return converted
            needed = "a sequence of int or None"
        case "int64_t":
            if _is_integer(value):
                number = python_operator.index(value)
                _check_range(operator, parameter, [number])
                return number
            needed = "an int"
        case "bool":
            if isinstance(value, (bool, np.bool_)):
                return bool(value)
            needed = "a bool"
        case "float" | "double":
            if _is_integer(value) or isinstance(value, (float, np.floating)):
                return float(value)
            needed = "a float"
        case "const char*":
            if isinstance(value, str):
                if "\0" in value:
                    raise ValueError(f"{operator.name}: {parameter.short_name} is {value!r}, needed no null in it")
                return value.encode()
            needed = "a str"
    raise TypeError(f"{operator.name}: {parameter.short_name} is {_kind(value)}, needed {needed}, in {operator}")


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def bind(operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return a value for every parameter, in their order.

    Examples
    --------
    >>> import acl_binding as acl
    >>> from acl_binding._call import bind
    >>> bind(acl.operators()["aclnnDynamicQuant"], ["x"], {"y_out": "y", "scale_out": "s"})
    ['x', None, 'y', 's']
    """
    parameters = operator.parameters
    if len(args) > len(parameters):
        raise TypeError(f"{operator.name}: {len(args)} arguments, needed {len(parameters)}, in {operator}")
    given = dict(zip((p.short_name for p in parameters), args, strict=False))
    names = {name: p.short_name for p in parameters for name in (p.python_name, p.short_name)}
    for name, value in kwargs.items():
        if name not in names:
            raise TypeError(f"{operator.name}: there is no parameter {name}, in {operator}")
        if names[name] in given:
            raise TypeError(f"{operator.name}: {names[name]} is given twice, in {operator}")
        given[names[name]] = value
    missing = [p.short_name for p in parameters if p.short_name not in given and not p.is_optional]
    if missing:
        raise TypeError(f"{operator.name}: {', '.join(missing)} missing, in {operator}")
    return [given.get(p.short_name) for p in parameters]


class Call:
    """An operator after its first phase. :meth:`Device.prepare` makes one.

    A call runs once; after :meth:`repeatable` it runs any number of times, and is destroyed at last. It keeps its
    tensors, and every stream that it runs on keeps their memory until the work is done.

    Attributes
    ----------
    operator : Operator
        The operator with its parameters.
    workspace_size : int
        Bytes of device memory that the second phase needs.
    """

    def __init__(self, device: "Device", api_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        operator = operators().get(api_name)
        if operator is None:
            raise AclMissingError(
                api_name, f"{api_name} is no operator that acl_binding declares, needed one of {', '.join(operators())}"
            )
        values = [
            _convert(operator, parameter, value, device)
            for parameter, value in zip(operator.parameters, bind(operator, args, kwargs), strict=True)
        ]
        self.device = device
        self.operator = operator
        self._first, self._second = device.library.phases(operator)
        self._tensors: dict[str, Tensor] = {}
        self._handles: dict[str, Any] = {}
        self._resources: list[Resource] = []
        self._executor: Any = None
        self._repeatable = False
        device.resources.collect()
        try:
            self._prepare(values)
        except BaseException:
            self.destroy()
            raise

    # --- Phase 1 ------------------------------------------------------------------------------------------------------

    def _prepare(self, values: list[Any]) -> None:
        arguments = [self._argument(*pair) for pair in zip(self.operator.parameters, values, strict=True)]
        size, executor = ffi.new("uint64_t *"), ffi.new("aclOpExecutor **")
        self.device.check(self.operator.name + PHASE_1, self._first, *arguments, size, executor)
        self.workspace_size = int(size[0])
        self._executor = executor[0]
        self._resources.append(self.device.resources.add("aclDestroyAclOpExecutor", self._executor))

    def _argument(self, parameter: Parameter, value: Any) -> Any:
        """Make the C value; handles are destroyed with the call."""
        if value is None:
            return ffi.NULL
        if isinstance(value, Tensor):
            # A tensor in two places is one to the toolkit as well.
            same = [name for name, tensor in self._tensors.items() if tensor is value]
            if same:
                handle = self._handles[same[0]]
            else:
                handle = value.make_handle()
                self._resources.append(self.device.resources.add("aclDestroyTensor", handle))
            self._tensors[parameter.short_name] = value
            self._handles[parameter.short_name] = handle
            return handle
        if isinstance(value, list):
            handle = self.device.made("aclCreateIntArray", ffi.new("int64_t[]", value), len(value))
            self._resources.append(self.device.resources.add("aclDestroyIntArray", handle))
            return handle
        return value

    def repeatable(self) -> Self:
        """Let the call run any number of times; only before its first run.

        Examples
        --------
        >>> import numpy as np
        >>> import acl_binding as acl
        >>> with acl.open().device() as device, device.stream() as stream:
        ...     x, out = device.tensor(np.array([0, 0, 2], np.int32)), device.empty((3,), "int32")
        ...     with device.prepare("aclnnMoeComputeExpertTokens", x, 3, out).repeatable() as call:
        ...         call.run(stream)
        ...         call.set_input("sorted_experts", device.tensor(np.array([1, 1, 1], np.int32)))
        ...         call.run(stream)
        ...     stream.synchronize()
        ...     out.numpy()
        array([0, 3, 3], dtype=int32)
        """
        self._need_executor()
        self.device.invoke("aclSetAclOpExecutorRepeatable", self._executor)
        self._repeatable = True
        return self

    def set_input(self, which: int | str, tensor: Tensor) -> None:
        """Let later runs read another tensor of the same shape and data type.

        Parameters
        ----------
        which : int or str
            The name of the parameter, or its index among the inputs.
        tensor : Tensor
            What takes the place of the tensor of phase 1.
        """
        self._set("aclSetInputTensorAddr", which, tensor, outputs=False)

    def set_output(self, which: int | str, tensor: Tensor) -> None:
        """Let later runs write another tensor of the same shape and data type; as :meth:`set_input`."""
        self._set("aclSetOutputTensorAddr", which, tensor, outputs=True)

    def _set(self, function: str, which: int | str, tensor: Tensor, outputs: bool) -> None:
        self._need_executor()
        index, parameter = self.operator.position(which, outputs)
        name = parameter.short_name
        need(Tensor, f"{self.operator.name}: {name}", tensor)
        if name not in self._tensors:
            raise ValueError(f"{self.operator.name}: {name} was None in phase 1, needed a tensor to take the place of")
        if not tensor.is_like(self._tensors[name]):
            raise ValueError(f"{self.operator.name}: {name} is {tensor}, needed one like {self._tensors[name]}")
        self.device.invoke(function, self._executor, index, self._handles[name], tensor.buffer.address)
        self._tensors[name] = tensor

    # --- Phase 2 ------------------------------------------------------------------------------------------------------

    def run(self, stream: Stream | None = None, workspace: Buffer | Tensor | None = None) -> None:
        """Queue the work.

        Parameters
        ----------
        stream : Stream, optional
            Where; without one, on the default stream of the device.
        workspace : Buffer or Tensor, optional
            Memory of at least `workspace_size` bytes; without it, memory that the stream keeps for its launches.
        """
        self._need_executor()
        stream = self.device.default_stream if stream is None else stream
        need(Stream, f"{self.operator.name}: stream", stream)
        if stream.device is not self.device:
            raise ValueError(f"{self.operator.name}: stream is of another device")
        if workspace is None:
            memory = stream.scratch(self.workspace_size) if self.workspace_size > 0 else Buffer(self.device, 0)
        else:
            memory = workspace.buffer if isinstance(workspace, Tensor) else workspace
            need(Buffer, f"{self.operator.name}: workspace", memory)
            if memory.device is not self.device:
                raise ValueError(f"{self.operator.name}: workspace is of another device")
        try:
            self.device.check(
                self.operator.name, self._second, memory.address, memory.nbytes, self._executor, stream.handle
            )
            self._take_formats()
        finally:
            # After the launch: a synchronisation of another thread in between knows nothing of it.
            stream.keep([memory, *(tensor.buffer for tensor in self._tensors.values())])
            if not self._repeatable:
                self._spend()

    def _take_formats(self) -> None:
        """Describe tensors anew that the work turns into FRACTAL_NZ."""
        for parameter in self.operator.parameters:
            if parameter.type != "aclTensor*" or parameter.short_name not in self._tensors:
                continue
            tensor = self._tensors[parameter.short_name]
            if tensor.format != NZ:
                number = ffi.new("aclFormat *")
                self.device.invoke("aclGetFormat", self._handles[parameter.short_name], number)
                if number[0] == NZ:
                    tensor.become_nz()

    def _need_executor(self) -> None:
        if self._executor is None:
            raise RuntimeError(
                f"{self.operator.name}: the executor is gone; one that runs several times has to be made repeatable "
                "before, and may not be destroyed"
            )

    def _spend(self) -> None:
        # Phase 2 has ended the executor.
        self._resources.pop().forget()
        self._executor = None
        self.destroy()

    # --- End ----------------------------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """Destroy the executor, and what phase 1 was called with; later calls do nothing. The tensors stay."""
        self._executor = None
        while self._resources:
            self._resources.pop().release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.destroy()

    def __repr__(self) -> str:
        return f"Call({self.operator.name}, {'spent' if self._executor is None else 'prepared'})"
