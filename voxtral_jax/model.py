"""A loaded model: configuration, weights on their devices, tokenizer, preset voices."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from voxtral_jax.adapter import adapt
from voxtral_jax.checkpoint.download import find_model, find_own_model
from voxtral_jax.checkpoint.weights import WEIGHTS_FILE, has_encoder, load_params, read_tensors
from voxtral_jax.codec import fold
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.eight_bit import eight_bit
from voxtral_jax.errors import CheckpointError, RequestError, VoiceError
from voxtral_jax.kernels import default_kernels
from voxtral_jax.parameters import Params
from voxtral_jax.sharding import Rules
from voxtral_jax.text import load_tokenizer
from voxtral_jax.voice import About, Voice, default_voice, read_about, voice_files

if TYPE_CHECKING:
    from voxtral_jax.text import Tokenizer

DTYPES = ("float32", "bfloat16", "int8")
"""What the matrices of decoder and flow can be kept in."""
MOST_ROWS = 1024
"""Of a batch-invariant model."""


def computing_dtype(dtype: str | None) -> jnp.dtype:
    """The type of activations where matrices are kept in `dtype` (of `DTYPES`; None: by default).

    Without a say, and beside matrices of 8 bits, it is bfloat16 on a GPU and float32 on a CPU.
    """
    if dtype in (None, "int8"):
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(dtype)


@dataclass(frozen=True, eq=False)
class Model:
    """Everything synthesis needs. Made by `load_model`; hand it to the functions of the package.

    Attributes:
        config: sizes.
        params: weights as the checkpoint has them (`voxtral_jax.parameters`).
        codec: the codec's weights, folded for inference; shares what need not change.
        tokenizer: of text.
        voices: preset name -> file.
        kernels: "pallas", "jnp" or "interpret"; `dataclasses.replace` overrides the choice.
        rules: places on a mesh, or None for one device.
        source: directory it was loaded from.
        batch_invariant: rows that are computed whatever is asked for, or None; see `load_model`.
    """

    config: VoxtralConfig
    params: Params = field(repr=False)
    codec: Params = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    voices: dict[str, Path]
    kernels: str
    rules: Rules | None = field(repr=False)
    source: str
    batch_invariant: int | None = None

    @property
    def sample_rate(self) -> int:
        """Of all audio that goes in and comes out, in Hz."""
        return self.config.codec.sampling_rate

    @property
    def can_clone(self) -> bool:
        """Whether the codec's encoder is there, which recordings need."""
        return has_encoder(self.params)

    @property
    def speaker(self) -> Params:
        """The weights that generation needs: `{"decoder", "flow"}`."""
        return {"decoder": self.params["decoder"], "flow": self.params["flow"]}

    @cached_property
    def abouts(self) -> dict[str, About]:
        """What is known of each preset voice."""
        return {name: read_about(file) for name, file in self.voices.items()}

    def voice(self, name: str | None = None, *, language: str | None = None) -> Voice:
        """A preset voice.

        Args:
            name: of `voices`; None is the default voice of `language` (`default_voice`).
            language: ISO 639-1 code of what it will say; every voice speaks every language.

        Raises:
            VoiceError: there is no such preset.
        """
        if not self.voices:
            raise VoiceError(f"{self.source} has no preset voices; give a reference recording")
        if name is None:
            name = default_voice(self.abouts, language)
        if name not in self.voices:
            raise VoiceError(
                f"unknown voice {name!r}; choose from {', '.join(sorted(self.voices))}"
            )
        voice = Voice.load(self.voices[name])
        voice.check(self.config)
        return voice


def load_model(
    path_or_name: str | os.PathLike[str] | None = None,
    *,
    mesh: Mesh | None = None,
    dtype: str | jnp.dtype | None = None,
    encoder_weights: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    batch_invariant: int | None = None,
) -> Model:
    """Loads a model of the released layout.

    Args:
        path_or_name: a directory with `params.json`, `consolidated.safetensors`, `tekken.json` and
            `voice_embedding/`, or a hub id; None is the small model that comes with the package.
        mesh: from `voxtral_jax.make_mesh`, to spread the model over devices.
        dtype: of decoder and flow, "bfloat16" (default on a GPU) or "float32" (default on a CPU);
            "int8" keeps their matrices in 8 bits (`voxtral_jax.eight_bit`), the rest as by default.
        encoder_weights: safetensors file with the codec's encoder, which the released checkpoint
            leaves out and cloning needs.
        adapter: safetensors file of low-rank adapters (`train.py export`), merged into the weights.
        batch_invariant: compute so many rows whatever is asked for, in shapes that never change, so
            that a seed gives the same codes, bit for bit, alone and in any batch, streamed and
            served. Without, arithmetic in other shapes may round a code to its neighbour.

    Raises:
        ConfigError, CheckpointError: files are missing or do not fit each other.
        RequestError: an argument is out of range.
    """
    if batch_invariant is not None and not 1 <= batch_invariant <= MOST_ROWS:
        raise RequestError(f"batch_invariant must be from 1 to {MOST_ROWS}, got {batch_invariant}")
    kind = _kind_of(dtype)
    directory = find_own_model() if path_or_name is None else find_model(path_or_name)
    config = VoxtralConfig.load(directory)
    tokenizer = load_tokenizer(directory, config.tokenizer)
    rules = None if mesh is None else Rules.make(config, mesh)
    files = [directory / WEIGHTS_FILE]
    if encoder_weights is not None:
        files.append(Path(encoder_weights))
    adapters = None if adapter is None else read_tensors(adapter)
    params = load_params(config, files, dtype=computing_dtype(kind), rules=rules)
    if encoder_weights is not None and not has_encoder(params):
        raise CheckpointError(f"{encoder_weights} holds no weights of the codec's encoder")
    if adapters is not None:
        params = adapt(params, adapters, str(adapter))
    if kind == "int8":
        params = eight_bit(params)
    return Model(
        config=config,
        params=params,
        codec=fold(params["codec"], config.codec),
        tokenizer=tokenizer,
        voices=voice_files(directory),
        kernels=default_kernels(mesh),
        rules=rules,
        source=str(directory),
        batch_invariant=batch_invariant,
    )


def _kind_of(dtype: str | jnp.dtype | None) -> str | None:
    """The name of a type that matrices can be kept in; RequestError for any other."""
    try:
        kind = None if dtype is None else str(jnp.dtype(dtype))
    except TypeError:
        kind = repr(dtype)  # no type at all
    if kind not in (None, *DTYPES):
        raise RequestError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return kind
