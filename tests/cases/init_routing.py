"""Numbers of npu_moe_init_routing_v2 that were worked out by hand: name, arguments, the four results.

Results that stand as None are of no interest to the case. Parts that the operator leaves undefined are zero.
"""

import numpy as np

INT32_MAX = np.iinfo(np.int32).max


def f32(*values):
    return np.array(values, np.float32)


def i8(*values):
    return np.array(values, np.int8)


def i32(*values):
    return np.array(values, np.int32)


def i64(*values):
    return np.array(values, np.int64)


CASES = {}

# Three tokens with two experts each; experts 1 to 3 of 6 are here and get entries 0, 3, 5, 4.
X = f32([1, 2, -3, 4], [0.5, -0.25, 0.125, 1], [-8, 6, 7, 5])
ROUTED = {
    "x": X,
    "expert_idx": i32([2, 5], [0, 2], [3, 2]),
    "expert_num": 6,
    "active_expert_range": [1, 4],
    "expert_tokens_num_type": 1,
    "expert_tokens_num_flag": True,
}
GATHER = i32(0, -1, -1, 1, 3, 2)
COUNT = i64(0, 3, 1)
NO_SCALE = f32(0, 0, 0, 0, 0, 0)
ZERO = [0, 0, 0, 0]
PLAIN = f32(X[0], X[1], X[2], X[2], ZERO, ZERO)

CASES["plain"] = ROUTED, (PLAIN, GATHER, COUNT, NO_SCALE)
CASES["no limit as 0"] = ROUTED | {"active_num": 0}, (PLAIN, GATHER, COUNT, NO_SCALE)
CASES["scatter"] = ROUTED | {"row_idx_type": 1}, (PLAIN, i32(0, 3, 5, 4, 1, 2), COUNT, NO_SCALE)
CASES["cumsum"] = ROUTED | {"expert_tokens_num_type": 0}, (PLAIN, GATHER, i64(0, 3, 4), NO_SCALE)
CASES["pairs"] = (
    ROUTED | {"expert_tokens_num_type": 2},
    (PLAIN, GATHER, i64([2, 3], [3, 1], [0, 0], [0, 0], [0, 0], [0, 0]), NO_SCALE),
)
CASES["no counts"] = ROUTED | {"expert_tokens_num_flag": False}, (PLAIN, GATHER, i64(0, 0, 0), NO_SCALE)
CASES["scale of the token"] = (
    ROUTED | {"scale": f32(10, 20, 30)},
    (PLAIN, GATHER, COUNT, f32(10, 20, 30, 30, 0, 0)),
)
CASES["first two rows"] = (
    ROUTED | {"scale": f32(10, 20, 30), "active_num": 2},
    (X[:2], GATHER, COUNT, f32(10, 20)),
)
CASES["dynamic"] = (
    ROUTED | {"quant_mode": 1},
    (
        i8([32, 64, -95, 127], [64, -32, 16, 127], [-127, 95, 111, 79], [-127, 95, 111, 79], ZERO, ZERO),
        GATHER,
        COUNT,
        f32(0.031496063, 0.007874016, 0.062992126, 0.062992126, 0, 0),
    ),
)
CASES["dynamic, factors of every expert"] = (
    ROUTED | {"quant_mode": 1, "scale": f32([1, 1, 1, 1], [1, 0.5, 2, 1], [0.25, 1, 1, -2])},
    (
        i8([21, 21, -127, 85], [64, -16, 32, 127], [-73, 27, 127, 45], [-25, 76, 89, -127], ZERO, ZERO),
        GATHER,
        COUNT,
        f32(0.047244094, 0.007874016, 0.110236220, 0.078740157, 0, 0),
    ),
)
CASES["dynamic, factors for all"] = (
    ROUTED | {"quant_mode": 1, "scale": f32([1, 0.5, 2, 1])},
    (
        i8([21, 21, -127, 85], [64, -16, 32, 127], [-73, 27, 127, 45], [-73, 27, 127, 45], ZERO, ZERO),
        GATHER,
        COUNT,
        f32(0.047244094, 0.007874016, 0.110236220, 0.110236220, 0, 0),
    ),
)
CASES["static"] = (
    ROUTED | {"quant_mode": 0, "scale": f32(2.5), "offset": f32(1)},
    (
        i8([4, 6, -6, 11], [2, 0, 1, 4], [-19, 16, 18, 14], [-19, 16, 18, 14], ZERO, ZERO),
        GATHER,
        COUNT,
        NO_SCALE,
    ),
)

