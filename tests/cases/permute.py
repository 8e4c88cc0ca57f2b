"""Numbers of the token permutation that were worked out by hand: name -> (arguments, results)."""

import numpy as np

TOKENS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
ROUTING_MAP = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]], np.int8)
PROBS = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.9, 1.0, 1.1, 1.2]], np.float32)


def permute_case(num_out_tokens, drop_and_pad, token_ids, permuted_probs, sorted_indices):
    arguments = {"probs": PROBS, "num_out_tokens": num_out_tokens, "drop_and_pad": drop_and_pad}
    results = (
        TOKENS[np.array(token_ids, int)],
        np.array(permuted_probs, np.float32),
        np.array(sorted_indices, np.int32),
    )
    return {"tokens": TOKENS, "routing_map": ROUTING_MAP} | arguments, results


DROPLESS = [0, 2, 1, 0, 1, 2], [0.1, 0.9, 0.6, 0.3, 0.7, 1.2], [0, 3, 2, 4, 1, 5]
PERMUTE = {
    "2 per token": permute_case(6, False, *DROPLESS),
    "2 per token, 1 too many": permute_case(7, False, *DROPLESS),
    "2 per token, 2 too many": permute_case(8, False, *DROPLESS),
    "every entry": permute_case(None, False, *DROPLESS),
    "capacity 2": permute_case(
        8, True, [0, 2, 1, 0, 0, 1, 2, 0], [0.1, 0.9, 0.6, 0.2, 0.3, 0.7, 1.2, 0.4], [0, 2, 1, 0, 0, 1, 2, 0]
    ),
    "capacity 2, 3 too many": permute_case(
        11, True, [0, 2, 1, 0, 0, 1, 2, 0], [0.1, 0.9, 0.6, 0.2, 0.3, 0.7, 1.2, 0.4], [0, 2, 1, 0, 0, 1, 2, 0]
    ),
    "capacity 1": permute_case(4, True, [0, 1, 0, 2], [0.1, 0.6, 0.3, 1.2], [0, 1, 0, 2]),
    "capacity 3": permute_case(
        12,
        True,
        [0, 2, 1, 1, 0, 2, 0, 1, 2, 2, 0, 1],
        [0.1, 0.9, 0.5, 0.6, 0.2, 1.0, 0.3, 0.7, 1.1, 1.2, 0.4, 0.8],
        [0, 2, 1, 1, 0, 2, 0, 1, 2, 2, 0, 1],
    ),
    "fewer than experts": permute_case(3, True, [], [], []),
    "default capacity": permute_case(None, True, [], [], []),
    "fewer than tokens": permute_case(2, False, [], [], []),
    "none": permute_case(0, False, [], [], []),
    "none, padded": permute_case(0, True, [], [], []),
}
PERMUTE["every token to every expert"] = (
    {
        "tokens": TOKENS,
        "routing_map": np.ones((3, 2), np.int8),
        "probs": np.array([[0.5, 0.3], [0.4, 0.6], [0.2, 0.8]], np.float32),
        "num_out_tokens": 6,
        "drop_and_pad": False,
    },
    (
        TOKENS[[0, 1, 2, 0, 1, 2]],
        np.array([0.5, 0.4, 0.2, 0.3, 0.6, 0.8], np.float32),
        np.array([0, 3, 1, 4, 2, 5], np.int32),
    ),
)

# Results: unpermuted, as decimals, how many terms a sum has at most, out_index, permuted_token_id, permute_probs.
UNPERMUTE = {
    "dropless": (
        {
            "permuted_tokens": TOKENS[[0, 2, 1, 0, 1, 2]],
            "sorted_indices": np.array([0, 3, 2, 4, 1, 5], np.int32),
            "restore_shape": (3, 2),
            "probs": PROBS,
            "routing_map": ROUTING_MAP,
            "drop_and_pad": False,
        },
        ([[0.4, 0.8], [3.9, 5.2], [10.5, 12.6]], 2, [0] * 6, [0] * 6, [0.1, 0.3, 0.6, 0.7, 0.9, 1.2]),
    ),
    "dropless without probs": (
        {
            "permuted_tokens": TOKENS[[0, 2, 1, 0, 1, 2]],
            "sorted_indices": np.array([0, 3, 2, 4, 1, 5], np.int32),
            "restore_shape": (3, 2),
            "probs": None,
            "routing_map": None,
            "drop_and_pad": False,
        },
        ([[2, 4], [6, 8], [10, 12]], 2, [0] * 6, [0] * 6, None),
    ),
    "padded": (
        {
            "permuted_tokens": TOKENS[[0, 2, 1, 0, 0, 1, 2, 0]],
            "sorted_indices": np.array([0, 2, 1, 0, 0, 1, 2, 0], np.int32),
            "restore_shape": (3, 2),
            "probs": PROBS,
            "routing_map": ROUTING_MAP,
            "drop_and_pad": True,
        },
        (
            [[1.0, 2.0], [3.9, 5.2], [10.5, 12.6]],
            4,
            [0, 3, 4, 7, 2, 5, 1, 6],
            [0, 0, 0, 0, 1, 1, 2, 2],
            [0.1, 0.9, 0.6, 0.2, 0.3, 0.7, 1.2, 0.4],
        ),
    ),
    "padded without probs": (
        {
            "permuted_tokens": TOKENS[[0, 2, 1, 0, 0, 1, 2, 0]],
            "sorted_indices": np.array([0, 2, 1, 0, 0, 1, 2, 0], np.int32),
            "restore_shape": (3, 2),
            "probs": None,
            "routing_map": None,
            "drop_and_pad": True,
        },
        ([[4, 8], [6, 8], [10, 12]], 4, [0, 3, 4, 7, 2, 5, 1, 6], [0, 0, 0, 0, 1, 1, 2, 2], None),
    ),
    "a token that nobody selects": (
        {
            "permuted_tokens": np.ones((2, 2), np.float32),
            "sorted_indices": np.array([1, 1], np.int32),
            "restore_shape": (2, 2),
            "probs": np.ones((2, 2), np.float32),
            "routing_map": np.ones((2, 2), np.int8),
            "drop_and_pad": True,
        },
        ([[0, 0], [2, 2]], 2, [0, 1], [1, 1], [1, 1]),
    ),
}


def assert_unpermuted(seen, needed):
    """Compare all four results of a case.

    A probability in decimals is half a unit in the last place off in float32; products and sums then round once each.
    All numbers are positive, so the sum of the magnitudes is the result itself.
    """
    unpermuted, terms, out_index, permuted_token_id, permute_probs = needed
    exact = np.array(unpermuted, np.float64)
    bound = (terms + 1) * np.finfo(np.float32).eps * exact
    assert (np.abs(seen[0].astype(np.float64) - exact) <= bound).all()
    assert not np.signbit(seen[0].astype(np.float64)).any()
    for array, values in zip(seen[1:3], (out_index, permuted_token_id), strict=True):
        assert array.dtype == np.int32
        np.testing.assert_array_equal(array, values)
    if permute_probs is None:
        assert seen[3] is None
    else:
        assert seen[3].dtype == np.float32
        np.testing.assert_array_equal(seen[3], np.array(permute_probs, np.float32))
