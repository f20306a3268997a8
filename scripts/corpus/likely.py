"""Makes what a network finds in codes likely, where the median of what may be is too smooth.

Where codes leave open at which of two places a peak is, the median has none. A critic that sees
spectra of recordings, and those that were found, teaches the network to decide, as has long been
done for synthesised spectra (Kaneko and others 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from telling import BANDS, distance, find
from vocoder import SPECTRA

from voxtral_jax.errors import DataError
from voxtral_jax.nn.module import apply
from voxtral_jax.parameters import Params
from voxtral_jax.progress import followed
from voxtral_jax.training.discriminator import LEAK, Judgement
from voxtral_jax.training.losses import adversarial, hinge

FRAMES = 6
"""In a row, that the critic sees."""
LAYERS = ((24, 5, 2), (48, 5, 2), (96, 3, 1))
"""Channels, size and stride of the critic's convolutions over time and bands."""
BATCH, STEPS, LEARNING_RATE, WARM_UP = 32, 3000, 3e-4, 100
"""Rows of so many frames in a step; the rate falls as a cosine, the critic's is twice that. What
the critic says counts more and more at first."""
NEAR, FAR, MATCHING, FOOLING = 10.0, 10.0, 1.5, 0.1
"""Weights of the distance of spectra, of the square of what is beyond `TAIL`, of the critic's
features, and of its judgement."""
TAIL = 0.5
"""Of the distance: further, single outputs would whistle, and neither the critic nor a mean would
mind them."""
MIDDLE = 2.0
"""Added to spectra (logarithms), so that they lie around 0."""


class Critic(nn.Module):
    """Judges spectra `[B, N, BANDS]` in a row: features of its layers, and scores."""

    @nn.compact
    def __call__(self, spectra: Float[Array, "B N bands"]) -> Judgement:
        y, features = spectra[..., None] + MIDDLE, []
        for channels, size, stride in LAYERS:
            y = nn.leaky_relu(nn.Conv(channels, (size, size), stride)(y), LEAK)
            features.append(y)
        return features, nn.Conv(1, (3, 3))(y)[..., 0]


def apart_in(real: Sequence[Judgement], made: Sequence[Judgement]) -> Array:
    """Mean distance of the critic's features, of those of recordings as large as they are."""
    layers = [
        jnp.mean(jnp.abs(a - b)) / jnp.mean(jnp.abs(a))
        for (ours, _), (theirs, _) in zip(real, made, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return jnp.mean(jnp.stack(layers))


def make_likely(
    params: Params,
    latents: np.ndarray,
    spectra: np.ndarray,
    voiced: np.ndarray,
    lengths: Sequence[int],
    steps: int,
    seed: int = 0,
) -> Params:
    """Parameters of `telling.Detail`, what a critic makes of those of the median.

    Args:
        params: of the median.
        latents, spectra, voiced: of all frames, as `detail.gather` has them.
        lengths: frames of each recording.
        steps: of training.
        seed: of what is drawn.

    Raises:
        DataError: no recording is long enough.
    """
    critic, rows = Critic(), np.random.default_rng(seed)
    ends = np.cumsum(lengths)
    starts = [np.arange(end - n, end - FRAMES + 1) for end, n in zip(ends, lengths, strict=True)]
    firsts = np.concatenate(starts).astype(int)
    if not len(firsts):
        raise DataError(f"no recording is {FRAMES} frames long: give longer ones")
    rate = optax.cosine_decay_schedule(LEARNING_RATE, steps)
    ours = optax.adam(rate, b1=0.8, b2=0.99)
    theirs = optax.adam(lambda count: 2 * rate(count), b1=0.8, b2=0.99)

    def judge(critic_params: Params, spectra: Array) -> list[Judgement]:
        row = spectra.reshape(-1, FRAMES * SPECTRA, BANDS)
        judgement: Judgement = apply(critic, critic_params, row)
        return [judgement]

    def loss(params: Params, critic_params: Params, share: Array, *batch: Array) -> tuple[Any, Any]:
        latents, spectra, voiced = batch
        found = find(params, latents)
        judged, real = judge(critic_params, found[0]), judge(critic_params, spectra)
        owed = MATCHING * apart_in(real, judged) + FOOLING * adversarial(judged)
        apart, _ = distance(found, spectra, voiced)
        tail = jnp.mean(jnp.maximum(jnp.abs(found[0] - spectra) - TAIL, 0) ** 2)
        return NEAR * apart + FAR * tail + share * owed, found[0]

    def critic_loss(critic_params: Params, found: Array, spectra: Array) -> Array:
        return hinge(judge(critic_params, spectra), judge(critic_params, found))

    @jax.jit
    def step(both: tuple[Params, Params], states: Any, share: Array, *batch: Array) -> Any:
        params, critic_params = both
        gradient, found = jax.grad(loss, has_aux=True)(params, critic_params, share, *batch)
        change, ours_state = ours.update(gradient, states[0])
        critic_gradient = jax.grad(critic_loss)(critic_params, found, batch[1])
        critic_change, theirs_state = theirs.update(critic_gradient, states[1])
        params = optax.apply_updates(params, change)
        critic_params = optax.apply_updates(critic_params, critic_change)
        return (params, critic_params), (ours_state, theirs_state)

    first = jnp.zeros((1, FRAMES * SPECTRA, BANDS))
    both = params, critic.init(jax.random.key(seed), first)["params"]
    states = ours.init(both[0]), theirs.init(both[1])
    for number in followed(range(steps), "steps with a critic", steps):
        at = (rows.choice(firsts, BATCH)[:, None] + np.arange(FRAMES)).reshape(-1)
        batch = (x[at].astype(np.float32) for x in (latents, spectra, voiced))
        both, states = step(both, states, jnp.minimum(1.0, number / WARM_UP), *batch)
    return both[0]
