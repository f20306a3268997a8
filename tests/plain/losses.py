"""Training losses by their definitions, in loops and float64: what `test_losses.py` compares to."""

from __future__ import annotations

import math

import numpy as np


def stft(x: np.ndarray, size: int) -> np.ndarray:
    """Spectra `[frames, bins]`: windows centred on every `size // 4`-th sample, zeros around."""
    hop, half = size // 4, size // 2
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / size) for n in range(size)])
    window = window / math.sqrt(sum(window**2))
    frames = []
    for start in range(0, len(x), hop):
        piece = np.array(
            [x[i] if 0 <= i < len(x) else 0.0 for i in range(start - half, start - half + size)]
        )
        angles = np.outer(np.arange(size // 2 + 1), np.arange(size)) * (-2j * math.pi / size)
        frames.append(np.exp(angles) @ (piece * window))
    return np.array(frames)


def stft_l1(real: np.ndarray, fake: np.ndarray, sizes: tuple[int, ...]) -> float:
    """Mean over sizes of the mean absolute difference of magnitudes, `[B, S]` inputs."""
    means = []
    for size in sizes:
        rows = [
            np.abs(np.abs(stft(a, size)) - np.abs(stft(b, size)))
            for a, b in zip(real, fake, strict=True)
        ]
        means.append(np.mean(rows))
    return float(np.mean(means))


def token_cosine(
    projected: np.ndarray, hidden: np.ndarray, alignment: np.ndarray, mask: np.ndarray
) -> float:
    """1 - mean cosine over the tokens that count."""
    cosines = []
    for b in range(hidden.shape[0]):
        for n in range(hidden.shape[1]):
            if not mask[b, n]:
                continue
            share = alignment[b, n] / alignment[b, n].sum()
            pooled = sum(w * latent for w, latent in zip(share, projected[b], strict=True))
            lengths = np.linalg.norm(pooled) * np.linalg.norm(hidden[b, n])
            cosines.append(float(pooled @ hidden[b, n]) / lengths)
    return 1 - float(np.mean(cosines))


def negative_log(logits: np.ndarray, token: int) -> float:
    """Of one token under a softmax."""
    top = logits.max()
    return float(top + math.log(sum(np.exp(logits - top))) - logits[token])


def ctc(logits: np.ndarray, labels: list[int]) -> float:
    """Negative log-likelihood of labels `[N]` under `[T, V]` logits with blank 0, by summing over
    all paths with the forward algorithm."""
    logs = np.array([[-negative_log(row, v) for v in range(len(row))] for row in logits])
    extended = [0]
    for label in labels:
        extended += [label, 0]
    alpha = {0: logs[0, 0]} | ({1: logs[0, extended[1]]} if labels else {})
    for t in range(1, len(logs)):
        before, alpha = alpha, {}
        for s, symbol in enumerate(extended):
            ways = [before[r] for r in (s, s - 1) if r in before]
            skip = s >= 2 and symbol != 0 and symbol != extended[s - 2]
            if skip and s - 2 in before:
                ways.append(before[s - 2])
            if ways:
                alpha[s] = float(np.logaddexp.reduce(ways)) + logs[t, symbol]
    last = len(extended) - 1
    return -float(np.logaddexp.reduce([alpha[s] for s in (last, last - 1) if s in alpha]))


def moved_codebook(
    total: np.ndarray,
    usage: np.ndarray,
    latents: np.ndarray,
    codes: np.ndarray,
    mask: np.ndarray,
    decay: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Moving averages after one batch, nothing restarted."""
    total, usage = total * decay, usage * decay
    for row in range(codes.shape[0]):
        for frame in range(codes.shape[1]):
            if mask[row, frame]:
                total[codes[row, frame]] += (1 - decay) * latents[row, frame]
                usage[codes[row, frame]] += 1 - decay
    return total, usage
