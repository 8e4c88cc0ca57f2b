"""Definitions of the steps of an MoE layer in float64 and int64, and how far a float32 result may be off.

Each function takes the arrays that went into one step and the arrays that came out, evaluates the definition
of that step in plain NumPy and returns a `Verdict`. Nothing here calls the library.

Exact results (indices, counts, copies) are compared exactly. Rounded ones are compared within a bound derived
from the operations of the definition. With the unit roundoff u = 2**-24 of float32, a value that went through
k roundings is relatively within ``gamma(k) = k * u / (1 - k * u)`` of the exact one; no bound has a term for
underflow, since no intermediate value of a layer with sensible scales comes near 2**-126. An int8 code q of a
quotient t is right when ``abs(q - t) <= 1/2 + error(t)``: it may differ by one from the rounding of the
float64 quotient only where that quotient is a tie as far as float32 can tell. Such ties are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Float64 = NDArray[np.float64]
#: Gives the plain (k, n) int8 weights of one expert, so that no check holds those of all experts at once.
Weights = Callable[[int], NDArray[np.int8]]

U = 2.0**-24
#: Products of two int8 that float32 adds up exactly.
EXACT = 1024
#: Rows widened to float64 at once.
ROWS = 256


def gamma(k: float | Float64) -> Float64:
    """Bound of the relative error after `k` float32 roundings."""
    return np.asarray(k) * U / (1 - np.asarray(k) * U)


@dataclass
class Verdict:
    """What a check found.

    Attributes
    ----------
    rows : int
        Rows compared, every column of each.
    worst : float
        Largest ratio of a difference to its bound; at most 1 when the step is right, 0 when all is exact.
    ties : int
        Results that differ from the rounded float64 value and are a tie in float32.
    problem : str
        The first thing that is wrong; empty when the step is right.
    """

    rows: int = 0
    worst: float = 0.0
    ties: int = 0
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem

    def fail(self, problem: str) -> None:
        """Keep the first problem."""
        self.problem = self.problem or problem

    def add(self, other: Verdict) -> None:
        """Take in the verdict on another part of the same step."""
        self.rows += other.rows
        self.worst = max(self.worst, other.worst)
        self.ties += other.ties
        self.fail(other.problem)

    def exact(self, name: str, seen: Array, wanted: Array) -> bool:
        """Compare exactly: dtype, shape and every element."""
        if seen.dtype != wanted.dtype or seen.shape != wanted.shape:
            self.fail(f"{name} is {seen.dtype}{seen.shape}, needed {wanted.dtype}{wanted.shape}")
            return False
        wrong = np.argwhere(seen != wanted)
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            self.fail(f"{name}{list(at)} is {seen[at]}, needed {wanted[at]}; {len(wrong)} elements differ")
        return not len(wrong)

    def within(self, name: str, seen: Array, wanted: Float64, bound: Float64) -> None:
        """Compare values: ``abs(seen - wanted) <= bound`` everywhere. NaN never passes."""
        if seen.shape != wanted.shape:
            self.fail(f"{name} has shape {seen.shape}, needed {wanted.shape}")
            return
        difference = np.abs(seen.astype(np.float64) - wanted)
        wrong = np.argwhere(~(difference <= bound))
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            self.fail(
                f"{name}{list(at)} is {float(seen[at])!r}, needed {float(wanted[at])!r} "
                f"within {bound[at]:.3g}; {len(wrong)} elements differ"
            )
            return
        ratio = np.divide(difference, bound, out=np.zeros_like(wanted), where=difference > 0)
        self.worst = max(self.worst, float(ratio.max(initial=0.0)))

    def codes(self, name: str, seen: Array, quotient: Float64, error: Float64) -> None:
        """Compare int8 codes with the quotients they round, each known to `error`; count the ties."""
        if seen.dtype != np.int8 or seen.shape != quotient.shape:
            self.fail(f"{name} is {seen.dtype}{seen.shape}, needed int8{quotient.shape}")
            return
        exact = np.clip(np.rint(quotient), -128, 127)
        differs = seen != exact
        # Saturation only reaches codes whose quotient is a tie beyond 127, which the clipped quotient covers.
        distance = np.abs(seen - np.clip(quotient, -128, 127))
        wrong = np.argwhere(differs & ~((distance <= 0.5 + error) & (np.abs(seen - exact) <= 1)))
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            self.fail(
                f"{name}{list(at)} is {seen[at]}, needed {exact[at]:.0f} "
                f"(from {float(quotient[at])!r}); {len(wrong)} elements differ"
            )
        self.ties += int(differs.sum()) - len(wrong)


def product(x: NDArray[np.int8], w: NDArray[np.int8]) -> Float64:
    """``x @ w``, exact in float64.

    A block is multiplied in float32, where it is exact too: 1024 products of at most 2**14 add up to at most 2**24,
    so every partial sum is an integer that float32 holds, whatever the order.
    """
    wide = x.astype(np.float32)
    out = np.zeros((x.shape[0], w.shape[1]))
    for start in range(0, w.shape[0], EXACT):
        block = slice(start, start + EXACT)
        out += wide[:, block] @ w[block].astype(np.float32)
    return out


def format_cast(weights: NDArray[np.int8], storage: Array, rows: NDArray[np.int64]) -> Verdict:
    """One expert's weights (k, n) in the NZ storage (n1, k1, 16, 32), compared on some of the `rows` of k."""
    k, n = weights.shape
    verdict = Verdict(rows=len(rows))
    if storage.dtype != np.int8 or storage.shape != (-(-n // 32), -(-k // 16), 16, 32):
        verdict.fail(f"NZ storage of {weights.shape} is {storage.dtype}{storage.shape}")
        return verdict
    seen = storage[:, rows // 16, rows % 16, :].transpose(1, 0, 2).reshape(len(rows), -1)
    wanted = np.zeros(seen.shape, np.int8)
    wanted[:, :n] = weights[rows]
    verdict.exact("NZ storage, by rows of k,", seen, wanted)
    return verdict


def gating(
    logits: Array,
    bias: Array,
    y: Array,
    expert_idx: Array,
    *,
    k: int,
    k_group: int,
    group_count: int,
    routed_scaling_factor: float,
    eps: float,
) -> Verdict:
    """Sigmoid gate of float32 logits with a bias, groups scored by the sum of their best two; all rows.

    The error of a float32 score ``s = 1 / (1 + exp(-x))`` is at most gamma(4) s: two units for an exp within
    one ulp, one for the sum, one for the quotient. A row whose order differs from that of the float64 scores
    counts as a tie when errors of that size explain it.
    """
    tokens, experts = logits.shape
    verdict = Verdict(rows=tokens)
    if expert_idx.dtype != np.int32 or expert_idx.shape != (tokens, k):
        verdict.fail(f"expert_idx is {expert_idx.dtype}{expert_idx.shape}, needed int32{(tokens, k)}")
        return verdict
    if y.dtype != np.float32 or y.shape != (tokens, k):
        verdict.fail(f"y is {y.dtype}{y.shape}, needed float32{(tokens, k)}")
        return verdict
    s = 1 / (1 + np.exp(-logits.astype(np.float64)))
    v = s + bias.astype(np.float64)
    v_error = gamma(4) * s + gamma(1) * (s + np.abs(bias.astype(np.float64)))

    grouped = np.sort(v.reshape(tokens, group_count, -1), axis=2)
    score = grouped[..., -1] + grouped[..., -2]
    score_error = 2 * v_error.reshape(tokens, group_count, -1).max(axis=2) + gamma(1) * np.abs(score)
    kept = np.zeros(score.shape, bool)
    np.put_along_axis(kept, np.argsort(-score, axis=1, kind="stable")[:, :k_group], True, axis=1)
    group = np.arange(experts) // (experts // group_count)
    order = np.argsort(np.where(kept[:, group], -v, np.inf), axis=1, kind="stable")[:, :k]

    for row in np.flatnonzero((expert_idx != order).any(axis=1)):
        chosen = expert_idx[row]
        legal = ((chosen >= 0) & (chosen < experts)).all() and len(set(chosen.tolist())) == k
        if legal and _explained(chosen, v[row], v_error[row], score[row], score_error[row], k_group, group):
            verdict.ties += 1
        else:
            verdict.fail(f"expert_idx[{row}] is {chosen.tolist()}, needed {order[row].tolist()}")
            return verdict

    # k - 1 additions and one of eps; one quotient, one product with the factor.
    picked = np.take_along_axis(s, expert_idx.astype(np.int64), axis=1)
    wanted = picked / (picked.sum(axis=1, keepdims=True) + eps) * routed_scaling_factor
    verdict.within("y", y, wanted, gamma(4 + 4 + k + 2) * wanted)
    return verdict


def _explained(
    chosen: Array,
    v: Float64,
    v_error: Float64,
    score: Float64,
    score_error: Float64,
    k_group: int,
    group: NDArray[np.int64],
) -> bool:
    """Whether values within `v_error` of `v`, and group scores likewise, make `chosen` the best."""
    used = {int(g) for g in group[chosen]}
    if len(used) > k_group or not (v[chosen[:-1]] + v_error[chosen[:-1]] >= v[chosen[1:]] - v_error[chosen[1:]]).all():
        return False
    rest = [g for g in range(len(score)) if g not in used]
    for more in combinations(rest, k_group - len(used)):
        kept = np.isin(np.arange(len(score)), [*used, *more])
        if not kept.all() and (score + score_error)[kept].min() < (score - score_error)[~kept].max():
            continue
        others = kept[group]
        others[chosen] = False
        if not others.any() or (v + v_error)[chosen[-1]] >= (v - v_error)[others].max():
            return True
    return False


def init_routing(
    x: Array,
    expert_idx: Array,
    expanded_x: Array,
    row_idx: Array,
    counts: Array,
    scale: Array,
    *,
    active: tuple[int, int],
    tokens: NDArray[np.int64],
) -> Verdict:
    """Dropless routing into the `active` range, dynamic int8, scatter indices, counts.

    All of it is exact: a float64 quotient of float32 values rounds to their float32 quotient, because 53 bits are
    more than 2 * 24 + 1. Indices, counts and scales are compared in full, codes on the rows of `tokens`; all rows
    beyond the last are zero.
    """
    first, last = active
    flat = expert_idx.reshape(-1).astype(np.int64)
    used = (flat >= first) & (flat < last)
    # Entries for other ranks come last: those above the range by expert, then those below it as they are.
    pi = np.argsort(np.where(flat < first, np.int64(2**31 - 1), flat), kind="stable").astype(np.int32)
    valid = int(used.sum())
    verdict = Verdict()
    verdict.exact("counts", counts, np.bincount(flat[used] - first, minlength=last - first).astype(np.int64))
    if not verdict.exact("expanded_row_idx", row_idx, pi):
        return verdict
    shape = (len(flat), x.shape[1])
    if expanded_x.dtype != np.int8 or expanded_x.shape != shape or scale.shape != shape[:1]:
        verdict.fail(f"expanded_x is {expanded_x.dtype}{expanded_x.shape}, needed int8{shape}")
        return verdict
    source = pi[:valid] // expert_idx.shape[1]

    amax = np.zeros(len(x))
    for start in range(0, len(x), ROWS):
        amax[start : start + ROWS] = np.abs(x[start : start + ROWS].astype(np.float64)).max(axis=1, initial=0.0)
    wanted = np.zeros(len(flat), np.float32)
    wanted[:valid] = (amax / 127).astype(np.float32)[source]
    verdict.exact("expanded_scale", scale, wanted)

    rows = np.flatnonzero(np.isin(source, tokens))
    verdict.rows = len(rows)
    for start in range(0, len(rows), ROWS):
        block = rows[start : start + ROWS]
        step = np.where(scale[block] > 0, scale[block].astype(np.float64), np.inf)[:, None]
        quotient = (x[source[block]].astype(np.float64) / step).astype(np.float32)
        codes = np.clip(np.rint(quotient), -128, 127).astype(np.int8)
        verdict.exact(f"expanded_x, rows {block[0]} to {block[-1]},", expanded_x[block], codes)
    if expanded_x[valid:].any():
        verdict.fail(f"expanded_x has values other than zero beyond its {valid} rows")
    return verdict


def swiglu_quant(
    x: NDArray[np.int8],
    weights: Weights,
    group_list: NDArray[np.int64],
    weight_scale: Array,
    x_scale: Array,
    output: Array,
    output_scale: Array,
    *,
    rows: NDArray[np.int64],
    tick: Callable[[], None] = lambda: None,
) -> Verdict:
    """Grouped int8 matmul, SwiGLU (first half activated) and dynamic int8, on the given `rows`.

    ``c = fl(fl(fl(acc) * weight_scale) * x_scale)`` is within gamma(3) of the exact value. silu turns a
    relative error d of a into at most (1 + abs(a)) d, since ``a silu'(a) / silu(a) = 1 + a (1 -
    sigmoid(a))``, and adds two units for exp, one each for the sum, the quotient and the product with b,
    which brings 3 of its own: ``error(s) = gamma(3 abs(a) + 11) abs(s)``.
    """
    half = weight_scale.shape[1] // 2
    verdict = Verdict()
    if output.shape != (len(x), half) or output_scale.dtype != np.float32 or output_scale.shape != (len(x),):
        verdict.fail(f"output is {output.dtype}{output.shape}, needed int8{(len(x), half)}")
        return verdict
    start = 0
    for expert, end in enumerate(group_list.tolist()):
        block = rows[(rows >= start) & (rows < end)]
        start = end
        if len(block):
            c = product(x[block], weights(expert))
            c *= weight_scale[expert].astype(np.float64)
            c *= x_scale[block].astype(np.float64)[:, None]
            a, b = c[:, :half], c[:, half:]
            s = a / (1 + np.exp(-a)) * b
            s_error = gamma(3 * np.abs(a) + 11) * np.abs(s)
            amax = np.abs(s).max(axis=1)
            name = f", rows {block[0]} to {block[-1]} of expert {expert},"
            step = amax / 127
            verdict.within(
                "output_scale" + name, output_scale[block], step, s_error.max(axis=1) / 127 + gamma(1) * step
            )
            # The codes belong to the scale that came with them, compared above. A zero row has codes 0.
            scale = np.where(output_scale[block] > 0, output_scale[block].astype(np.float64), np.inf)[:, None]
            quotient = s / scale
            verdict.codes("output" + name, output[block], quotient, s_error / scale + gamma(1) * np.abs(quotient))
            verdict.rows += len(block)
        tick()
    if output[start:].any() or output_scale[start:].any():
        verdict.fail(f"the output has values other than zero beyond its {start} rows")
    return verdict


def finalize_routing(
    x: NDArray[np.int8],
    weights: Weights,
    counts: NDArray[np.int64],
    scale: Array,
    pertoken_scale: Array,
    logit: Array,
    row_index: NDArray[np.int64],
    y: Array,
    *,
    tokens: NDArray[np.int64],
    tick: Callable[[], None] = lambda: None,
) -> Verdict:
    """Grouped int8 matmul, dequantised, weighted and added into the output rows, on the rows `tokens` of y.

    A term ``fl(fl(fl(fl(acc) * scale) * pertoken_scale) * logit)`` is within gamma(4); the sum of m of them
    adds m - 1 roundings, as the first is added to zero: ``error(y) = gamma(m + 3) * sum(abs(terms))``.
    """
    verdict = Verdict(rows=len(tokens))
    n = scale.shape[1]
    if y.dtype != np.float32 or y.ndim != 2 or y.shape[1] != n:
        verdict.fail(f"y is {y.dtype}{y.shape}, needed float32 with {n} columns")
        return verdict
    place = np.full(len(y), -1)
    place[tokens] = np.arange(len(tokens))
    total = np.zeros((len(tokens), n))
    size = np.zeros((len(tokens), n))
    terms = np.zeros(len(tokens), np.int64)
    start = 0
    for expert, count in enumerate(counts.tolist()):
        rows = np.arange(start, start + count)
        rows = rows[place[row_index[rows]] >= 0]
        start += count
        if len(rows):
            v = product(x[rows], weights(expert))
            v *= scale[expert].astype(np.float64)
            v *= (pertoken_scale[rows].astype(np.float64) * logit[rows].astype(np.float64))[:, None]
            to = place[row_index[rows]]
            np.add.at(total, to, v)
            np.add.at(size, to, np.abs(v))
            np.add.at(terms, to, 1)
        tick()
    bound = gamma((terms + 3)[:, None].astype(np.float64)) * size
    verdict.within("y, by sampled token,", y[tokens], total, bound)
    return verdict
