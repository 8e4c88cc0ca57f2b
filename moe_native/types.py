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
