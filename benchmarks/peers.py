"""What a user of PyTorch would write: its best form of the work of every item, with weights prepared beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from moe_native.benchmarks.common import blocks
from moe_native.benchmarks.measure import Contender

Array = NDArray[Any]
Error = Callable[[Any], float]


class Peer(StrEnum):
    """How far to go for contenders: each includes those before it."""

    numpy = "numpy"
    torch = "torch"
    torch_compile = "torch-compile"


def available() -> bool:
    """Whether PyTorch is installed."""
    return find_spec("torch") is not None


def to_torch(array: Array) -> Any:
    """A tensor over the same memory."""
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: Any) -> Array:
    """An array over the same memory."""
    import torch

    if tensor.dtype == torch.bfloat16:
        bits: Array = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: Array = tensor.numpy()
    return array


def int8_products(weights: Sequence[Array], ends: Array, scale: Array) -> dict[str, Callable[[int, int, Any], Any]]:
    """Rows times the weight of an expert, dequantised, by oneDNN: torch._int_mm, and its linear layer, packed."""
    import torch

    e, k, n = weights[0].shape
    counts, scales = np.diff(ends, prepend=0).tolist(), to_torch(scale)
    # The order in which both read weights fastest: k side by side.
    transposed = [[to_torch(np.ascontiguousarray(w[g].T)) for g in range(e)] for w in weights]
    packed = [
        [torch.ops.onednn.qlinear_prepack(w, [max(1, count), k]) for w, count in zip(s, counts, strict=True)]
        for s in transposed
    ]
    zeros = torch.zeros(n, dtype=torch.int32)

    def int_mm(i: int, g: int, rows: Any) -> Any:
        return torch._int_mm(rows, transposed[i][g].t()).float().mul_(scales[g])

    def linear(i: int, g: int, rows: Any) -> Any:
        return torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 0, packed[i][g], scales[g], zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return {"torch._int_mm": int_mm, "oneDNN int8, packed": linear}


def gmm(
    x: Array,
    weights: Sequence[Array],
    ends: Array,
    scale: Array,
    factor: Array,
    shared: Array,
    row_index: Array,
    tokens: int,
    error: Error,
) -> list[Contender]:
    """int8 products, and their sums by `index_add_`."""
    import torch

    rows, factors, places = to_torch(x), to_torch(factor)[:, None], to_torch(row_index)
    shared_rows = to_torch(shared)
    parts = list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))

    def combine(product: Callable[[int, int, Any], Any], i: int) -> Array:
        y = torch.zeros((tokens, scale.shape[1]))
        y[: len(shared_rows)] = shared_rows
        for g, (begin, end) in enumerate(parts):
            if begin == end:
                continue
            part = product(i, g, rows[begin:end])
            part *= factors[begin:end]
            y.index_add_(0, places[begin:end], part)
        return to_numpy(y)

    products = int8_products(weights, ends, scale)
    return [Contender(name, partial(combine, product), error) for name, product in products.items()]


def swiglu_quant(
    x: Array, weights: Sequence[Array], ends: Array, scale: Array, x_scale: Array, error: Error
) -> list[Contender]:
    """int8 products, of int4 weights in bytes too; the rest expert by expert."""
    import torch

    rows, factors = to_torch(x), to_torch(x_scale)[:, None]
    parts = list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))

    def run(product: Callable[[int, int, Any], Any], i: int) -> Any:
        codes = torch.empty((len(rows), scale.shape[1] // 2), dtype=torch.int8)
        scales = torch.empty(len(rows))
        for g, (begin, end) in enumerate(parts):
            if begin == end:
                continue
            part = product(i, g, rows[begin:end])
            part *= factors[begin:end]
            gate, up = part.chunk(2, dim=1)
            scales[begin:end] = quantise(torch.nn.functional.silu(gate).mul_(up), codes[begin:end])
        return to_numpy(codes), to_numpy(scales)

    products = int8_products(weights, ends, scale)
    return [Contender(name, partial(run, product), error) for name, product in products.items()]


def quantise(rows: Any, codes: Any) -> Any:
    """Fill int8 `codes` from rows of float32, which this changes, and return the scales."""
    scale = rows.abs().amax(dim=1).div_(127)
    codes.copy_(rows.div_(scale[:, None]).round_())
    return scale


def ffn(
    x: Array, w1: Sequence[Array], w2: Sequence[Array], ends: Array, activation: str, error: Error
) -> list[Contender]:
    """The linear layers of PyTorch, and those of oneDNN with packed weights."""
    import torch

    rows = to_torch(x)
    parts = list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
    n2 = w2[0].shape[-1]
    transposed = [
        [[to_torch(np.ascontiguousarray(expert.T)) for expert in w.reshape(-1, *w.shape[-2:])] for w in ws]
        for ws in (w1, w2)
    ]
    act = {
        "silu": torch.nn.functional.silu,
        "relu": torch.nn.functional.relu,
        "fastgelu": lambda h: h * torch.sigmoid(1.702 * h),
    }[activation]

    def run(i: int, weights: Sequence[Sequence[Sequence[Any]]], linear: Callable[[Any, Any], Any]) -> Array:
        y = torch.empty((len(rows), n2), dtype=rows.dtype)
        for g, (begin, end) in enumerate(parts):
            if begin < end:
                y[begin:end] = linear(act(linear(rows[begin:end], weights[0][i][g])), weights[1][i][g])
        return to_numpy(y)

    contenders = [Contender("torch linear", lambda i: run(i, transposed, torch.nn.functional.linear), error)]
    if rows.dtype == torch.float16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        return contenders
    if rows.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return contenders
    packed = [
        [
            [
                torch.ops.mkldnn._reorder_linear_weight(w, max(1, end - begin))
                for w, (begin, end) in zip(experts, parts, strict=True)
            ]
            for experts in ws
        ]
        for ws in transposed
    ]

    def linear(h: Any, w: Any) -> Any:
        return torch.ops.mkldnn._linear_pointwise(h, w, None, "none", [], "")

    contenders.append(Contender("oneDNN, packed", lambda i: run(i, packed, linear), error))
    return contenders


def gating(
    x: Sequence[Array], bias: Array | None, groups: int, kept: int, top_k: int, factor: float, error: Error
) -> list[Contender]:
    """What the models' own code does: groups that are left out become -inf."""
    import torch

    scores = [to_torch(a) for a in x]
    tokens, experts = x[0].shape
    offset = None if bias is None else to_torch(bias)

    def choose(i: int) -> Any:
        s = scores[i].softmax(dim=1) if offset is None else scores[i].sigmoid()
        v = s if offset is None else s + offset
        grouped = v.view(tokens, groups, -1)
        best = grouped.amax(dim=2) if offset is None else grouped.topk(2, dim=2)[0].sum(dim=2)
        left_out = torch.ones_like(best, dtype=torch.bool)
        left_out.scatter_(1, best.topk(kept, dim=1, sorted=False)[1], False)
        chosen = grouped.masked_fill(left_out[:, :, None], -torch.inf).view(tokens, experts).topk(top_k, dim=1)[1]
        weights = s.gather(1, chosen)
        if offset is not None:
            weights /= weights.sum(dim=1, keepdim=True)
        return to_numpy(weights.mul_(factor)), to_numpy(chosen.int())

    return [Contender("torch", choose, error)]


