"""The codec: waveform to codes and back, for a whole waveform or chunk by chunk.

Both ways are one function over a chunk and the state carried from before it; a whole waveform is
one chunk that opens a stream. Checkpoint keys: `audio_tokenizer.*`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from voxtral_jax.codec.attention import CodecTransformer
from voxtral_jax.codec.convolution import CausalConv, CausalTransposedConv
from voxtral_jax.codec.quantizer import Quantizer, codebook_table
from voxtral_jax.config import CodecConfig
from voxtral_jax.nn.module import rematerialised

SPEECH_LEVEL = 0.1
"""Root mean square of speech. Training starts with this at the codec's ends and 1 between them:
where the residual stream is much weaker, the layers' norms, whose epsilon is 0.01, do nothing."""

Block: TypeAlias = CausalConv | CausalTransposedConv | CodecTransformer


@struct.dataclass
class CodecStream:
    """What one side of the codec carries from chunk to chunk, for B streams.

    Attributes:
        blocks: for each block its convolution tail, or the keys and values of its windows.
        frames: `[B]` int32, frames seen so far; 0 opens a new stream in that row.
    """

    blocks: tuple[Any, ...]
    frames: Int[Array, " B"]


@dataclass(frozen=True)
class Place:
    """A block (not yet part of a module), its checkpoint name, and the steps per frame it takes."""

    name: str
    block: Block
    rate: int


def encoder_places(config: CodecConfig) -> list[Place]:
    """The encoder, in order."""
    c, rate = config, config.stride
    normed = c.conv_weight_norm
    project = CausalConv(
        c.pretransform_patch_size,
        c.dim,
        c.patch_proj_kernel_size,
        1,
        "reflect",
        normed,
        1 / SPEECH_LEVEL,
        parent=None,
    )
    blocks: list[tuple[Block, int]] = []
    last = len(c.encoder_stages) - 1
    for i, stage in enumerate(c.encoder_stages):
        blocks.append((CodecTransformer(c, stage.n_layers, stage.window, parent=None), rate))
        if stage.has_conv:
            width = c.latent_dim if i == last else c.dim
            conv = CausalConv(
                c.dim, width, stage.kernel, stage.stride, "replicate", normed, parent=None
            )
            blocks.append((conv, rate))
            rate //= stage.stride
    numbered = [Place(f"encoder_blocks_{i}", *block) for i, block in enumerate(blocks)]
    return [Place("input_proj", project, c.stride), *numbered]


def encoder_names(config: CodecConfig) -> set[str]:
    """Names of the encoder's parts among the codec's weights."""
    return {place.name for place in encoder_places(config)}


def decoder_names(config: CodecConfig) -> set[str]:
    """Names of the decoder's parts among the codec's weights."""
    return {place.name for place in decoder_places(config)}


def decoder_places(config: CodecConfig) -> list[Place]:
    """The decoder, in order."""
    c, rate = config, 1
    normed = c.conv_weight_norm
    blocks: list[tuple[Block, int]] = []
    for i, stage in enumerate(c.decoder_stages):
        if i == 0:
            conv = CausalConv(
                c.latent_dim, c.dim, stage.kernel, 1, "replicate", normed, parent=None
            )
            blocks.append((conv, rate))
        elif stage.has_conv:
            up = CausalTransposedConv(c.dim, c.dim, stage.kernel, stage.stride, normed, parent=None)
            blocks.append((up, rate))
            rate *= stage.stride
        blocks.append((CodecTransformer(c, stage.n_layers, stage.window, parent=None), rate))
    project = CausalConv(
        c.dim,
        c.pretransform_patch_size,
        c.patch_proj_kernel_size,
        1,
        "reflect",
        normed,
        SPEECH_LEVEL,
        parent=None,
    )
    numbered = [Place(f"decoder_blocks_{i}", *block) for i, block in enumerate(blocks)]
    return [*numbered, Place("output_proj", project, rate)]


def open_stream(places: Sequence[Place], batch: int) -> CodecStream:
    """State before the first chunk of `batch` streams."""
    blocks = tuple(place.block.initial(batch, jnp.float32) for place in places)
    return CodecStream(blocks, jnp.zeros((batch,), jnp.int32))