# Nothing in the range.
AWAY = {
    "x": X[:2],
    "expert_idx": i32([5, 6], [0, 7]),
    "expert_num": 8,
    "active_expert_range": [2, 4],
    "expert_tokens_num_flag": True,
}
NOTHING = f32(ZERO, ZERO, ZERO, ZERO)
for num_type, tokens in enumerate([i64(0, 0), i64(0, 0), np.zeros((8, 2), np.int64)]):
    for row_idx_type, row_idx in enumerate([i32(-1, -1, -1, -1), i32(0, 1, 3, 2)]):
        CASES[f"nothing in range, {num_type}, {row_idx_type}"] = (
            AWAY | {"expert_tokens_num_type": num_type, "row_idx_type": row_idx_type},
            (NOTHING, row_idx, tokens, f32(*ZERO)),
        )
CASES["nothing in range, dynamic"] = (
    AWAY | {"quant_mode": 1},
    (NOTHING.astype(np.int8), i32(-1, -1, -1, -1), i64(0, 0), f32(*ZERO)),
)

# Two rows for each of three experts; the third has three entries.
PADDED = {
    "x": X,
    "expert_idx": i32([0, 2], [2, 1], [2, 0]),
    "expert_num": 3,
    "expert_capacity": 2,
    "drop_pad_mode": 1,
    "expert_tokens_num_type": 1,
    "expert_tokens_num_flag": True,
}
SLOTS = i32(0, 4, 5, 2, -1, 1)
CASES["padded"] = (
    PADDED | {"scale": f32(10, 20, 30)},
    (f32([X[0], X[2]], [X[1], ZERO], [X[0], X[1]]), SLOTS, i64(2, 1, 3), f32(10, 30, 20, 0, 10, 20)),
)
CASES["padded, dynamic"] = (
    PADDED | {"quant_mode": 1, "scale": f32([1, 1, 1, 1], [2, 2, 2, 2], [1, 0.5, 2, 1])},
    (
        i8(
            [[32, 64, -95, 127], [-127, 95, 111, 79]],
            [[64, -32, 16, 127], ZERO],
            [[21, 21, -127, 85], [64, -16, 32, 127]],
        ),
        SLOTS,
        i64(2, 1, 3),
        f32(0.031496063, 0.062992126, 0.015748031, 0, 0.047244094, 0.007874016),
    ),
)
CASES["padded, static: an unused row is 0, not the offset"] = (
    PADDED | {"quant_mode": 0, "scale": f32(2.5), "offset": f32(1)},
    (
        i8([[4, 6, -6, 11], [-19, 16, 18, 14]], [[2, 0, 1, 4], ZERO], [[4, 6, -6, 11], [2, 0, 1, 4]]),
        SLOTS,
        i64(2, 1, 3),
        NO_SCALE,
    ),
)
CASES["padded, stock example"] = (
    PADDED | {"expert_idx": i32([1, 2], [0, 1], [0, 2])},
    (None, i32(2, 4, 0, 3, 1, 5), i64(2, 2, 2), NO_SCALE),
)
CASES["padded, ids that are no expert"] = (
    PADDED | {"expert_idx": i32([-1], [0], [3])},
    (f32([X[1], ZERO], [ZERO, ZERO], [ZERO, ZERO]), i32(-1, 0, -1), i64(1, 0, 0), NO_SCALE),
)