def gating_softmax(x: Sequence[Array], top_k: int, error: Error) -> list[Contender]:
    """Softmax in float32, and `topk`."""
    import torch

    scores = [to_torch(a) for a in x]
    tokens = len(x[0])

    def choose(i: int) -> Any:
        weights, chosen = scores[i].softmax(dim=1, dtype=torch.float32).topk(top_k, dim=1)
        row_idx = torch.arange(tokens * top_k, dtype=torch.int32).view(top_k, tokens).t()
        return to_numpy(weights.to(scores[i].dtype)), to_numpy(chosen.int()), to_numpy(row_idx)

    return [Contender("torch", choose, error)]


def init_routing(x: Array, expert_idx: Array, experts: int, quantised: bool, error: Error) -> list[Contender]:
    """A stable sort and a gather."""
    import torch

    rows, flat, top_k = to_torch(x), to_torch(expert_idx).ravel(), expert_idx.shape[1]

    def route(out: Any) -> Any:
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=experts)
        source = order // top_k
        scale = None
        values = rows
        if quantised:
            wide = rows.float()
            factor = wide.abs().amax(dim=1) / 127
            values = (wide / factor[:, None]).round_().to(torch.int8)
            scale = to_numpy(factor[source])
        taken = torch.index_select(values, 0, source, out=out)
        return to_numpy(taken), to_numpy(order), to_numpy(counts), scale

    reused = torch.empty((len(flat), x.shape[1]), dtype=torch.int8 if quantised else rows.dtype)
    return [
        Contender("torch, out=", lambda i: route(reused), error),
        Contender("torch", lambda i: route(None), error),
    ]


