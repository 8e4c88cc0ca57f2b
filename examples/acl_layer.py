"""One MoE layer, from router scores to the weighted sum of its experts, by four operators on a card or the CPU device.

    export ASCEND_HOME_PATH=$(moe-native ascend-home)    # or source set_env.sh on the host of a card
    python examples/acl_layer.py

The executors are made once and run for every batch; nothing between the operators comes back to the host. The result is
compared with NumPy in float64.
"""

import numpy as np

import acl_binding as acl

TOKENS, HIDDEN, INTER, EXPERTS, TOP_K, BATCHES = 32, 64, 128, 8, 2, 3
ROWS = TOKENS * TOP_K


class Layer:
    """The weights and the four prepared calls, on a device."""

    def __init__(self, device: acl.Device, w1: np.ndarray, w2: np.ndarray) -> None:
        self.x = device.zeros((TOKENS, HIDDEN), "float16")
        self.scores = device.zeros((TOKENS, EXPERTS), "float16")
        self.y = device.empty((TOKENS, HIDDEN), "float16")
        weight = device.empty((TOKENS, TOP_K), "float16")
        expert, source = (device.empty((TOKENS, TOP_K), "int32") for _ in range(2))
        rows, outputs = (device.empty((ROWS, HIDDEN), "float16") for _ in range(2))
        place, counts = device.empty((ROWS,), "int32"), device.empty((EXPERTS,), "int64")
        calls = [
            ("aclnnMoeGatingTopKSoftmax", self.scores, None, TOP_K, weight, expert, source),
            ("aclnnMoeInitRoutingV3", self.x, expert, None, None, ROWS, 0, EXPERTS, 0, 1, True, -1, [0, EXPERTS], 0,
             rows, place, counts, device.zeros((ROWS,), "float32")),
            ("aclnnFFNV3", rows, device.tensor(w1), device.tensor(w2), counts, *[None] * 10, "relu", 0, False, outputs),
            ("aclnnMoeFinalizeRoutingV2", outputs, place, None, None, None, weight, expert, 2, self.y),
        ]  # fmt: skip
        self.calls = [device.prepare(name, *arguments).repeatable() for name, *arguments in calls]

    def __call__(self, stream: acl.Stream, x: np.ndarray, scores: np.ndarray) -> np.ndarray:
        self.x.copy_from(x)
        self.scores.copy_from(scores)
        for call in self.calls:
            call.run(stream)
        stream.synchronize()
        return self.y.numpy()


def expected(x: np.ndarray, scores: np.ndarray, w1: np.ndarray, w2: np.ndarray) -> np.ndarray:
    x, w1, w2, weight = (a.astype(np.float64) for a in (x, w1, w2, scores))
    weight = np.exp(weight - weight.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    experts = np.maximum(np.einsum("th,ehi->tei", x, w1), 0)
    chosen = np.zeros_like(weight)
    order = np.argsort(-weight, axis=1, kind="stable")[:, :TOP_K]
    np.put_along_axis(chosen, order, np.take_along_axis(weight, order, axis=1), axis=1)
    return np.einsum("te,tei,eih->th", chosen, experts, w2)


def main() -> None:
    rng = np.random.default_rng(0)
    w1, w2 = (rng.normal(scale=shape[1] ** -0.5, size=shape).astype(np.float16)
              for shape in [(EXPERTS, HIDDEN, INTER), (EXPERTS, INTER, HIDDEN)])  # fmt: skip
    lib = acl.open()
    print(f"{lib.soc}, CANN {lib.cann_version}, {lib.home}")
    with lib.device() as device, device.stream() as stream:
        layer = Layer(device, w1, w2)
        for batch in range(BATCHES):
            x = rng.normal(size=(TOKENS, HIDDEN)).astype(np.float16)
            scores = rng.normal(scale=3, size=(TOKENS, EXPERTS)).astype(np.float16)
            needed = expected(x, scores, w1, w2)
            error = np.abs(layer(stream, x, scores) - needed).max() / np.abs(needed).max()
            print(f"batch {batch}: largest error {error:.1e} of the largest result")
            # Five roundings to float16 of at most 2**-11 each, on values no larger than twice the result.
            assert error < 5 * 2 * 2**-11


if __name__ == "__main__":
    main()
