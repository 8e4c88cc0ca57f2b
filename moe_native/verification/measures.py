"""How far two results are apart, by the measures that Ascend operators are accepted by, and how far they may be.

Integers and copies are equal. Codes of a quantisation differ by one at most. Floating results pass when few elements
are off absolutely, or few are off relatively: more than a precision p, which depends on their dtype, and few being a
share of p of them. So a value near zero is not held to a relative error, nor a large one to an absolute error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from moe_native.types import Array

_FLOAT16, _BFLOAT16, _FLOAT32 = (np.dtype(dtype) for dtype in (np.float16, ml_dtypes.bfloat16, np.float32))

# Those of the operators' own tests. They have none for bfloat16, where a unit in the last place is 2**-7.
_PRECISION = {_FLOAT16: 1e-3, _BFLOAT16: 2.0**-7, _FLOAT32: 1e-4}
# Keeps relative errors of zeros finite.
_TINY = {_FLOAT16: 6e-8}
_PRECISION_OF_OP: Mapping[str, Mapping[np.dtype[Any], float]] = {
    "npu_grouped_matmul_finalize_routing": {_FLOAT32: 1e-3},
    "npu_moe_token_unpermute_with_routing_map": {_FLOAT32: 1e-5},
}

_QUANTISED = {
    "npu_moe_init_routing_v2": "expanded_x",
    "npu_grouped_matmul_swiglu_quant": "output",
    "npu_dynamic_quant": "y",
}
# Copies, whatever their dtype: None for all results of the operator.
_COPIES: Mapping[str, tuple[str, ...] | None] = {
    "npu_format_cast": None,
    "npu_moe_token_permute_with_routing_map": None,
    "npu_moe_token_unpermute_with_routing_map": ("permute_probs",),
}


@dataclass(frozen=True)
class Measure:
    """A result compared with the one that was needed. Errors are over the elements that are finite in both."""

    name: str
    """Of the result."""
    dtype: str
    shape: tuple[int, ...]
    mismatches: int
    """Elements whose bits differ."""
    max_absolute: float
    max_relative: float
    mean_relative: float
    rmse: float
    rule: str
    """What it is held to."""
    ok: bool
    problem: str = ""
    """What is wrong, if anything is."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def record(self) -> dict[str, Any]:
        """Return it as plain strings, numbers, and None for numbers that are not finite."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class Outcome:
    """What came of a call that was made twice."""

    op: str
    label: str
    """Which call of the operator it is."""
    measures: tuple[Measure, ...]
    """Of its results; none when it raised."""
    error: str = ""
    """What it raised the second time."""

    @property
    def ok(self) -> bool:
        return not self.problem

    @property
    def problem(self) -> str:
        """The first thing that is wrong, empty if nothing is."""
        return self.error or next((f"{m.name}: {m.problem}" for m in self.measures if not m.ok), "")

    def record(self) -> dict[str, Any]:
        """Return it as plain strings, numbers, lists and dicts."""
        return {
            "op": self.op,
            "case": self.label,
            "ok": self.ok,
            "error": self.error,
            "results": [measure.record() for measure in self.measures],
        }


def _refuse(name: str, seen: Array, needed: Array) -> Measure:
    return Measure(
        name,
        needed.dtype.name,
        needed.shape,
        mismatches=needed.size,
        max_absolute=math.inf,
        max_relative=math.inf,
        mean_relative=math.inf,
        rmse=math.inf,
        rule="dtype and shape",
        ok=False,
        problem=f"{seen.dtype} {seen.shape}, needed {needed.dtype} {needed.shape}",
    )


def measure(name: str, seen: Array, needed: Array, precision: float | None = None, step: int = 0) -> Measure:
    """Compare a result with the one that is needed.

    Parameters
    ----------
    name : str
        Of the result.
    seen, needed : array
        The two.
    precision : float, optional
        p of floating results; None: their bits are to be equal.
    step : int
        By how much integers may differ.

    Returns
    -------
    Measure

    Examples
    --------
    >>> import numpy as np
    >>> from moe_native.verification.measures import measure
    >>> needed = np.array([1, 2, 4], np.float32)
    >>> seen = measure("y", needed * np.float32(1 + 1e-6), needed, precision=1e-4)
    >>> seen.ok, seen.mismatches, round(seen.max_relative, 7)
    (True, 3, 1e-06)
    >>> measure("y", needed + 1, needed, precision=1e-4).problem
    "3 of 3 elements miss 'precision 0.0001', first at [0]: 2.0, needed 1.0"
    """
    if seen.dtype != needed.dtype or seen.shape != needed.shape:
        return _refuse(name, seen, needed)
    bits = f"u{needed.dtype.itemsize}"
    differ = seen.copy("C").view(bits) != needed.copy("C").view(bits)
    with np.errstate(all="ignore"):
        a, b = (np.asarray(array, np.float64) for array in (seen, needed))
        finite = np.isfinite(a) & np.isfinite(b)
        # Where one is not finite the other has to be the same.
        unlike = ~(finite | (a == b) | (np.isnan(a) & np.isnan(b)))
        error = np.where(finite, np.abs(a - b), 0.0)
        relative = np.where(finite, error / (np.maximum(np.abs(a), np.abs(b)) + _TINY.get(needed.dtype, 1e-9)), 0.0)
    if step:
        rule, wrong = f"within {step}", error > step
    elif precision is None:
        rule, wrong = "equal bits", differ
    else:
        rule, wrong = f"precision {precision:.2g}", _off(error, relative, unlike, precision)
    problem = ""
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        problem = (
            f"{np.count_nonzero(wrong)} of {needed.size} elements miss {rule!r}, "
            f"first at {list(at)}: {seen[at].item()!r}, needed {needed[at].item()!r}"
        )
    count = max(1, needed.size)
    return Measure(
        name,
        needed.dtype.name,
        needed.shape,
        int(np.count_nonzero(differ)),
        float(error.max(initial=0)),
        float(relative.max(initial=0)),
        float(relative.sum() / count),
        float(np.sqrt(np.square(error).sum() / count)),
        rule,
        not problem,
        problem,
    )


def _off(error: Array, relative: Array, unlike: Array, precision: float) -> Array:
    """The elements that make a floating result wrong."""
    few = precision * error.size
    absolutely, relatively = (values > precision for values in (error, relative))
    if min(np.count_nonzero(absolutely), np.count_nonzero(relatively)) <= few:
        return unlike
    both: Array = (absolutely & relatively) | unlike
    return both if both.any() else absolutely | relatively


def compare(
    op: str, arguments: Mapping[str, Any], needed: Mapping[str, Array], seen: Sequence[Array], exact: bool = False
) -> tuple[Measure, ...]:
    """Compare the results of a call, each by the rule for it.

    Parameters
    ----------
    op : str
        The operator.
    arguments : mapping
        Its arguments by name.
    needed : mapping
        The results that are needed, by name, in the order of the operator.
    seen : sequence of array
        The results to be compared with them.
    exact : bool
        Whether all bits are to be equal, as with the CPU device.

    Returns
    -------
    tuple of Measure
        One for every result.

    Raises
    ------
    ValueError
        Another number of results.
    """
    if len(seen) != len(needed):
        raise ValueError(f"{op}: {len(seen)} results, needed {len(needed)}: {', '.join(needed)}")
    return tuple(
        measure(name, array, wanted, *((None, 0) if exact else _rule(op, arguments, name, wanted.dtype)))
        for array, (name, wanted) in zip(seen, needed.items(), strict=True)
    )


def _rule(op: str, arguments: Mapping[str, Any], name: str, dtype: np.dtype[Any]) -> tuple[float | None, int]:
    """Precision and step of a result."""
    copied = _COPIES.get(op, ())
    routed_as_they_are = op == "npu_moe_init_routing_v2" and arguments.get("quant_mode") == -1
    if copied is None or name in copied or routed_as_they_are:
        return None, 0
    if _QUANTISED.get(op) == name:
        return None, 1
    return _PRECISION_OF_OP.get(op, _PRECISION).get(dtype, _PRECISION.get(dtype)), 0