def permute(x: Array, routing_map: Array, probs: Array, error: Error) -> list[Contender]:
    """The places of the map, and a gather."""
    import torch

    rows, chosen, weights = to_torch(x), to_torch(routing_map), to_torch(probs)

    def route(out: Any) -> Any:
        expert_ids, token_ids = chosen.t().nonzero(as_tuple=True)
        taken = torch.index_select(rows, 0, token_ids, out=out)
        index = torch.argsort(token_ids, stable=True).int()
        return to_numpy(taken), to_numpy(weights[token_ids, expert_ids]), to_numpy(index)

    reused = torch.empty((int((routing_map != 0).sum()), x.shape[1]), dtype=rows.dtype)
    return [
        Contender("torch, out=", lambda i: route(reused), error),
        Contender("torch", lambda i: route(None), error),
    ]


def unpermute(rows: Array, index: Array, probs: Array, routing_map: Array, error: Error) -> list[Contender]:
    """The sum of bags of rows, which takes weights of the dtype of the rows."""
    import torch

    tokens = len(probs)
    t, places = to_torch(rows), to_torch(index).view(tokens, -1)
    chosen, all_weights = to_torch(routing_map).bool(), to_torch(probs)

    def add(i: int) -> Array:
        weights = all_weights[chosen].view(tokens, -1)
        return to_numpy(torch.nn.functional.embedding_bag(places, t, per_sample_weights=weights, mode="sum"))

    return [Contender("torch embedding_bag", add, error)]


def swiglu(x: Sequence[Array], error: Error) -> list[Contender]:
    """silu and a product, both rounded to bfloat16 as in the models' own code, in blocks that stay in the cache."""
    import torch

    t = [to_torch(a) for a in x]

    def activate(i: int, y: Any) -> Array:
        gate, up = t[i].chunk(2, dim=1)
        for p in blocks(len(y)):
            torch.mul(torch.nn.functional.silu(gate[p]), up[p], out=y[p])
        return to_numpy(y)

    shape = len(x[0]), x[0].shape[1] // 2
    reused = torch.empty(shape, dtype=t[0].dtype)
    return [
        Contender("torch, blocks of tokens, out=", lambda i: activate(i, reused), error),
        Contender("torch, blocks of tokens", lambda i: activate(i, torch.empty(shape, dtype=t[0].dtype)), error),
    ]


def dynamic_quant(x: Sequence[Array], smooth: Array | None, error: Error) -> list[Contender]:
    """The codes of blocks of tokens that stay in the cache."""
    import torch

    t = [to_torch(a) for a in x]
    tokens, hidden = x[0].shape
    factors = None if smooth is None else to_torch(smooth).float()

    def run(i: int, codes: Any) -> Any:
        scale = torch.empty(tokens)
        for p in blocks(tokens):
            wide = t[i][p].float()
            if factors is not None:
                wide *= factors
            scale[p] = quantise(wide, codes[p])
        return to_numpy(codes), to_numpy(scale)

    shape = tokens, hidden
    reused = torch.empty(shape, dtype=torch.int8)
    return [
        Contender("torch, blocks of tokens, out=", lambda i: run(i, reused), error),
        Contender("torch, blocks of tokens", lambda i: run(i, torch.empty(shape, dtype=torch.int8)), error),
    ]


def copies(sources: Sequence[Array], restore: Callable[[Array], Any], error: Error) -> list[Contender]:
    """Copies of strided views; `restore` makes the result of a copy."""
    import torch

    views = [to_torch(a) for a in sources]
    reused = torch.empty(views[0].shape, dtype=views[0].dtype)
    return [
        Contender("torch, out=", lambda i: restore(to_numpy(reused.copy_(views[i]))), error),
        Contender("torch", lambda i: restore(to_numpy(views[i].contiguous())), error),
    ]


def finalize(arrays: Mapping[str, Array], compiled: bool, error: Error) -> list[Contender]:
    """The sum over the choices, eager in blocks of tokens that stay in the cache, or compiled."""
    import torch

    t = {name: to_torch(array) for name, array in arrays.items()}
    tokens, top_k = arrays["scales"].shape
    index = t["index"].reshape(top_k, tokens).long()

    def add(skip1: Any, skip2: Any, places: Any, experts: Any, scales: Any) -> Any:
        total = skip1.float() + skip2.float()
        for j in range(top_k):
            total = total + (t["rows"][places[j]].float() + t["bias"][experts[:, j]].float()) * scales[:, j, None]
        return total.to(t["rows"].dtype)

    def eager(i: int) -> Array:
        y = torch.empty_like(t["skip1"])
        for p in blocks(tokens):
            y[p] = add(t["skip1"][p], t["skip2"][p], index[:, p], t["experts"][p], t["scales"][p])
        return to_numpy(y)

    contenders = [Contender("torch, blocks of tokens", eager, error)]
    if compiled:
        whole = torch.compile(add)
        contenders.append(
            Contender(
                "torch.compile",
                lambda i: to_numpy(whole(t["skip1"], t["skip2"], index, t["experts"], t["scales"])),
                error,
            )
        )
    return contenders