class Codec(nn.Module):
    """Encoder, quantiser and decoder. All arithmetic is float32: half precision would be audible.

    The decoder runs without the encoder's weights, which the released checkpoint leaves out.

    Attributes:
        config: sizes.
        remat: what training keeps of each block for the backward pass (`nn.module.REMAT`).
    """

    config: CodecConfig
    remat: str = "all"

    def setup(self) -> None:
        self.quantizer = Quantizer(self.config)
        for place in (*encoder_places(self.config), *decoder_places(self.config)):
            setattr(self, place.name, place.block)

    def _run(
        self, places: Sequence[Place], x: Array, stream: CodecStream, steps: Array
    ) -> tuple[list[Array], CodecStream]:
        """What each block gives.

        Args: blocks, a chunk of whole frames, state, and how many of its steps are valid.
        """
        rate = places[0].rate
        frames = x.shape[1] // rate
        given, states = [], []
        for place, state in zip(places, stream.blocks, strict=True):
            # Valid steps here: as many as the valid input steps reach, rounded up.
            valid = -(-steps * place.rate // rate)
            block = rematerialised(getattr(self, place.name), self.remat)
            x, state = block(x, state, stream.frames * place.rate, valid)
            given.append(x)
            states.append(state)
        return given, CodecStream(tuple(states), stream.frames + frames)

    def encode(
        self,
        patches: Float[Array, "B N patch"],
        lengths: Int[Array, " B"],
        stream: CodecStream,
    ) -> tuple[Float[Array, "B T latent"], CodecStream]:
        """Latents before quantisation.

        Args:
            patches: samples cut into patches, a whole number of frames.
            lengths: valid patches; what follows them changes nothing. Before the last chunk of a
                stream, all are valid.
            stream: from `open_stream(encoder_places(config), B)` or the call before.
        """
        given, stream = self.encode_through(patches, lengths, stream)
        return given[-1], stream

    def encode_through(
        self, patches: Float[Array, "B N patch"], lengths: Int[Array, " B"], stream: CodecStream
    ) -> tuple[list[Float[Array, "B steps width"]], CodecStream]:
        """As `encode`, with what each of `encoder_places` gives; latents last."""
        places = encoder_places(self.config)
        return self._run(places, patches.astype(jnp.float32), stream, lengths)

    def decode(
        self, codes: Int[Array, "B T K"], lengths: Int[Array, " B"], stream: CodecStream
    ) -> tuple[Float[Array, "B S"], CodecStream]:
        """Samples of codes (no offset).

        Args:
            codes: a chunk of frames.
            lengths: valid frames; what follows them changes nothing.
            stream: from `open_stream(decoder_places(config), B)` or the call before.
        """
        return self.decode_latent(self.quantizer.decode(codes), lengths, stream)

    def decode_latent(
        self, latent: Float[Array, "B T latent"], lengths: Int[Array, " B"], stream: CodecStream
    ) -> tuple[Float[Array, "B S"], CodecStream]:
        """As `decode`, from quantised latents."""
        given, stream = self._run(decoder_places(self.config), latent, stream, lengths)
        return given[-1].reshape(len(latent), -1), stream

    def __call__(self, patches: Array, lengths: Array, kernels: str = "jnp") -> Array:
        """Resynthesis of whole waveforms; touches every weight, so `init` makes them all."""
        batch = patches.shape[0]
        latent, _ = self.encode(patches, lengths, open_stream(encoder_places(self.config), batch))
        codes = self.quantizer.encode(latent, kernels)
        stream = open_stream(decoder_places(self.config), batch)
        return self.decode(codes, -(-lengths // self.config.stride), stream)[0]


def fold(params: dict[str, Any], config: CodecConfig) -> dict[str, Any]:
    """Weights for inference: weight norms become convolution taps, averages the codebook.

    Computed once a model; all other weights are shared with `params`. The encoder may be absent.
    """
    folded = dict(params)
    for place in (*encoder_places(config), *decoder_places(config)):
        if place.name in params and not isinstance(place.block, CodecTransformer):
            taps = jax.jit(place.block.weight().apply)({"params": params[place.name]["conv"]})
            folded[place.name] = {"conv": {"taps": taps}}
    averages = params["quantizer"]["semantic_codebook"]
    table = codebook_table(averages["embedding_sum"], averages["cluster_usage"])
    folded["quantizer"] = {"semantic_codebook": {"embedding": table}}
    return folded
