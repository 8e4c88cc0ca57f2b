"""Numbers of the grouped matrix products that were worked out by hand, and the storage forms of a weight."""

import ml_dtypes
import numpy as np


def pack_int4(w):
    """int8 values in [-8, 7] as int32 words of eight along the last axis, low nibble first, 0 behind the last."""
    words = -(-w.shape[-1] // 8)
    nibbles = np.zeros((*w.shape[:-1], 8 * words), np.uint32)
    nibbles[..., : w.shape[-1]] = w.astype(np.uint32) & 15
    shifted = nibbles.reshape(*w.shape[:-1], words, 8) << np.arange(0, 32, 4, dtype=np.uint32)
    return np.bitwise_or.reduce(shifted, axis=-1).view(np.int32)


def to_tiles(w, c0, padding=0):
    """(e, k, n) as FRACTAL_NZ storage (e, n1, k1, 16, c0); cells outside k x n hold `padding`."""
    e, k, n = w.shape
    k1, n1 = -(-k // 16), -(-n // c0)
    padded = np.full((e, 16 * k1, c0 * n1), padding, w.dtype)
    padded[:, :k, :n] = w
    return np.ascontiguousarray(padded.reshape(e, k1, 16, n1, c0).transpose(0, 3, 1, 2, 4))


def bits_as_int64(scale):
    """float32 values as the low halves of int64; the upper halves hold something."""
    return np.asarray(scale, np.float32).view(np.uint32).astype(np.int64) | (0x5A5A << 32)


# --- npu_grouped_matmul_finalize_routing, int8 ---

X = np.array([[1, 2], [3, -1], [-2, 4], [5, 0]], np.int8)
W = np.array([[[1, -1], [2, 3]], [[-3, 2], [1, 1]]], np.int8)
SCALE = np.array([[0.5, 0.25], [1, 2]], np.float32)
PERTOKEN = np.array([1, 0.5, 2, 0.25], np.float32)
LOGIT = np.array([0.5, 1, 0.25, 2], np.float32)
COMBINE = {
    "x": X,
    "w": W,
    "group_list": np.array([3, 1]),
    "scale": SCALE,
    "pertoken_scale": PERTOKEN,
    "logit": LOGIT,
    "row_index": np.array([0, 1, 1, 0]),
    "output_bs": 2,
}
ROW_BY_ROW = {"row_index": np.arange(4), "output_bs": 4}
NO_SHARED = [[-6.25, 10.625], [1.75, 1.0]]
SHARED = {
    "shared_input": np.array([[1.5, -2]], ml_dtypes.bfloat16),
    "shared_input_weight": 0.5,
    "shared_input_offset": 1,
}
# name: (what differs from COMBINE, result)
COMBINE_CASES = {
    "no shared rows": ({}, NO_SHARED),
    "shared row": (SHARED, [[-6.25, 10.625], [2.5, 0]]),
    "cumulative ends": ({"group_list": np.array([3, 4]), "group_list_type": 0}, NO_SHARED),
    "last row unused": ({"group_list": np.array([2, 1])}, [[1.25, 0.625], [5.25, -0.75]]),
    "no logit, no pertoken": ({"logit": None, "pertoken_scale": None}, [[-12.5, 21.25], [3.5, 2.0]]),
    "uneven row_index": ({"row_index": np.array([0, 0, 0, 1])}, [[3, 1.625], [-7.5, 10]]),
    "pertoken column": ({"pertoken_scale": PERTOKEN[:, None]}, NO_SHARED),
    "sums": (
        ROW_BY_ROW | {"scale": np.ones((2, 2), np.float32), "pertoken_scale": None, "logit": None},
        [[5, 5], [1, -6], [6, 14], [-15, 10]],
    ),
    "dequantised": (ROW_BY_ROW | {"logit": None}, [[2.5, 1.25], [0.25, -0.75], [6, 7], [-3.75, 5]]),
    "weighted": (ROW_BY_ROW, [[1.25, 0.625], [0.25, -0.75], [1.5, 1.75], [-7.5, 10]]),
    # 0.5 * (1, 2) + 2 * (3, 4) into row 0 and (1 + 0.25) * (1, 2) into row 1
    "bias before logit": ({"bias": np.array([[1, 2], [3, 4]], np.float32)}, [[0.25, 19.625], [3.0, 3.5]]),
}

# --- npu_grouped_matmul_finalize_routing, int4 ---

W4 = np.array([[[1, -8], [7, 3], [-2, 5], [4, -1]], [[-3, 2], [6, -7], [1, 1], [0, 4]]], np.int8)
SCALE4 = np.array([[[1056964608, 1048576000]], [[1073741824, 1040187392]]], np.int64)
SCALE4_VALUES = np.array([[[0.5, 0.25]], [[2, 0.125]]], np.float32)
BIAS4 = np.array([[40, -2], [64, 0]], np.float32)
COMBINE4 = {
    "x": np.array([[37, -20, 5, -128], [127, 0, -1, 64]], np.int8),
    "w": pack_int4(W4),
    "group_list": np.array([1, 1]),
    "scale": SCALE4,
    "bias": BIAS4,
    "pertoken_scale": np.array([1, 0.5], np.float32),
    "logit": np.array([2, 1], np.float32),
    "row_index": np.array([1, 0]),
    "shared_input": np.zeros((2, 2), ml_dtypes.bfloat16),
}
COMBINE4_CASES = {
    "int4": ({}, [[-382, 31.8125], [-625, -101.5]]),
    "int4 with offset": (
        {"offset": np.array([[[0.5, -1]], [[0.25, 1]]], np.float32)},
        [[-358.25, 126.8125], [-731, 110.5]],
    ),
}

# --- npu_grouped_matmul_swiglu_quant, int8 ---

SWIGLU = {
    "x": np.array([[1, 2], [3, -1], [0, 0], [-2, 4], [5, 3]], np.int8),
    "weight": np.array([[[1, -1, 2, 3], [2, 3, -2, 1]], [[-3, 2, 1, 4], [1, 1, -1, 2]]], np.int8),
    "group_list": np.array([3, 4]),
    "weight_scale": np.array([[0.5, 0.25, 1, 0.5], [1, 0.5, 0.25, 2]], np.float32),
    "x_scale": np.array([1, 0.5, 3, 0.25, 0.125], np.float32),
}
SWIGLU_ROWS = [[-127, 67], [127, -109], [0, 0], [-127, 0], [0, 0]]
SWIGLU_SCALES = [0.0363835357, 0.00442658691, 0, 0.00682191318, 0]
SWIGLU_SCALE_BITS = [0x3D1506E7, 0x3B910CE7, 0, 0x3BDF8A5B, 0]
# name: (what differs from SWIGLU, output, output_scale to nine digits)
SWIGLU_CASES = {
    "tail row": ({}, SWIGLU_ROWS, SWIGLU_SCALES),
    "counts": ({"group_list": np.array([3, 1]), "group_list_type": 1}, SWIGLU_ROWS, SWIGLU_SCALES),
    "x_scale column": ({"x_scale": SWIGLU["x_scale"][:, None]}, SWIGLU_ROWS, SWIGLU_SCALES),
    "first expert empty": (
        {"group_list": np.array([0, 5])},
        [[0, 127], [0, 127], [0, 0], [-127, 0], [-1, 127]],
        [0.221933112, 0.076505892, 0, 0.00682191318, 0.0288032722],
    ),
    "last expert empty": (
        {"group_list": np.array([5, 5])},
        [[-127, 67], [127, -109], [0, 0], [-127, -13], [127, 41]],
        [0.0363835357, 0.00442658691, 0, 0.0120326942, 0.00180106203],
    ),
    "three tail rows": (
        {"group_list": np.array([2, 2])},
        [[-127, 67], [127, -109], [0, 0], [0, 0], [0, 0]],
        [0.0363835357, 0.00442658691, 0, 0, 0],
    ),
    "one entry": (
        {"group_list": np.array([2])},
        [[-127, 67], [127, -109], [0, 0], [0, 0], [0, 0]],
        [0.0363835357, 0.00442658691, 0, 0, 0],
    ),
    "nothing": ({"group_list": np.array([0, 0])}, np.zeros((5, 2)), np.zeros(5)),
    # With its halves exchanged the weight shows which half is activated.
    "exchanged halves": (
        {
            "weight": SWIGLU["weight"][:, :, [2, 3, 0, 1]],
            "weight_scale": SWIGLU["weight_scale"][:, [2, 3, 0, 1]],
            "group_list": np.array([1]),
        },
        [[-26, 127], [0, 0], [0, 0], [0, 0], [0, 0]],
        [2.88794303 / 127, 0, 0, 0, 0],
    ),
}

# --- npu_grouped_matmul_swiglu_quant, int4 ---

SWIGLU_W4 = np.array([[1, -8, 2, 3], [7, 3, -1, 0], [-2, 5, 4, -6], [4, -1, 1, 7]], np.int8)
SWIGLU_SCALE4 = np.array([0.5, 0.25, 1, 0.5], np.float32)
SWIGLU4 = {
    "x": COMBINE4["x"],
    "weight": pack_int4(SWIGLU_W4[None]),
    "group_list": np.array([2]),
    "weight_scale": bits_as_int64(SWIGLU_SCALE4[None]),
    "x_scale": np.array([2**-6, 2**-8], np.float32),
    "bias": np.array([[40, -2, 48, 16]], np.float32),
}
SWIGLU4_DEQUANTISED = [
    [-4.8828125, -0.79296875, -0.21875, -6.3671875],
    [0.751953125, -1.0595703125, 1.2265625, 1.630859375],
]
SWIGLU4_ROWS = [[1, 127], [127, -90]]
SWIGLU4_SCALES = [0.0123851718, 0.00493551791]
