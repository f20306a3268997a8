"""Codec training: generator and discriminators in one step, codebook by moving averages.

The weights are `{"codec": as in the model, "heads": of the distillation, "critic":
discriminators, "envelope": principal components, "early": heads in the encoder, "cycles": heads in
the decoder, "anchor": the encoder that the run started from}`; the codebook is among the frozen
weights, where the step moves it, and so are the components and the anchor.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from voxtral_jax.codec.model import Codec, decoder_places, open_stream
from voxtral_jax.nn.module import apply, apply_through
from voxtral_jax.nn.transformer import TransformerLayer
from voxtral_jax.parameters import Params
from voxtral_jax.training import losses
from voxtral_jax.training.cycles import cycle_loss
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.discriminator import judge_both, valid_frames
from voxtral_jax.training.encoding import Encoded, encode_batch, encoder_losses
from voxtral_jax.training.quantization import (
    Codebook,
    Quantized,
    codebook_of,
    quantize_for_training,
    update_codebook,
)
from voxtral_jax.training.recipe import CodecTraining
from voxtral_jax.training.state import Gradients, join


@struct.dataclass
class Rebuilt:
    """What the generator makes of a batch.

    Attributes:
        real: `[B, S]` what is to be given back, zero where not valid.
        fake: what the codec gives back.
        samples: `[B, S]` float32, 1 where valid.
        encoded: before quantisation.
        quantized: after it.
        cycles: loss of where in their cycle voices are, as the decoder's layers say it; 0 where
            that is not taught.
    """

    real: Float[Array, "B S"]
    fake: Float[Array, "B S"]
    samples: Float[Array, "B S"]
    encoded: Encoded
    quantized: Quantized
    cycles: Float[Array, ""]


def _with_codebook(codebook: Codebook) -> Params:
    averages = {
        "embedding_sum": codebook.embedding_sum,
        "cluster_usage": codebook.cluster_usage,
    }
    return {"codec": {"quantizer": {"semantic_codebook": averages}}}


def rebuild(
    training: CodecTraining, weights: Params, batch: CropBatch, key: jax.Array, keep: str
) -> Rebuilt:
    """Encodes, quantises in drawn modes, decodes; `weights` are trained and frozen."""
    c = training.config
    rows, count = batch.samples.shape
    for_exact, for_modes = jax.random.split(key)
    encoded = encode_batch(training, weights, batch, for_exact, keep)
    table = codebook_of(weights).table
    quantized = quantize_for_training(
        encoded.heard, encoded.codes, table, c, training.quantizer, for_modes
    )
    stream = open_stream(decoder_places(c), rows)
    module, params = Codec(c, remat=keep), weights["codec"]
    arguments = (quantized.latents, encoded.lengths, stream)
    of_cycles = jnp.zeros(())
    if training.losses.cycles > 0:
        assert batch.pitch is not None
        (fake, _), layers = apply_through(
            module, params, TransformerLayer, *arguments, method="decode_latent"
        )
        of_cycles = cycle_loss(weights["cycles"], layers, batch.pitch, encoded.frames, c)
    else:
        fake, _ = apply(module, params, *arguments, method="decode_latent")
    samples = (jnp.arange(count) < batch.lengths[:, None]).astype(jnp.float32)
    return Rebuilt(batch.wanted, fake * samples, samples, encoded, quantized, of_cycles)


def direct_losses(
    training: CodecTraining, heads: Params, batch: CropBatch, rebuilt: Rebuilt, step: Array
) -> tuple[Array, dict[str, Array]]:
    """All losses of the generator but feature matching, weighed and added; and each alone."""
    weights, c = training.losses, training.config
    waveform = losses.waveform_l1(rebuilt.real, rebuilt.fake, rebuilt.samples)
    both = (rebuilt.real, rebuilt.fake, weights.stft_windows, jnp.mean(rebuilt.samples))
    spectrum = losses.stft_l1(*both)
    mel = losses.log_mel_l1(*both, c.sampling_rate) if weights.mel > 0 else jnp.zeros(())
    phase = losses.compressed_l1(*both) if weights.phase > 0 else jnp.zeros(())
    distilled, more = training.distillation.loss(
        heads, rebuilt.quantized.semantic, rebuilt.encoded.frames, batch.targets
    )
    encoder, of_encoder = encoder_losses(training, rebuilt.encoded)
    fade = weights.reconstruction_decay ** step.astype(jnp.float32)
    total = (
        fade * (weights.reconstruction * (waveform + spectrum) + weights.phase * phase)
        + weights.mel * mel
        + weights.distillation * distilled
        + weights.cycles * rebuilt.cycles
        + encoder
    )
    each = {
        "waveform": waveform,
        "stft": spectrum,
        "mel": mel,
        "distillation": distilled,
    }
    if weights.phase > 0:
        each["phase"] = phase
    if weights.cycles > 0:
        each["cycles"] = rebuilt.cycles
    return total, each | of_encoder | more


def critic_losses(
    training: CodecTraining, critic: Params, real: Array, fake: Array, samples: Array
) -> tuple[tuple[Array, Array], dict[str, Array]]:
    """What the generator owes to the discriminators (weighed), their own loss; and each alone.

    `real`, `fake` and `samples` are those of `Rebuilt`.
    """
    assert training.discriminators is not None
    ours, theirs = judge_both(training.discriminators, critic, real, fake)
    frames = valid_frames(training.discriminators.windows, samples)
    weights, hinge = training.losses, losses.hinge(ours, theirs, frames)
    matching = losses.feature_matching(ours, theirs, frames)
    each = {"feature_matching": matching, "hinge": hinge}
    owed = weights.feature_matching * matching
    if weights.adversarial > 0:
        each["adversarial"] = losses.adversarial(theirs, frames)
        owed += weights.adversarial * each["adversarial"]
    return (owed, hinge), each


def codec_loss(
    training: CodecTraining,
    keep: str,
    params: Params,
    frozen: Params,
    batch: CropBatch,
    key: jax.Array,
    step: Array,
) -> tuple[Array, dict[str, Array]]:
    """The generator's whole loss, for accounts of memory and for tests of `codec_gradients`."""
    whole = join(params, frozen)
    rebuilt = rebuild(training, whole, batch, _for_rebuilding(key), keep)
    total, metrics = direct_losses(training, whole.get("heads", {}), batch, rebuilt, step)
    if training.discriminators is None:
        return total, metrics
    critic = jax.lax.stop_gradient(params["critic"])
    (owed, _), _ = critic_losses(training, critic, rebuilt.real, rebuilt.fake, rebuilt.samples)
    return total + owed, metrics


