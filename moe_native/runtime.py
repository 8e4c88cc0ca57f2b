"""Threads, limits and modes of the calls of this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal

from moe_native import _core

LimitsName = Literal["none", "atlas-a2", "seed"]
_LIMITS: tuple[LimitsName, ...] = ("none", "atlas-a2", "seed")
Bf16Mode = Literal["fast", "exact", "dot"]
_BF16_MODES: tuple[Bf16Mode, ...] = ("fast", "exact", "dot")


def set_num_threads(threads: int) -> None:
    """Set the number of threads that operators use, for the whole process.

    Results do not depend on it, and no call uses more than 1024. A lower limit set through OpenMP for the calling
    thread (``threadpoolctl``) still applies.

    Parameters
    ----------
    threads : int
        At least 1, or 0 to follow OpenMP (``OMP_NUM_THREADS``), which is the default.

    Raises
    ------
    ValueError
        If `threads` is negative.

    Examples
    --------
    >>> import moe_native
    >>> moe_native.set_num_threads(1)
    >>> moe_native.get_num_threads()
    1
    >>> moe_native.set_num_threads(0)
    """
    _core.set_num_threads(threads)


def get_num_threads() -> int:
    """Return the number of threads that a call made now would use.

    Examples
    --------
    >>> import moe_native
    >>> moe_native.get_num_threads() >= 1
    True
    """
    threads: int = _core.get_num_threads()
    return threads


@contextmanager
def limits(name: LimitsName) -> Iterator[None]:
    """Enforce the documented size limits of a card on the calls of this thread, within a ``with`` block.

    The CPU takes any size. A program that is meant for a card finds out here what the card would refuse. The
    environment variable ``MOE_NATIVE_LIMITS`` sets the default of the process.

    Parameters
    ----------
    name : {"none", "atlas-a2", "seed"}
        ``"atlas-a2"``: the documented ranges of Atlas A2. ``"seed"``: the narrower ranges of the first documents of
        the operators.

    Raises
    ------
    ValueError
        If `name` is none of these; in the block, operators raise it for sizes outside the limits.

    Examples
    --------
    >>> import moe_native
    >>> with moe_native.limits("atlas-a2"):
    ...     pass  # calls of operators
    """
    if name not in _LIMITS:
        raise ValueError(f"limits: name: {name!r}, needed one of {', '.join(map(repr, _LIMITS))}")
    previous = _core.set_limits(_LIMITS.index(name))
    try:
        yield
    finally:
        _core.set_limits(previous)


class bf16_mode:
    """Choose how products of bfloat16 with bfloat16 are computed in the calls of this thread.

    The mode is set by the call; in a ``with`` statement it ends with the block. It concerns `npu_ffn` with bfloat16
    weights. The environment variable ``MOE_NATIVE_BF16`` sets the mode of threads that choose none.

    Parameters
    ----------
    mode : {"fast", "exact", "dot"}
        ``"exact"``: every product and sum in float32, the same bits on every instruction set with FMA. ``"dot"``: the
        bfloat16 dot instruction wherever the processor has one; it adds products two by two and takes subnormal
        operands and sums for zero. ``"fast"``, the default: the dot instruction where it is the faster one of the two.

    Raises
    ------
    ValueError
        If `mode` is none of these.

    Examples
    --------
    >>> import moe_native
    >>> with moe_native.bf16_mode("exact"):
    ...     pass  # calls of npu_ffn
    """

    def __init__(self, mode: Bf16Mode) -> None:
        if mode not in _BF16_MODES:
            raise ValueError(f"bf16_mode: mode: {mode!r}, needed one of {', '.join(map(repr, _BF16_MODES))}")
        self._previous: int = _core.set_bf16_mode(_BF16_MODES.index(mode))

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _core.set_bf16_mode(self._previous)
