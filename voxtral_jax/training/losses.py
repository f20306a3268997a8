"""Every loss of the published recipe, as pure functions; the stages weigh and add them.

Axis letters: B rows, S samples, T codec frames, N text tokens, A acoustic codes, V audio tokens.
Weights (`weights`, `mask`, `frames`) say how much of each element counts; what they leave out
changes nothing, and a batch in which nothing counts has a loss of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from voxtral_jax.training.discriminator import Frames, Judgement
from voxtral_jax.training.spectrum import compressed, log_mel, magnitudes


def weighted_mean(values: Float[Array, "*axes"], weights: Float[Array, "*axes"]) -> Array:
    """`sum(values * weights) / sum(weights)`; 0 where all weights are 0. What has weight 0 may be
    anything, even infinite."""
    counted = jnp.where(weights > 0, values, 0.0) * weights
    return jnp.sum(counted) / jnp.maximum(jnp.sum(weights), 1e-6)


# Codec


def waveform_l1(
    real: Float[Array, "B S"], fake: Float[Array, "B S"], mask: Float[Array, "B S"]
) -> Array:
    """Mean absolute difference of valid samples."""
    return weighted_mean(jnp.abs(real - fake), mask)


def _spectral_l1(
    view: Callable[[Array, int], Array],
    real: Float[Array, "B S"],
    fake: Float[Array, "B S"],
    sizes: Sequence[int],
    share: Float[Array, ""],
) -> Array:
    """Mean absolute difference of what `view` makes of both at each window size."""
    distances = [jnp.mean(jnp.abs(view(real, n) - view(fake, n))) for n in sizes]
    return jnp.mean(jnp.stack(distances)) / jnp.maximum(share, 1e-6)


def stft_l1(
    real: Float[Array, "B S"],
    fake: Float[Array, "B S"],
    sizes: Sequence[int],
    share: Float[Array, ""],
) -> Array:
    """Mean absolute difference of STFT magnitudes, averaged over window sizes.

    Args:
        real, fake: both zero where they are not valid.
        sizes: windows in samples.
        share: of the batch that is valid; the mean is over that part.
    """
    return _spectral_l1(magnitudes, real, fake, sizes, share)


def log_mel_l1(
    real: Float[Array, "B S"],
    fake: Float[Array, "B S"],
    sizes: Sequence[int],
    share: Float[Array, ""],
    rate: int,
) -> Array:
    """Mean absolute difference of log10 mel magnitudes, averaged over window sizes.

    Unlike `stft_l1` it minds what is quiet, which counts where no discriminator listens.

    Args:
        real, fake, sizes, share: as in `stft_l1`.
        rate: samples a second.
    """
    return _spectral_l1(lambda x, n: log_mel(x, n, rate), real, fake, sizes, share)


def compressed_l1(
    real: Float[Array, "B S"],
    fake: Float[Array, "B S"],
    sizes: Sequence[int],
    share: Float[Array, ""],
) -> Array:
    """Mean distance of `compressed` spectra, phase and all; arguments as in `stft_l1`."""
    return _spectral_l1(compressed, real, fake, sizes, share)


def _judged_mean(values: Array, frames: Float[Array, "B frames"] | None) -> Array:
    """Mean of values `[B, frames, ...]` over the frames that count, all of them if None."""
    if frames is None:
        return jnp.mean(values)
    return weighted_mean(jnp.mean(values, axis=range(2, values.ndim)), frames)


def feature_matching(
    real: Sequence[Judgement], fake: Sequence[Judgement], frames: Frames | None = None
) -> Float[Array, ""]:
    """Mean absolute difference of features, averaged over layers and discriminators.

    Args:
        real, fake: of each discriminator.
        frames: of each discriminator, which of its frames count; None is all.
    """
    distances = [
        _judged_mean(jnp.abs(a - b), count)
        for (ours, _), (theirs, _), count in zip(real, fake, _each(frames, real), strict=True)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return jnp.mean(jnp.stack(distances))


def hinge(
    real: Sequence[Judgement], fake: Sequence[Judgement], frames: Frames | None = None
) -> Float[Array, ""]:
    """Discriminators' loss: scores of real audio should exceed 1, of ours fall below -1.

    Arguments are those of `feature_matching`.
    """
    terms = [
        _judged_mean(jax.nn.relu(1 - a) + jax.nn.relu(1 + b), count)
        for (_, a), (_, b), count in zip(real, fake, _each(frames, real), strict=True)
    ]
    return jnp.mean(jnp.stack(terms))


def adversarial(fake: Sequence[Judgement], frames: Frames | None = None) -> Float[Array, ""]:
    """Generator's loss: minus the scores of what it made, averaged over discriminators.

    Arguments are those of `feature_matching`.
    """
    counts = _each(frames, fake)
    means = [_judged_mean(scores, count) for (_, scores), count in zip(fake, counts, strict=True)]
    return -jnp.mean(jnp.stack(means))


def _each(
    frames: Frames | None, judged: Sequence[Judgement]
) -> Sequence[Float[Array, "B frames"] | None]:
    return [None] * len(judged) if frames is None else frames


def commitment(
    latents: Float[Array, "B T C"], nearest: Float[Array, "B T C"], mask: Float[Array, "B T"]
) -> Array:
    """Mean square of the distance from the codebook entries, which get no gradient."""
    square = jnp.mean((latents - jax.lax.stop_gradient(nearest)) ** 2, axis=-1)
    return weighted_mean(square, mask)


def token_cosine(
    projected: Float[Array, "B T D"],
    hidden: Float[Array, "B N D"],
    alignment: Float[Array, "B N T"],
    mask: Float[Array, "B N"],
) -> Array:
    """Distillation: 1 - mean cosine of latents averaged per token and the teacher's hidden states.

    Args:
        projected: post-VQ semantic latents after the linear projection.
        hidden: one state per text token.
        alignment: how much of each frame belongs to each token; normalised here over frames.
        mask: tokens that count.
    """
    weights = alignment / jnp.maximum(jnp.sum(alignment, axis=-1, keepdims=True), 1e-6)
    pooled = jnp.einsum("bnt,btd->bnd", weights, projected)
    cosine = optax.losses.cosine_similarity(pooled, hidden, epsilon=1e-6)
    counted = jnp.sum(mask) > 0
    return jnp.where(counted, 1 - weighted_mean(cosine, mask), 0.0)


# Speech


def semantic_cross_entropy(
    logits: Float[Array, "*places V"],
    tokens: Int[Array, "*places"],
    weights: Float[Array, "*places"],
) -> Array:
    """Mean cross-entropy of the semantic audio tokens, `[END_AUDIO]` among them."""
    return weighted_mean(token_negative_log(logits, tokens), weights)


def token_negative_log(
    logits: Float[Array, "*places V"], tokens: Int[Array, "*places"]
) -> Float[Array, "*places"]:
    """Negative log-likelihood of each token."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens)