def _for_rebuilding(key: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, 0)


def codec_gradients(
    training: CodecTraining,
    keep: str,
    params: Params,
    frozen: Params,
    batch: CropBatch,
    key: jax.Array,
    step: Array,
) -> Gradients:
    """Gradients of generator and discriminators, and the codebook's next averages.

    The discriminators run once: the gradient of what is owed to them is pulled back to the
    generated audio, that of the hinge loss to their weights.
    """
    generator = {name: branch for name, branch in params.items() if name != "critic"}

    def make(generator: Params) -> tuple[tuple[Array, Array], tuple[Rebuilt, dict[str, Array]]]:
        whole = join(generator, frozen)
        rebuilt = rebuild(training, whole, batch, _for_rebuilding(key), keep)
        total, metrics = direct_losses(training, whole.get("heads", {}), batch, rebuilt, step)
        return (rebuilt.fake, total), (rebuilt, metrics)

    (fake, total), pull, (rebuilt, metrics) = jax.vjp(make, generator, has_aux=True)
    if training.discriminators is None:
        (found,) = pull((jnp.zeros_like(fake), jnp.ones_like(total)))
        loss = total
    else:
        judge = partial(critic_losses, training, real=rebuilt.real, samples=rebuilt.samples)
        (owed, hinge), pull_critic, each = jax.vjp(
            lambda critic, fake: judge(critic, fake=fake), params["critic"], fake, has_aux=True
        )
        _, towards_real = pull_critic((jnp.ones_like(owed), jnp.zeros_like(hinge)))
        for_critic, _ = pull_critic((jnp.zeros_like(owed), jnp.ones_like(hinge)))
        (found,) = pull((towards_real, jnp.ones_like(total)))
        found = found | {"critic": for_critic}
        loss = total + owed
        metrics = metrics | each
    if training.keeps_codes:
        return Gradients(found, frozen, loss, metrics)
    codebook, usage = update_codebook(
        codebook_of(frozen),
        rebuilt.encoded.latents[..., : training.config.semantic_dim],
        rebuilt.encoded.codes,
        rebuilt.encoded.frames,
        training.quantizer,
        step,
        jax.random.fold_in(key, 1),
    )
    return Gradients(found, join(frozen, _with_codebook(codebook)), loss, metrics | usage)
