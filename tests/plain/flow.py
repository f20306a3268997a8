"""The two heads on a hidden state: semantic logits, and the flow to the acoustic codes."""

import numpy as np

from .language import EMPTY_AUDIO, OFFSET
from .layers import Weights, linear, transformer

MASKED = -1e30


def flow_args(params: dict) -> dict:
    """The sizes of the acoustic transformer."""
    return params["multimodal"]["audio_model_args"]["acoustic_transformer_args"]


def flow_steps(params: dict) -> int:
    """Steps of the flow."""
    return flow_args(params).get("n_decoding_steps", 7)


def frequencies(count: int, theta: float = 1e4) -> np.ndarray:
    """What `time_embedding.inv_freq` holds, before bfloat16: [count]."""
    return theta ** (-np.arange(count) / count)


def time_features(w: Weights, t: float) -> np.ndarray:
    """Cosines, then sines of a time in 0..1: [dim].

    The frequencies are those stored, in bfloat16: the formula's own are up to 2e-3 away (relative).
    """
    angles = t * w["acoustic_transformer.time_embedding.inv_freq"]
    return np.concatenate([np.cos(angles), np.sin(angles)])


def velocity(w: Weights, params: dict, h: np.ndarray, x: np.ndarray, t: float) -> np.ndarray:
    """The flow's velocity [acoustic] at x [acoustic] and time t, for a hidden state h [D]."""
    args, name = flow_args(params), "acoustic_transformer."
    sequence = np.stack(
        [
            linear(x, w[f"{name}input_projection.weight"]),
            linear(time_features(w, t), w[f"{name}time_projection.weight"]),
            linear(h, w[f"{name}llm_projection.weight"]),
        ]
    )
    eps = args.get("norm_eps", 1e-5)
    out = transformer(w, name, args, sequence, eps, None)
    return linear(out[0], w[f"{name}acoustic_codebook_output.weight"])


def guided(
    w: Weights, params: dict, h: np.ndarray, x: np.ndarray, t: float, guidance: float
) -> np.ndarray:
    """The guided velocity: guidance * v(h) + (1 - guidance) * v(0)."""
    with_hidden = velocity(w, params, h, x, t)
    without = velocity(w, params, np.zeros_like(h), x, t)
    return guidance * with_hidden + (1 - guidance) * without


def euler(w: Weights, params: dict, h: np.ndarray, x: np.ndarray, guidance: float) -> np.ndarray:
    """The end of the flow from x [acoustic], before clamp and rounding."""
    steps = flow_steps(params)
    for step in range(steps):
        x = x + guided(w, params, h, x, step / steps, guidance) / steps
    return x


def midpoint(w: Weights, params: dict, h: np.ndarray, x: np.ndarray, guidance: float) -> np.ndarray:
    """As `euler`, with two evaluations a step."""
    steps = flow_steps(params)
    for step in range(steps):
        half = x + guided(w, params, h, x, step / steps, guidance) / (2 * steps)
        x = x + guided(w, params, h, half, (step + 0.5) / steps, guidance) / steps
    return x


def flow_positions(params: dict, x: np.ndarray) -> np.ndarray:
    """Where the end of a flow lies between level 0 and the last: [acoustic], unrounded."""
    levels = params["multimodal"]["audio_model_args"]["acoustic_codebook_size"]
    return (np.clip(x, -1, 1) + 1) / 2 * (levels - 1)


def semantic_logits(w: Weights, params: dict, h: np.ndarray) -> np.ndarray:
    """Logits of the semantic code with offset, [EMPTY_AUDIO] and the padding masked."""
    logits = linear(h, w["acoustic_transformer.semantic_codebook_output.weight"])
    size = params["multimodal"]["audio_model_args"]["semantic_codebook_size"] + OFFSET
    logits[EMPTY_AUDIO] = MASKED
    logits[size:] = MASKED
    return logits
