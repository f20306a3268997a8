"""What a codec is trained with: weights of the losses, parts, and which weights there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from voxtral_jax.codec.model import Codec, decoder_names, encoder_names
from voxtral_jax.config import CodecConfig
from voxtral_jax.parameters import Params
from voxtral_jax.training.cycles import init_cycles
from voxtral_jax.training.discriminator import WINDOWS, Discriminators
from voxtral_jax.training.distillation import Distillation
from voxtral_jax.training.envelope import EnvelopeSettings, init_early, no_components
from voxtral_jax.training.filterbank import as_filterbank
from voxtral_jax.training.quantization import QuantizerSettings
from voxtral_jax.training.settings import Windows
from voxtral_jax.training.state import Path


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
        cycles: of where in its cycle the voice is, as layers of the decoder say it by heads that
            are not kept; of use where `phase` is (`voxtral_jax.training.cycles`).
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
    cycles: float = 0.0
    mel: float = 0.0
    stft_windows: Windows = WINDOWS


Part = Literal["whole", "encoder", "decoder"]
"""What of a codec learns."""
FILTERS = ("codec", "input_proj")
"""Where the encoder's first convolution is among the weights."""


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
        part: which learns. The encoder alone learns from what its acoustic latents are taught, and
            is anchored; nothing is decoded. The decoder alone leaves encoder, codebook and heads as
            they are.
    """

    config: CodecConfig
    losses: CodecLosses
    quantizer: QuantizerSettings
    discriminators: Discriminators | None
    distillation: Distillation
    envelope: EnvelopeSettings = EnvelopeSettings()
    part: Part = "whole"

    @property
    def anchored(self) -> bool:
        """Whether semantic codes are those of the codec that the run starts from."""
        return self.quantizer.anchored or self.part == "encoder"

    @property
    def keeps_codes(self) -> bool:
        """Whether encoder and codebook must be there when the run starts: codes stay theirs."""
        return self.anchored or self.part == "decoder"

    @property
    def teaches_early(self) -> bool:
        """Whether blocks in the middle of the encoder have heads."""
        return self.envelope.used and self.envelope.early > 0

    def init(self, key: jax.Array) -> Params:
        """Random weights, those of the codec boxed with their logical axes."""
        codec, heads, critic = jax.random.split(key, 3)
        c = self.config
        frame = jnp.zeros((1, c.stride, c.pretransform_patch_size))
        params: Params = {
            "codec": Codec(c).init(codec, frame, jnp.full((1,), c.stride))["params"],
            "heads": self.distillation.init(heads, c.semantic_dim),
        }
        if self.envelope.used:
            params["codec"] = as_filterbank(params["codec"], c)
            params["envelope"] = no_components(c)
        if self.teaches_early:
            params["early"] = init_early(c)
        if self.losses.cycles > 0:
            params["cycles"] = init_cycles(c)
        if self.anchored:
            params["anchor"] = {name: params["codec"][name] for name in encoder_names(c)}
        if self.discriminators is not None:
            audio = jnp.zeros((1, max(self.discriminators.windows)))
            params["critic"] = self.discriminators.init(critic, audio)["params"]
        return params

    def trained(self, path: Path) -> bool:
        """Everything but the codebook, the components of envelopes, fixed filters and the anchor;
        or one part of the codec and the discriminators alone."""
        if self.envelope.fixed_filters and path[:2] == FILTERS:
            return False
        if self.part != "whole" and path[0] != "critic":
            names = encoder_names if self.part == "encoder" else decoder_names
            heads = "early" if self.part == "encoder" else "cycles"
            return path[0] == heads or (path[0] == "codec" and path[1] in names(self.config))
        return "semantic_codebook" not in path and path[0] not in ("envelope", "anchor")
