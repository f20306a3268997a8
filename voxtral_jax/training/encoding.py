"""What the encoder makes of a batch, and what it owes without the decoder."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from voxtral_jax.codec.model import Codec, encoder_places, open_stream
from voxtral_jax.codec.quantizer import nearest
from voxtral_jax.nn.module import apply
from voxtral_jax.parameters import Params
from voxtral_jax.training import losses
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.envelope import early_loss, envelope_loss, envelopes
from voxtral_jax.training.losses import weighted_mean
from voxtral_jax.training.pitch import LATENTS, exact_latents, pitch_loss
from voxtral_jax.training.quantization import codebook_of
from voxtral_jax.training.recipe import CodecTraining
from voxtral_jax.training.state import join


@struct.dataclass
class Encoded:
    """What the encoder makes of a batch.

    Attributes:
        lengths: `[B]` frames that are valid.
        frames: `[B, T]` float32, 1 where valid.
        latents: `[B, T, C]` before quantisation.
        heard: what is decoded of them: acoustic latents are exact in the rows drawn for it.
        codes: `[B, T]` the semantic codes.
        drawn_to: where commitment draws the semantic latents: codebook entries, or the anchor's.
        envelope: loss of the envelopes that the acoustic latents name; 0 where none are taught.
        early: of those that are heard in the middle of the encoder.
        kept: share of semantic codes that are those of the anchor; 1 without one.
    """

    lengths: Int[Array, " B"]
    frames: Float[Array, "B T"]
    latents: Float[Array, "B T C"]
    heard: Float[Array, "B T C"]
    codes: Int[Array, "B T"]
    drawn_to: Float[Array, "B T semantic"]
    envelope: Float[Array, ""]
    early: Float[Array, ""]
    kept: Float[Array, ""]


def encode_batch(
    training: CodecTraining, weights: Params, batch: CropBatch, key: jax.Array, keep: str
) -> Encoded:
    """Encodes, and compares with what the encoder is taught.

    Args:
        weights: trained and frozen.
        key: of the rows whose acoustic latents are exact, and of nothing else.
        keep: a key of `voxtral_jax.nn.module.REMAT`.
    """
    c = training.config
    module = Codec(c, remat=keep)
    rows = len(batch.samples)
    patches = batch.samples.reshape(rows, -1, c.pretransform_patch_size)
    steps = -(-batch.lengths // c.pretransform_patch_size)

    def encode(encoder: Params) -> list[Array]:
        stream = open_stream(encoder_places(c), rows)
        return apply(module, encoder, patches, steps, stream, method="encode_through")[0]

    given = encode(weights["codec"])
    latents = given[-1]
    lengths = -(-steps // c.stride)
    frames = (jnp.arange(latents.shape[1]) < lengths[:, None]).astype(jnp.float32)
    heard, envelope, early = latents, jnp.zeros(()), jnp.zeros(())
    if (components := weights.get("envelope")) is not None:
        made = envelopes(batch.samples, c)
        teaches_pitch = training.envelope.pitch > 0
        exact = exact_latents(made, batch.pitch if teaches_pitch else None, components)
        semantic, acoustic = jnp.split(latents, [c.semantic_dim], axis=-1)
        envelope = envelope_loss(acoustic, made, exact, components, frames)
        if training.teaches_early:
            early = early_loss(weights["early"], given, made, components, frames, c)
        if teaches_pitch:
            apart = pitch_loss(acoustic[..., -LATENTS:], exact[..., -LATENTS:], frames)
            envelope = envelope + training.envelope.pitch * apart
            # What the decoder would have them say would only disturb what they are taught.
            pitch = jax.lax.stop_gradient(acoustic[..., -LATENTS:])
            acoustic = acoustic.at[..., -LATENTS:].set(pitch)
        taught = jax.random.uniform(key, (rows, 1, 1))
        acoustic = jnp.where(taught < training.envelope.exact_share, jnp.arctanh(exact), acoustic)
        heard = jnp.concatenate([semantic, acoustic], axis=-1)
    table = codebook_of(weights).table
    own = nearest(jax.lax.stop_gradient(latents[..., : c.semantic_dim]), table)
    if (encoder := weights.get("anchor")) is not None:
        drawn_to = encode(encoder)[-1][..., : c.semantic_dim]
        codes = nearest(drawn_to, table)
    else:
        codes, drawn_to = own, jax.lax.stop_gradient(jnp.take(table, own, axis=0))
    kept = weighted_mean((own == codes).astype(jnp.float32), frames)
    return Encoded(lengths, frames, latents, heard, codes, drawn_to, envelope, early, kept)


def encoder_losses(training: CodecTraining, encoded: Encoded) -> tuple[Array, dict[str, Array]]:
    """What the encoder owes without the decoder, weighed and added; and each alone."""
    semantic = encoded.latents[..., : training.config.semantic_dim]
    commitment = losses.commitment(semantic, encoded.drawn_to, encoded.frames)
    taught = training.envelope
    total = (
        training.losses.commitment * commitment
        + taught.weight * encoded.envelope
        + taught.early * encoded.early
    )
    each = {"commitment": commitment}
    if taught.used:
        each["envelope"] = encoded.envelope
    if training.teaches_early:
        each["early"] = encoded.early
    if training.anchored:
        each["kept"] = encoded.kept
    return total, each


def encoder_loss(
    training: CodecTraining,
    keep: str,
    params: Params,
    frozen: Params,
    batch: CropBatch,
    key: jax.Array,
    step: Array,
) -> tuple[Array, dict[str, Array]]:
    """The loss of the encoder alone: nothing is decoded."""
    return encoder_losses(training, encode_batch(training, join(params, frozen), batch, key, keep))
