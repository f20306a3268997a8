"""The quantiser while it is trained: modes drawn per sample, and the codebook's moving averages."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from voxtral_jax.codec.quantizer import codebook_table
from voxtral_jax.config import CodecConfig
from voxtral_jax.kernels.fsq import quantize
from voxtral_jax.parameters import Params
from voxtral_jax.training.settings import Count, Share


@dataclass(frozen=True, kw_only=True)
class QuantizerSettings:
    """How the quantiser is trained.

    Attributes:
        semantic_share: of samples whose semantic latents are quantised; others pass unchanged.
        acoustic_share: of samples whose acoustic latents are rounded, straight through.
        noise_share: of samples that get uniform noise of half a level instead; the rest is only
            bounded by tanh.
        decay: of the codebook's moving averages.
        least_usage: an entry whose average usage per step falls below this is restarted.
        restart_every: steps between restarts.
        anchored: semantic codes are those of the codec that the run started from, commitment draws
            latents to those of its encoder, and the codebook stays as it is: a speech model that
            knows these codes need not learn new ones. Not published.
    """

    semantic_share: Share = 0.5
    acoustic_share: Share = 0.5
    noise_share: Share = 0.25
    decay: Share = 0.99
    least_usage: float = 0.1
    restart_every: Count = 20
    anchored: bool = False


@struct.dataclass
class Codebook:
    """Moving averages that make the semantic codebook; the names of the checkpoint.

    Attributes:
        embedding_sum: `[entries, dim]` float32, average sum of latents per step.
        cluster_usage: `[entries]` float32, average count of latents per step.
    """

    embedding_sum: Float[Array, "entries dim"]
    cluster_usage: Float[Array, " entries"]

    @property
    def table(self) -> Float[Array, "entries dim"]:
        """The entries."""
        return codebook_table(self.embedding_sum, self.cluster_usage)


def codebook_of(weights: Params) -> Codebook:
    """The codebook among the weights."""
    return Codebook(**weights["codec"]["quantizer"]["semantic_codebook"])


@struct.dataclass
class Quantized:
    """What the quantiser made of a batch of latents.

    Attributes:
        latents: `[B, T, C]` for the decoder, in the drawn modes; gradients pass straight through.
        semantic: `[B, T, semantic]` entries of the codes, straight through: what distillation sees.
        codes: `[B, T]` int32 their indices.
    """

    latents: Float[Array, "B T C"]
    semantic: Float[Array, "B T semantic"]
    codes: Int[Array, "B T"]


def straight_through(x: Array, rounded: Array) -> Array:
    """The value of `rounded` with the gradient of `x`."""
    return x + jax.lax.stop_gradient(rounded - x)


def quantize_for_training(
    latents: Float[Array, "B T C"],
    codes: Int[Array, "B T"],
    table: Float[Array, "entries dim"],
    config: CodecConfig,
    settings: QuantizerSettings,
    key: jax.Array,
) -> Quantized:
    """Draws a mode for each sample and quantises in it; `codes` are the semantic ones."""
    rows = (latents.shape[0], 1, 1)
    for_semantic, for_acoustic, for_noise = jax.random.split(key, 3)
    semantic, acoustic = jnp.split(latents, [config.semantic_dim], axis=-1)

    entries = jax.lax.stop_gradient(jnp.take(table, codes, axis=0))
    chosen = straight_through(semantic, entries)
    quantised = jax.random.uniform(for_semantic, rows) < settings.semantic_share

    bounded = jnp.tanh(acoustic)
    levels = config.acoustic_codebook_size
    _, values = quantize(jax.lax.stop_gradient(acoustic), levels, "jnp")
    # Rounding errs by up to half the distance of two levels, 2 / (levels - 1); so does the noise.
    half = 1.0 / (levels - 1)
    noise = jax.random.uniform(for_noise, acoustic.shape, minval=-half, maxval=half)
    draw = jax.random.uniform(for_acoustic, rows)
    rounded, noisy = settings.acoustic_share, settings.acoustic_share + settings.noise_share
    acoustic = jnp.where(
        draw < rounded,
        straight_through(bounded, values),
        bounded + jnp.where(draw < noisy, noise, 0.0),
    )
    mixed = jnp.where(quantised, chosen, semantic)
    return Quantized(jnp.concatenate([mixed, acoustic], axis=-1), chosen, codes)


def update_codebook(
    codebook: Codebook,
    semantic: Float[Array, "B T dim"],
    codes: Int[Array, "B T"],
    mask: Float[Array, "B T"],
    settings: QuantizerSettings,
    step: Int[Array, ""],
    key: jax.Array,
) -> tuple[Codebook, dict[str, Array]]:
    """Moves the averages by one batch, restarts dead entries, and tells how the codebook is used.

    Sums run over the whole batch wherever its rows lie: on a mesh the compiler adds them up over
    the data axis. At step 0 every entry of a random codebook is taken from the batch; one that was
    trained before is kept. A dead entry becomes a latent of the batch drawn at random.

    Returns:
        The codebook, and `usage` (share of entries that the batch used) and `perplexity` (of the
        averages; the number of entries that would be used evenly).
    """
    entries, dim = codebook.embedding_sum.shape
    flat, weights = semantic.reshape(-1, dim), mask.reshape(-1)
    flat = jax.lax.stop_gradient(flat) * weights[:, None]
    counts = jnp.zeros(entries).at[codes.reshape(-1)].add(weights)
    sums = jnp.zeros((entries, dim)).at[codes.reshape(-1)].add(flat)
    keep = settings.decay
    usage = keep * codebook.cluster_usage + (1 - keep) * counts
    total = keep * codebook.embedding_sum + (1 - keep) * sums

    # Usage is all ones before training, and never again.
    untrained = (step == 0) & jnp.all(codebook.cluster_usage == 1)
    due = step % settings.restart_every == settings.restart_every - 1
    dead = ((due & (usage < settings.least_usage)) | untrained) & (jnp.sum(weights) > 0)
    drawn = jax.random.categorical(key, jnp.log(weights), shape=(entries,))
    fresh = jnp.take(flat, drawn, axis=0)
    moved = Codebook(
        # A restarted entry counts as used twice as much as a dead one: it has time to be chosen.
        jnp.where(dead[:, None], 2 * settings.least_usage * fresh, total),
        jnp.where(dead, 2 * settings.least_usage, usage),
    )
    share = moved.cluster_usage / jnp.sum(moved.cluster_usage)
    entropy = -jnp.sum(share * jnp.log(jnp.maximum(share, 1e-12)))
    return moved, {"usage": jnp.mean(counts > 0), "perplexity": jnp.exp(entropy)}