CASES["stock example"] = (
    {
        "x": X,
        "expert_idx": i32([1, 2, 0, 3], [0, 2, 1, 3], [0, 1, 3, 2]),
        "expert_num": 4,
        "active_expert_range": [0, 4],
        "row_idx_type": 1,
        "expert_tokens_num_type": 1,
        "expert_tokens_num_flag": True,
    },
    (np.tile(X, (4, 1)), i32(2, 4, 8, 0, 6, 9, 1, 5, 11, 3, 7, 10), i64(3, 3, 3, 3), None),
)
CASES["scatter tail: ids below the range come last and tie with INT32_MAX"] = (
    {
        "x": np.zeros((4, 1), np.float32),
        "expert_idx": i32([-7, 9, 3], [INT32_MAX, 0, 8], [9, 4, -1], [INT32_MAX, 2, 4]),
        "expert_num": 6,
        "active_expert_range": [2, 5],
        "row_idx_type": 1,
    },
    (None, i32(10, 2, 7, 11, 5, 1, 6, 0, 3, 4, 8, 9), None, None),
)

# One row, quantised.
ONE = {"expert_idx": i32([0]), "expert_num": 1}
DYNAMIC_ROWS = {
    "ties": ([127, 0.5, 1.5, -2.5], None, [127, 0, 2, -2], 1),
    "zeros": ([0, -0.0, 0], None, [0, 0, 0], 0),
    "NaN": ([1, np.nan, 2], None, [0, 0, 0], np.nan),
    "NaN and inf": ([1, np.nan, np.inf], None, [0, 0, 0], np.nan),
    "inf": ([1, -np.inf, 2], None, [0, 0, 0], np.inf),
    "overflow in the product": ([3e38, 1], [[10, 1]], [0, 0], np.inf),
    "NaN from the product": ([np.inf, 1], [[0, 1]], [0, 0], np.nan),
    "scale underflows": ([8e-44, 1e-45], None, [0, 0], 0),
    "subnormal scale": ([2e-43, -2e-43, 1.4e-45], None, [127, -128, 1], 1.4e-45),  # 143 units of the smallest
}
for name, (row, factors, codes, scale) in DYNAMIC_ROWS.items():
    CASES[f"dynamic row: {name}"] = (
        ONE | {"x": f32(row), "quant_mode": 1, "scale": None if factors is None else f32(*factors)},
        (i8(codes), i32(0), None, f32(scale)),
    )
CASES["static row: ties, clamps, NaN"] = (
    ONE
    | {
        "x": f32([1, -3, 1e6, -1e6, np.inf, -np.inf, np.nan]),
        "quant_mode": 0,
        "scale": f32(2.5),
        "offset": f32(1),
    },
    (i8([4, -6, 127, -128, 127, -128, 0]), i32(0), None, f32(0)),
)

# Nothing to route: no tokens, or no experts per token. A scale of the wrong shape is then nobody's business.
for tokens, top_k in [(0, 2), (3, 0), (0, 0)]:
    for quant_mode in (-1, 0, 1):
        for num_type, count in enumerate([(3,), (3,), (6, 2)]):
            CASES[f"nothing to route: {tokens} x {top_k}, {quant_mode}, {num_type}"] = (
                ROUTED
                | {
                    "x": np.ones((tokens, 4), np.float32),
                    "expert_idx": np.zeros((tokens, top_k), np.int32),
                    "scale": np.ones(0, np.float32),
                    "quant_mode": quant_mode,
                    "expert_tokens_num_type": num_type,
                },
                (
                    np.zeros((0, 4), np.float32 if quant_mode == -1 else np.int8),
                    i32(),
                    np.zeros(count, np.int64),
                    f32(),
                ),
            )
CASES["padded, no experts per token"] = (
    PADDED | {"expert_idx": np.zeros((3, 0), np.int32), "quant_mode": 1},
    (np.zeros((3, 2, 4), np.int8), i32(), i64(0, 0, 0), NO_SCALE),
)
CASES["no columns"] = (
    ROUTED | {"x": np.ones((3, 0), np.float32)},
    (np.ones((6, 0), np.float32), GATHER, COUNT, NO_SCALE),
)
CASES["no columns, dynamic"] = (
    ROUTED | {"x": np.ones((3, 0), np.float16), "quant_mode": 1, "scale": np.ones((3, 0), np.float32)},
    (np.ones((6, 0), np.int8), GATHER, COUNT, NO_SCALE),
)
