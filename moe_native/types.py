"""Types of the facade's arguments."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class SupportsDLPack(Protocol):
    """An object that lends its memory through DLPack, such as a CPU ``torch.Tensor``."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[Any, int]: ...


class SupportsArrayInterface(Protocol):
    """An object that lends its memory through ``__array_interface__``."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


ArrayLike = np.ndarray[Any, Any] | SupportsDLPack | SupportsArrayInterface
"""What is accepted where an array is expected. Sequences are not: their dtype would be a guess."""

Array = npt.NDArray[Any]
"""What operators return."""


def as_dtype(value: Any) -> np.dtype[Any] | None:
    """Return the NumPy dtype that `value` stands for, or None. Dtypes of torch, such as ``torch.int8``, stand for one.

    Examples
    --------
    >>> from moe_native.types import as_dtype
    >>> as_dtype("float16"), as_dtype(object())
    (dtype('float16'), None)
    """
    name = str(value)  # "torch.bfloat16"; "bfloat16" is a name that ml_dtypes has given NumPy
    try:
        return np.dtype(name.removeprefix("torch.") if name.startswith("torch.") else value)
    except (TypeError, ValueError, SyntaxError):  # what NumPy raises, by what it cannot make a dtype of
        return None
