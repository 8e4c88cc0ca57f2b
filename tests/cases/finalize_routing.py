"""Numbers of npu_moe_finalize_routing that were worked out by hand: name, positional arguments, result."""

import numpy as np

ROWS = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
SKIP1 = np.array([[0.5, 0.5, 0.5], [1, 1, 1]], np.float32)
SKIP2 = np.array([[10, 20, 30], [40, 50, 60]], np.float32)
BIAS = np.array([[0.25, 0, 0], [0, 0.5, 0], [0, 0, 1]], np.float32)
SCALES = np.array([[0.5, 2], [1, -1]], np.float32)
EXPERT = np.array([[0, 2], [1, 2]], np.int32)


def int32(*values):
    return np.array(values, np.int32)


BOTH = [[23.625, 36, 50.5], [35, 45.5, 54]]
CASES = {
    "mode 0": ((ROWS, SKIP1, SKIP2, BIAS, SCALES, int32(3, 0, 1, 2), EXPERT, 0), BOTH),
    "mode 2": ((ROWS, SKIP1, SKIP2, BIAS, SCALES, int32(3, 1, 0, 2), EXPERT, 2), BOTH),
    "mode 0 with a row-major index": (
        (ROWS, SKIP1, SKIP2, BIAS, SCALES, int32(3, 1, 0, 2), EXPERT, 0),
        [[17.625, 30, 44.5], [38, 48.5, 57]],
    ),
    "no skips": (
        (ROWS, None, None, BIAS, SCALES, int32(3, 0, 1, 2), EXPERT, 0),
        [[13.125, 15.5, 20], [-6, -5.5, -7]],
    ),
    "no scales": (
        (ROWS, None, None, BIAS, None, int32(3, 0, 1, 2), int32(0, 2, 1, 2).reshape(4, 1), 0),
        [[10.25, 11, 12], [1, 2, 4], [4, 5.5, 6], [7, 8, 10]],
    ),
}

PADDED = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3)
PADDED_BIAS = np.array([[0.25, 0, 0], [0, 0.5, 1]], np.float32)
PADDED_EXPERT = np.array([[0, 1], [1, 0]], np.int32)
CASES["-1 keeps its bias"] = (
    (PADDED, SKIP1, None, PADDED_BIAS, SCALES, int32(3, -1, -1, 0), PADDED_EXPERT, 1),
    [[5.625, 7, 8.5], [-0.25, -0.5, -1]],
)
CASES["-1 without bias"] = (
    (PADDED, SKIP1, None, None, SCALES, int32(3, -1, -1, 0), None, 1),
    [[5.5, 6, 6.5], [0, -1, -2]],
)
