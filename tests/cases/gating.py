"""Numbers of the gating operators that were worked out by hand.

Those below two were computed in float32 (two roundings granted) and printed with seven decimals: `PRINTED`.
"""

import numpy as np

PRINTED = {"rtol": 0, "atol": 2 * 2**-23 + 0.5e-7}

X = np.array([[1, 3, 2, 3], [0, -1, 4, 2], [5, 5, 5, 5]], np.float32)
Y = [[0.3994863, 0.3994863], [0.8617800, 0.1166292], [0.25, 0.25]]
FINISHED = np.array([False, True, False])
# fp16 probabilities of the first, second and fourth round to the same number, their float32 ones do not.
TIES_Y = [[1, 2**-23, 2**-23]]
TIES = np.array([[-8, -7.99609375, 8, -7.9921875]], np.float16)

# name: positional arguments, y or None, expert_idx, row_idx or None
SOFTMAX = {
    "document": ((X, FINISHED, 2), Y, [[1, 3], [4, 4], [0, 1]], [[0, 3], [1, 4], [2, 5]]),
    "none finished": ((X, None, 2), Y, [[1, 3], [2, 3], [0, 1]], [[0, 3], [1, 4], [2, 5]]),
    "all finished": ((X, ~np.zeros(3, bool), 2), Y, [[4, 4]] * 3, [[0, 3], [1, 4], [2, 5]]),
    "k 3": ((X, None, 3), None, [[1, 3, 2], [2, 3, 0], [0, 1, 2]], [[0, 3, 6], [1, 4, 7], [2, 5, 8]]),
    "k 1": ((X,), None, [[1], [2], [0]], [[0], [1], [2]]),
    "one row": ((X[:1], None, 2), Y[:1], [[1, 3]], [[0, 1]]),
    "three dimensions": (
        (np.zeros((2, 2, 3), np.float32), None, 2),
        np.full((2, 2, 2), 1 / 3),
        [[[0, 1]] * 2] * 2,
        [[[0, 4], [1, 5]], [[2, 6], [3, 7]]],
    ),
    "ties of rounded probabilities": ((TIES, None, 3), None, [[2, 0, 1]], [[0, 1, 2]]),
    "the same in float32": ((TIES.astype(np.float32), None, 3), None, [[2, 3, 1]], [[0, 1, 2]]),
    "-inf": (
        (np.array([[-np.inf, 0, -np.inf, 0]], np.float32), None, 4),
        [[0.5, 0.5, 0, 0]],
        [[1, 3, 0, 2]],
        None,
    ),
    "large": ((np.array([[1e4, -1e4, 1e4]], np.float32), None, 3), [[0.5, 0.5, 0]], [[0, 2, 1]], None),
}
NO_SOFTMAX = [[0, np.nan, 2], [0, np.inf, 2], [-np.inf] * 3, [np.nan] * 3]

# name: keyword arguments, y or None, expert_idx
SOFTMAX_V2 = {
    "softmax first": ({"x": X, "k": 2}, Y, [[1, 3], [2, 3], [0, 1]]),
    "finished": ({"x": X, "k": 2, "finished": FINISHED}, Y, [[1, 3], [4, 4], [0, 1]]),
    "ties of float32 probabilities": ({"x": TIES, "k": 3}, None, [[2, 3, 1]]),
    # exp(0) : exp(-1) of the two chosen ones.
    "top-k first": (
        {"x": np.array([[2, 5, 1, 4]], np.float32), "k": 2, "renorm": 1},
        [[0.7310586, 0.2689414]],
        [[1, 3]],
    ),
    # exp(-200) and exp(-199) are both 0 in float32.
    "top-k first sees what the softmax would not": (
        {"x": np.array([[0, -200, -199]], np.float32), "k": 3, "renorm": 1},
        [[1, 0, 0]],
        [[0, 2, 1]],
    ),
    "the softmax does not": (
        {"x": np.array([[0, -200, -199]], np.float32), "k": 3},
        [[1, 0, 0]],
        [[0, 1, 2]],
    ),
}

