"""Threads, instruction sets, limits and modes of the calls of this process."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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


class _IsaLimit(AbstractContextManager[None]):
    """A limit that is in force already, and ends with its ``with`` block if it has one."""

    def __init__(self, name: str | None) -> None:
        self._previous: str = _core.get_isa_limit()
        _core.set_isa_limit(name)

    def __exit__(self, *exception: object) -> None:
        _core.set_isa_limit(self._previous)


def isa_limit(name: str | None) -> AbstractContextManager[None]:
    """Restrict the kernels of this process to an instruction set and what lies below it.

    Takes effect at once and stays; as a context manager it ends with the ``with`` block. Results do not depend on it,
    except those of `npu_ffn` with floating weights. The environment variable ``MOE_NATIVE_ISA`` sets a limit for the
    whole process.

    Parameters
    ----------
    name : {"baseline", "avx2", "avx512", "avx512vnni", "avx512bf16"} or {"baseline", "neon", "dotprod", "i8mm"} or None
        On x86-64 and on aarch64. None: whatever the processor has.

    Returns
    -------
    context manager
        Its end restores the limit that was in force before.

    Raises
    ------
    RuntimeError
        A name that is unknown, or of an instruction set that this processor lacks.

    Examples
    --------
    >>> import moe_native
    >>> with moe_native.isa_limit("baseline"):
    ...     moe_native.get_isa_limit()
    'baseline'
    """
    return _IsaLimit(name)


def get_isa_limit() -> str:
    """Return the highest instruction set that kernels may use now.

    Examples
    --------
    >>> import moe_native
    >>> with moe_native.isa_limit("baseline"):
    ...     moe_native.get_isa_limit()
    'baseline'
    """
    name: str = _core.get_isa_limit()
    return name


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


class _Bf16Mode(AbstractContextManager[None]):
    """A mode that is in force already, and ends with its ``with`` block if it has one."""

    def __init__(self, mode: Bf16Mode) -> None:
        self._previous: int = _core.set_bf16_mode(_BF16_MODES.index(mode))

    def __exit__(self, *exception: object) -> None:
        _core.set_bf16_mode(self._previous)


def bf16_mode(mode: Bf16Mode) -> AbstractContextManager[None]:
    """Choose how products of bfloat16 with bfloat16 are computed in the calls of this thread.

    Takes effect at once and stays; as a context manager it ends with the ``with`` block. It concerns `npu_ffn` with
    bfloat16 weights. The environment variable ``MOE_NATIVE_BF16`` sets the mode of threads that choose none.

    Parameters
    ----------
    mode : {"fast", "exact", "dot"}
        ``"exact"``: every product and sum in float32, the same bits on every instruction set with FMA. ``"dot"``: the
        bfloat16 dot instruction wherever the processor has one; it adds products two by two and takes subnormal
        operands and sums for zero. ``"fast"``, the default: the dot instruction where it is the faster one of the two.

    Returns
    -------
    context manager
        Its end restores the mode that was in force before.

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
    if mode not in _BF16_MODES:
        raise ValueError(f"bf16_mode: mode: {mode!r}, needed one of {', '.join(map(repr, _BF16_MODES))}")
    return _Bf16Mode(mode)
