"""What the three transformers share: norm, feed-forward, attention, positions.

Axes: T steps, D width, H query heads, G key/value heads. One sequence at a time, no batch.
"""

import numpy as np

Weights = dict[str, np.ndarray]
"""Checkpoint name to array, all of one floating point type."""


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """Scale every row of `x` [T, D] to a mean square of one, then by `weight` [D]."""
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + eps) * weight


def linear(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Map `x` [..., in] by `weight` [out, in]."""
    return x @ weight.T


def feed_forward(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """SwiGLU: w2(silu(w1 x) * w3 x)."""
    gate = linear(x, w[f"{name}.w1.weight"])
    sigmoid = 0.5 * (1 + np.tanh(0.5 * gate))
    return linear(gate * sigmoid * linear(x, w[f"{name}.w3.weight"]), w[f"{name}.w2.weight"])


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis; -inf entries get no weight."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Attention head by head: q [T, H, d], k and v [T, G, d], bias [H, T, T] -> [T, H * d].

    Neighbouring query heads share a key/value head: query head h reads head h // (H / G).
    """
    heads, groups, size = q.shape[1], k.shape[1], q.shape[2]
    if heads % groups:
        raise ValueError(f"{heads} query heads cannot share {groups} key/value heads evenly")
    outputs = []
    for head in range(heads):
        group = head // (heads // groups)
        scores = q[:, head] @ k[:, group].T / float(np.sqrt(size)) + bias[head]
        outputs.append(softmax(scores) @ v[:, group])
    return np.concatenate(outputs, axis=-1)


def causal_bias(heads: int, steps: int, dtype: np.dtype) -> np.ndarray:
    """Zero for keys up to the query, -inf after it: [H, T, T]."""
    query, key = np.mgrid[:steps, :steps]
    bias = np.where(key <= query, 0.0, -np.inf)
    return np.broadcast_to(bias, (heads, steps, steps)).astype(dtype)


def alibi_slopes(heads: int) -> list[float]:
    """The first slope is 1; see architecture.md for a head count that is no power of two."""

    def geometric(count: int) -> list[float]:
        ratio = 2.0 ** (-8.0 / count)
        return [ratio**power for power in range(count)]

    largest = 1
    while largest * 2 <= heads:
        largest *= 2
    return geometric(largest) + geometric(2 * largest)[::2][: heads - largest]


def alibi_bias(heads: int, steps: int, window: int, dtype: np.dtype) -> np.ndarray:
    """slope * (key - query) for query - window <= key <= query, -inf elsewhere: [H, T, T]."""
    query, key = np.mgrid[:steps, :steps]
    allowed = (key <= query) & (key >= query - window)
    biases = [np.where(allowed, slope * (key - query), -np.inf) for slope in alibi_slopes(heads)]
    return np.stack(biases).astype(dtype)


def rotate(x: np.ndarray, theta: float) -> np.ndarray:
    """RoPE on `x` [T, heads, d] at positions 0..T-1; the pairs are (2i, 2i + 1)."""
    steps, _, size = x.shape
    frequencies = theta ** (-np.arange(0, size, 2) / size)
    angles = np.arange(steps)[:, None] * frequencies
    cosine = np.cos(angles)[:, None, :].astype(x.dtype)
    sine = np.sin(angles)[:, None, :].astype(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    rotated = np.empty_like(x)
    rotated[..., 0::2] = even * cosine - odd * sine
    rotated[..., 1::2] = even * sine + odd * cosine
    return rotated


def transformer(
    w: Weights, prefix: str, args: dict, x: np.ndarray, eps: float, theta: float | None
) -> np.ndarray:
    """The pre-norm layers and final norm of language model and acoustic transformer: [T, D].

    Causal with RoPE where `theta` is given, else bidirectional and without positions.
    """
    steps, heads, groups, size = len(x), args["n_heads"], args["n_kv_heads"], args["head_dim"]
    bias = np.zeros((heads, steps, steps), x.dtype)
    if theta is not None:
        bias = causal_bias(heads, steps, x.dtype)
    for layer in range(args["n_layers"]):
        name = f"{prefix}layers.{layer}"
        normed = rms_norm(x, w[f"{name}.attention_norm.weight"], eps)
        q = linear(normed, w[f"{name}.attention.wq.weight"]).reshape(steps, heads, size)
        k = linear(normed, w[f"{name}.attention.wk.weight"]).reshape(steps, groups, size)
        v = linear(normed, w[f"{name}.attention.wv.weight"]).reshape(steps, groups, size)
        if theta is not None:
            q, k = rotate(q, theta), rotate(k, theta)
        x = x + linear(attend(q, k, v, bias), w[f"{name}.attention.wo.weight"])
        normed = rms_norm(x, w[f"{name}.ffn_norm.weight"], eps)
        x = x + feed_forward(w, f"{name}.feed_forward", normed)
    return rms_norm(x, w[f"{prefix}norm.weight"], eps)