SCORES = np.array([[0, 1, 2, -1, 3, 0.5, -2, 1.5]], np.float32)
BIAS = np.array([0.5, 0, 0, 0.4, -0.9, 0, 0.6, 0], np.float32)
PAIRS = {"x": SCORES, "k": 2, "bias": BIAS, "group_count": 4, "norm_type": 1, "routed_scaling_factor": 2.5}
FEW = np.array([[0, 1, 2, -1]], np.float32)
THREE = {
    "x": np.array([[2, -5, 0.8, 0.7, -1, -1]], np.float32),
    "k": 2,
    "bias": np.zeros(6, np.float32),
    "group_count": 3,
    "norm_type": 1,
}
ALL = {"x": SCORES, "k": 3, "bias": BIAS, "norm_type": 1}
ALL_Y = [[0.2274411, 0.4006589, 0.3719000]]
LOW_BIAS = np.array([-2, -3, -5, -5], np.float32)

# name: keyword arguments, y or None, expert_idx
TOP_K = {
    "two groups": (PAIRS | {"k_group": 2}, [[0.9052742, 1.5947257]], [[0, 2]]),
    "two groups, mode 1": (
        PAIRS | {"k_group": 2, "group_select_mode": 1},
        [[0.9052742, 1.5947257]],
        [[0, 2]],
    ),
    "one group": (PAIRS | {"k_group": 1}, [[1.0153863, 1.4846137]], [[0, 1]]),
    "one group, mode 1": (
        PAIRS | {"k_group": 1, "group_select_mode": 1},
        [[1.0153863, 1.4846137]],
        [[0, 1]],
    ),
    "by the largest": (THREE, [[0.9924587, 0.0075413]], [[0, 1]]),
    "by the two largest": (THREE | {"group_select_mode": 1}, [[0.5080206, 0.4919794]], [[2, 3]]),
    "ties": (PAIRS | {"x": np.ones((1, 8), np.float32), "k_group": 2}, [[1.25, 1.25]], [[6, 0]]),
    "softmax": ({"x": FEW, "k": 2}, [[0.6439143, 0.2368828]], [[2, 1]]),
    "softmax with bias": (
        {"x": FEW, "k": 2, "bias": np.array([1, 0, 0, 0], np.float32), "routed_scaling_factor": 2},
        [[0.1742886, 1.2878286]],
        [[0, 2]],
    ),
    "no groups": (ALL, ALL_Y, [[0, 2, 7]]),
    "all of 4 groups": (ALL | {"group_count": 4, "k_group": 4}, ALL_Y, [[0, 2, 7]]),
    "all of 8 groups": (ALL | {"group_count": 8, "k_group": 8}, ALL_Y, [[0, 2, 7]]),
    "one expert a group": (
        {"x": FEW, "k": 2, "group_count": 4, "k_group": 2, "norm_type": 1},
        [[0.5464490, 0.4535510]],
        [[2, 1]],
    ),
    # With a bias below -1 a left-out group would win if it counted as 0.
    "all of the kept group": (
        {"x": np.zeros((1, 4), np.float32), "k": 2, "bias": LOW_BIAS, "group_count": 2, "norm_type": 1},
        [[0.5, 0.5]],
        [[0, 1]],
    ),
    "eps 1": ({"x": np.zeros((1, 4), np.float32), "k": 2, "norm_type": 1, "eps": 1}, [[0.25, 0.25]], [[0, 1]]),
    "factor 0": (ALL | {"routed_scaling_factor": 0.0}, [[0, 0, 0]], [[0, 2, 7]]),
    "underflow": ({"x": np.full((1, 3), -200, np.float32), "k": 2, "norm_type": 1}, [[0, 0]], [[0, 1]]),
}

# ids, number of experts, result
TOKENS = [
    ([0, 0, 0, 1, 1, 2], 3, [3, 5, 6]),
    ([0, 0, 1, 1, 2, 2], 3, [2, 4, 6]),
    ([0, 0, 2, 2, 2, 5], 6, [2, 2, 5, 5, 5, 6]),
    ([1, 1, 3, 3], 3, [0, 2, 2]),
    ([], 4, [0, 0, 0, 0]),
    ([1], 3, [0, 1, 1]),
    ([0] * 5, 3, [5, 5, 5]),
    ([2] * 5, 3, [0, 0, 5]),
    ([3] * 5, 3, [0, 0, 0]),
    ([1, 1, 3, 4], 6, [0, 2, 2, 3, 4, 4]),
    ([-5, -1, 0, 7], 2, [3, 3]),
    ([-(2**31), 0, 2**31 - 1], 1, [2]),
    ([2, 0, 1], 3, [2, 3, 3]),  # does not ascend: what bisection makes of it
]
