"""The backend ``"acl"``: operators on a device, through ``acl_binding``."""

import os
import threading
from typing import Any, Literal

import numpy as np

import acl_binding
from acl_binding import AclInvalidArgumentError, AclMissingError
from moe_native import backend, forms
from moe_native.forms import Arguments, Form, Inexpressible, Out
from moe_native.layout import NzArray
from moe_native.types import Array

_INVALID = 161002


class AclInexpressibleError(AclInvalidArgumentError):
    """The aclnn interface has no form for an argument that the facade takes. No function was called."""

    def __str__(self) -> str:
        return f"{self.call}: {self.message}"


class AclBackend:
    """A device of a toolkit.

    Parameters
    ----------
    home : path or None
        The toolkit; None for what ``acl_binding.open`` finds.
    number : int
        Which of its devices.

    Raises
    ------
    acl_binding.AclError
        No toolkit or device.
    """

    name: Literal["acl"] = "acl"

    def __init__(self, home: str | os.PathLike[str] | None, number: int) -> None:
        self.library = acl_binding.open(home=home)
        self._device = self.library.device(number).open()
        self.is_cpu = self.library.cpu is not None
        # Those whose parameters are others than the binding passes: calling them would be worse than not having them.
        self._different = {
            report.operator.name: report
            for report in acl_binding.check(self.library).operators
            if report.signature == "different"
        }
        self._of_thread = threading.local()

    def compute(self, op: str, arguments: dict[str, Any], outputs: dict[str, Array]) -> None:
        """Write the results of a call into `outputs`, or raise and leave them alone."""
        with backend.inside():
            given = Arguments(
                (name, value.item() if isinstance(value, np.generic) else value) for name, value in arguments.items()
            )
            try:
                candidates = list(forms.FORMS[op](given, outputs))
            except Inexpressible as error:
                raise AclInexpressibleError(error.entry, _INVALID, f"{op}: {error}") from None
            results = self._run(candidates)
            for array in outputs.values():
                if id(array) in results:
                    np.copyto(array, results[id(array)], casting="same_kind")
                else:
                    array[...] = 0
            forms.clear_undefined(op, given, outputs)

    def _run(self, candidates: list[Form]) -> dict[int, Array]:
        """Make the call in the first form that the library has; its results, by the identity of their arrays."""
        first: AclMissingError | None = None
        for form in candidates:
            try:
                return self._run_form(form)
            except AclMissingError as error:
                first = first or error
        assert first is not None
        raise first

    def _run_form(self, form: Form) -> dict[int, Array]:
        if form.name in self._different:
            raise AclMissingError(form.name, f"{self._different[form.name]}, needed the signature that is known")
        self.library.phases(acl_binding.operators()[form.name])  # before anything is copied
        tensors = [(value, self._tensor(value)) for value in form.arguments]
        call = self._device.prepare(form.name, *[tensor for _, tensor in tensors])
        stream = self._stream()
        call.run(stream)
        stream.synchronize()
        return {
            id(value.array): tensor.numpy() if value.shape is None else tensor.storage()
            for value, tensor in tensors
            if isinstance(value, Out)
        }

    def _tensor(self, value: Any) -> Any:
        """An argument of a form as one of the binding."""
        if isinstance(value, Out):
            dtype = value.array.dtype if value.dtype is None else value.dtype
            # What stays undefined is read back all the same.
            if value.shape is None:
                return self._device.zeros(value.array.shape, dtype)
            return self._device.zeros(value.shape, dtype, format="NZ", storage_shape=value.array.shape)
        if isinstance(value, NzArray):
            return self._device.tensor(value.storage, shape=value.shape, format="NZ")
        return self._device.tensor(value) if isinstance(value, np.ndarray) else value

    def _stream(self) -> acl_binding.Stream:
        """The stream of this thread."""
        if not hasattr(self._of_thread, "stream"):
            self._of_thread.stream = self._device.stream()
        stream: acl_binding.Stream = self._of_thread.stream
        return stream