def flow_path(
    data: Float[Array, "*places A"],
    noise: Float[Array, "*places A"],
    t: Float[Array, "*places"],
    sigma: float,
) -> tuple[Array, Array]:
    """State at time t on the straight path from noise to data, and its velocity.

    `x_t = (1 - (1 - sigma) t) noise + t data`, `v = data - (1 - sigma) noise`.
    """
    t = t[..., None]
    return (1 - (1 - sigma) * t) * noise + t * data, data - (1 - sigma) * noise


def flow_error(
    velocity: Float[Array, "*places A"],
    target: Float[Array, "*places A"],
    weights: Sequence[float] = (),
) -> Float[Array, "*places"]:
    """Squared error of the velocity, mean over the acoustic codes of a frame.

    Args:
        weights: how much each of them counts; all alike if empty.
    """
    square = (velocity - target) ** 2
    return jnp.average(square, axis=-1, weights=jnp.asarray(weights) if weights else None)


def attention_outside(
    queries: Float[Array, "B M head"],
    keys: Float[Array, "B L head"],
    visible: Bool[Array, "B M L"],
    wanted: Int[Array, "B M 2"],
) -> Float[Array, "B M"]:
    """How little a head attends to where it should: minus the logarithm of its weight there.

    Args:
        queries: of the places that look.
        keys: of the tokens that are looked at.
        visible: which of them a place may see.
        wanted: first and last token that should be looked at.
    """
    scores = jnp.einsum("bmh,blh->bml", queries, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(visible, scores / queries.shape[-1] ** 0.5, -1e30)
    tokens = jnp.arange(keys.shape[1])
    inside = (tokens >= wanted[..., :1]) & (tokens <= wanted[..., 1:])
    within = jax.nn.logsumexp(jnp.where(inside, scores, -1e30), axis=-1)
    return jax.nn.logsumexp(scores, axis=-1) - within


# Preferences


def preference(
    winner: Float[Array, " B"],
    winner_reference: Float[Array, " B"],
    loser: Float[Array, " B"],
    loser_reference: Float[Array, " B"],
    beta: float,
) -> Float[Array, " B"]:
    """DPO: `-log sigmoid(beta ((winner - its reference) - (loser - its reference)))`.

    The arguments are log-likelihoods of whole samples; for the flow, whose likelihood is not at
    hand, minus the flow-matching errors summed over frames stand in for them.
    """
    margin = (winner - winner_reference) - (loser - loser_reference)
    return jax.nn.softplus(-beta * margin)
