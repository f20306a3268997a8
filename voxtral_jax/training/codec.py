"""Codec training: generator and discriminators in one step, codebook by moving averages.

The weights are `{"codec": as in the model, "heads": of the distillation, "critic":
discriminators, "envelope": principal components, "anchor": the encoder that the run started from}`;
the codebook is among the frozen weights, where the step moves it, and so are the last two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from voxtral_jax.codec.model import (
    Codec,
    decoder_names,
    decoder_places,
    encoder_names,
    encoder_places,
    open_stream,
)
from voxtral_jax.codec.quantizer import nearest
from voxtral_jax.config import CodecConfig
from voxtral_jax.nn.module import apply
from voxtral_jax.parameters import Params
from voxtral_jax.training import losses
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.discriminator import WINDOWS, Discriminators, judge_both
from voxtral_jax.training.distillation import Distillation
from voxtral_jax.training.envelope import (
    EnvelopeSettings,
    as_filterbank,
    envelope_loss,
    envelopes,
    no_components,
)
from voxtral_jax.training.losses import weighted_mean
from voxtral_jax.training.pitch import LATENTS, exact_latents, pitch_loss
from voxtral_jax.training.quantization import (
    Codebook,
    Quantized,
    QuantizerSettings,
    quantize_for_training,
    update_codebook,
)
from voxtral_jax.training.state import Gradients, Path, join


@dataclass(frozen=True, kw_only=True)
class CodecLosses:
    """Weights of the losses; the defaults are the published recipe's.

    Attributes:
        feature_matching: of what the discriminators see in real and generated audio.
        adversarial: of their scores of what is generated; none is published. Where both are 0 there
            are no discriminators.
        distillation: of language into the semantic code.
        commitment: of latents to their codebook entries.
        reconstruction: of waveform and STFT magnitudes, times `reconstruction_decay ** step`.
        phase: of compressed spectra, times the same; none is published, and it is of use only where
            the phase can be known (`voxtral_jax.training.pitch`).
        mel: of log mel magnitudes; none is published, but without discriminators it is what makes
            quiet sounds count.
        stft_windows: of the magnitudes, in samples.
    """

    feature_matching: float = 1.0
    adversarial: float = 0.0
    distillation: float = 1.0
    commitment: float = 0.1
    reconstruction: float = 1.0
    reconstruction_decay: float = 0.9999
    phase: float = 0.0
    mel: float = 0.0
    stft_windows: tuple[int, ...] = WINDOWS


@dataclass(frozen=True)
class CodecTraining:
    """What the step is made of.

    Attributes:
        config: of the codec.
        losses: their weights.
        quantizer: how it is trained.
        discriminators: None where their losses have no weight.
        distillation: the teacher.
        envelope: how the acoustic latents are taught.
        decoder_only: whether encoder, codebook and heads stay as they are.
    """

    config: CodecConfig
    losses: CodecLosses
    quantizer: QuantizerSettings
    discriminators: Discriminators | None
    distillation: Distillation
    envelope: EnvelopeSettings = EnvelopeSettings()
    decoder_only: bool = False

    def init(self, key: jax.Array) -> Params:
        """Random weights, those of the codec boxed with their logical axes."""
        codec, heads, critic = jax.random.split(key, 3)
        c = self.config
        frame = jnp.zeros((1, c.stride, c.pretransform_patch_size))
        params: Params = {
            "codec": Codec(c).init(codec, frame, jnp.full((1,), c.stride))["params"],
            "heads": self.distillation.init(heads, c.semantic_dim),
        }
        if self.envelope.weight > 0:
            params["codec"] = as_filterbank(params["codec"], c)
            params["envelope"] = no_components(c)
        if self.quantizer.anchored:
            params["anchor"] = {name: params["codec"][name] for name in encoder_names(c)}
        if self.discriminators is not None:
            audio = jnp.zeros((1, max(self.discriminators.windows)))
            params["critic"] = self.discriminators.init(critic, audio)["params"]
        return params

    def trained(self, path: Path) -> bool:
        """Everything but the codebook, the components of envelopes and the anchor; or the decoder
        and the discriminators alone."""
        if self.decoder_only and path[0] != "critic":
            return path[0] == "codec" and path[1] in decoder_names(self.config)
        return "semantic_codebook" not in path and path[0] not in ("envelope", "anchor")


@struct.dataclass
class Rebuilt:
    """What the generator makes of a batch.

    Attributes:
        real: `[B, S]` what is to be given back, zero where not valid.
        fake: what the codec gives back.
        samples, frames: `[B, S]`, `[B, T]` float32, 1 where valid.
        latents: `[B, T, C]` before quantisation.
        quantized: after it.
        drawn_to: where commitment draws the semantic latents: codebook entries, or the anchor's.
        envelope: loss of the envelopes that the acoustic latents name; 0 where none are taught.
        kept: share of semantic codes that are those of the anchor; 1 without one.
    """

    real: Float[Array, "B S"]
    fake: Float[Array, "B S"]
    samples: Float[Array, "B S"]
    frames: Float[Array, "B T"]
    latents: Float[Array, "B T C"]
    quantized: Quantized
    drawn_to: Float[Array, "B T semantic"]
    envelope: Float[Array, ""]
    kept: Float[Array, ""]


def codebook_of(frozen: Params) -> Codebook:
    """The codebook among the frozen weights."""
    return Codebook(**frozen["codec"]["quantizer"]["semantic_codebook"])


def _with_codebook(codebook: Codebook) -> Params:
    averages = {
        "embedding_sum": codebook.embedding_sum,
        "cluster_usage": codebook.cluster_usage,
    }
    return {"codec": {"quantizer": {"semantic_codebook": averages}}}


def rebuild(
    training: CodecTraining,
    codec: Params,
    batch: CropBatch,
    key: jax.Array,
    keep: str,
    frozen: Params,
) -> Rebuilt:
    """Encodes, quantises in drawn modes, decodes.

    Args:
        codec: its weights, codebook included.
        frozen: with components of envelopes where they are taught, and an anchor if there is one.
    """
    c = training.config
    module = Codec(c, remat=keep)
    rows, count = batch.samples.shape
    patches = batch.samples.reshape(rows, -1, c.pretransform_patch_size)
    steps = -(-batch.lengths // c.pretransform_patch_size)

    def encode(encoder: Params) -> Array:
        stream = open_stream(encoder_places(c), rows)
        return apply(module, encoder, patches, steps, stream, method="encode")[0]

    latents = encode(codec)
    lengths = -(-steps // c.stride)
    frames = (jnp.arange(latents.shape[1]) < lengths[:, None]).astype(jnp.float32)
    heard, envelope = latents, jnp.zeros(())
    if (components := frozen.get("envelope")) is not None:
        made = envelopes(batch.samples, c)
        teaches_pitch = training.envelope.pitch > 0
        exact = exact_latents(made, batch.wanted, components, c, teaches_pitch)
        semantic, acoustic = jnp.split(latents, [c.semantic_dim], axis=-1)
        envelope = envelope_loss(acoustic, made, exact, components, frames)
        if teaches_pitch:
            apart = pitch_loss(acoustic[..., -LATENTS:], exact[..., -LATENTS:], frames)
            envelope = envelope + training.envelope.pitch * apart
            # What the decoder would have them say would only disturb what they are taught.
            pitch = jax.lax.stop_gradient(acoustic[..., -LATENTS:])
            acoustic = acoustic.at[..., -LATENTS:].set(pitch)
        taught = jax.random.uniform(jax.random.fold_in(key, 1), (rows, 1, 1))
        acoustic = jnp.where(taught < training.envelope.exact_share, jnp.arctanh(exact), acoustic)
        heard = jnp.concatenate([semantic, acoustic], axis=-1)
    table = Codebook(**codec["quantizer"]["semantic_codebook"]).table
    own = nearest(jax.lax.stop_gradient(latents[..., : c.semantic_dim]), table)
    codes, anchor = own, None
    if (encoder := frozen.get("anchor")) is not None:
        anchor = encode(encoder)[..., : c.semantic_dim]
        codes = nearest(anchor, table)
    kept = weighted_mean((own == codes).astype(jnp.float32), frames)
    quantized = quantize_for_training(heard, codes, table, c, training.quantizer, key)
    drawn_to = quantized.entries if anchor is None else anchor
    stream = open_stream(decoder_places(c), rows)
    fake, _ = apply(module, codec, quantized.latents, lengths, stream, method="decode_latent")
    samples = (jnp.arange(count) < batch.lengths[:, None]).astype(jnp.float32)
    real, fake = batch.wanted, fake * samples
    return Rebuilt(real, fake, samples, frames, latents, quantized, drawn_to, envelope, kept)


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
    quantized = rebuilt.quantized
    commitment = losses.commitment(
        rebuilt.latents[..., : c.semantic_dim], rebuilt.drawn_to, rebuilt.frames
    )
    distilled, more = training.distillation.loss(
        heads, quantized.semantic, rebuilt.frames, batch.targets
    )
    fade = weights.reconstruction_decay ** step.astype(jnp.float32)
    total = (
        fade * (weights.reconstruction * (waveform + spectrum) + weights.phase * phase)
        + weights.mel * mel
        + weights.commitment * commitment
        + weights.distillation * distilled
        + training.envelope.weight * rebuilt.envelope
    )
    each = {
        "waveform": waveform,
        "stft": spectrum,
        "mel": mel,
        "commitment": commitment,
        "distillation": distilled,
    }
    if weights.phase > 0:
        each["phase"] = phase
    if training.envelope.weight > 0:
        each["envelope"] = rebuilt.envelope
    if training.quantizer.anchored:
        each["kept"] = rebuilt.kept
    return total, each | more


def critic_losses(
    training: CodecTraining, critic: Params, real: Array, fake: Array
) -> tuple[tuple[Array, Array], dict[str, Array]]:
    """What the generator owes to the discriminators (weighed), their own loss; and each alone."""
    assert training.discriminators is not None
    ours, theirs = judge_both(training.discriminators, critic, real, fake)
    weights, hinge = training.losses, losses.hinge(ours, theirs)
    matching = losses.feature_matching(ours, theirs)
    each = {"feature_matching": matching, "hinge": hinge}
    owed = weights.feature_matching * matching
    if weights.adversarial > 0:
        each["adversarial"] = losses.adversarial(theirs)
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
    rebuilt = rebuild(training, whole["codec"], batch, _for_modes(key), keep, frozen)
    total, metrics = direct_losses(training, whole.get("heads", {}), batch, rebuilt, step)
    if training.discriminators is None:
        return total, metrics
    critic = jax.lax.stop_gradient(params["critic"])
    (owed, _), _ = critic_losses(training, critic, rebuilt.real, rebuilt.fake)
    return total + owed, metrics


def _for_modes(key: jax.Array) -> jax.Array:
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
        rebuilt = rebuild(training, whole["codec"], batch, _for_modes(key), keep, frozen)
        total, metrics = direct_losses(training, whole.get("heads", {}), batch, rebuilt, step)
        return (rebuilt.fake, total), (rebuilt, metrics)

    (fake, total), pull, (rebuilt, metrics) = jax.vjp(make, generator, has_aux=True)
    if training.discriminators is None:
        (found,) = pull((jnp.zeros_like(fake), jnp.ones_like(total)))
        loss = total
    else:
        judge = partial(critic_losses, training, real=rebuilt.real)
        (owed, hinge), pull_critic, each = jax.vjp(
            lambda critic, fake: judge(critic, fake=fake), params["critic"], fake, has_aux=True
        )
        _, towards_real = pull_critic((jnp.ones_like(owed), jnp.zeros_like(hinge)))
        for_critic, _ = pull_critic((jnp.zeros_like(owed), jnp.ones_like(hinge)))
        (found,) = pull((towards_real, jnp.ones_like(total)))
        found = found | {"critic": for_critic}
        loss = total + owed
        metrics = metrics | each
    if training.quantizer.anchored or training.decoder_only:
        return Gradients(found, frozen, loss, metrics)
    codebook, usage = update_codebook(
        codebook_of(frozen),
        rebuilt.latents[..., : training.config.semantic_dim],
        rebuilt.quantized.codes,
        rebuilt.frames,
        training.quantizer,
        step,
        jax.random.fold_in(key, 1),
    )
    return Gradients(found, join(frozen, _with_codebook(codebook)), loss, metrics | usage)
