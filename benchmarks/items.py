"""Work items from shape files: inputs, ours and NumPy's way to do the work, the error against the oracle."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_native.benchmarks import layouts, products, routing, rows
from moe_native.benchmarks.measure import Work
from moe_native.benchmarks.peers import Peer

SHAPES = Path(__file__).parent / "shapes"


def load(path: Path) -> list[dict[str, Any]]:
    """The items of a shape file."""
    items: list[dict[str, Any]] = tomllib.loads(path.read_text())["item"]
    return items


def prepare(spec: Mapping[str, Any], peer: Peer = Peer.numpy) -> Work:
    """Make an item's inputs, ours and the contenders."""
    makers = {
        "gmm": products.prepare_gmm,
        "ffn": products.prepare_ffn,
        "swiglu_quant": products.prepare_swiglu_quant,
        "gating": routing.prepare_gating,
        "gating_softmax": routing.prepare_gating_softmax,
        "init_routing": routing.prepare_init_routing,
        "permute": routing.prepare_permute,
        "unpermute": routing.prepare_unpermute,
        "finalize": routing.prepare_finalize,
        "swiglu": rows.prepare_swiglu,
        "dynamic_quant": rows.prepare_dynamic_quant,
        "format_cast": layouts.prepare_format_cast,
        "pack": layouts.prepare_pack,
    }
    return makers[spec["kind"]](spec, peer)
