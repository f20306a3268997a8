"""Models in training that speak: for validation samples, and for candidates to prefer among."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from voxtral_jax.checkpoint.download import find_model
from voxtral_jax.cloning import voice_from_codes
from voxtral_jax.codec import fold
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.errors import ConfigError, DataError
from voxtral_jax.kernels import default_kernels
from voxtral_jax.model import Model
from voxtral_jax.parameters import Params, init_params, unflatten
from voxtral_jax.text import Tokenizer, load_tokenizer
from voxtral_jax.training.data.shards import CodeSource
from voxtral_jax.training.sources import source_weights
from voxtral_jax.voice import Voice

PARTS = ("decoder", "flow")
"""What speech training trains."""
LONGEST_VOICE = 250
"""Frames (20 s) of an utterance that serve as a voice prompt."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """A text to speak, and a voice to speak it with.

    Attributes:
        name: the key of the text's record.
        text: what to say.
        language: of the text.
        codes: `[T, K]` of another utterance of the text's speaker.
    """

    name: str
    text: str
    language: str
    codes: Int[np.ndarray, "T K"]


def prompts_of(source: CodeSource, count: int | Mapping[str, int] | None) -> list[Prompt]:
    """Texts whose speaker has another utterance, which becomes the voice; each text once.

    Args:
        source: records in the order of their shards, often by length.
        count: how many, or how many of each language, evenly spread over the records; None is all.

    Raises:
        DataError: there is no text in a language that `count` names.
    """
    of_speaker: dict[str, list[int]] = {}
    for number, entry in enumerate(source.entries):
        of_speaker.setdefault(entry.speaker, []).append(number)
    of_text: dict[str, int] = {}
    for number, entry in enumerate(source.entries):
        if entry.texts and len(of_speaker[entry.speaker]) > 1:
            of_text.setdefault(entry.texts[0], number)
    usable = list(of_text.values())
    if isinstance(count, Mapping):
        usable = [
            number
            for language, most in count.items()
            for number in _spread(_in_language(source, usable, language), most)
        ]
    elif count is not None:
        usable = _spread(usable, count)
    found: list[Prompt] = []
    for number in usable:
        entry = source.entries[number]
        others = of_speaker[entry.speaker]
        other = others[(others.index(number) + 1) % len(others)]
        codes = source[other].codes[:LONGEST_VOICE]
        found.append(Prompt(entry.key, entry.texts[0], entry.language, codes))
    return found


def _in_language(source: CodeSource, numbers: list[int], language: str) -> list[int]:
    found = [number for number in numbers if source.entries[number].language == language]
    if not found:
        raise DataError(f"no text to speak is in the language {language!r}")
    return found


def _spread(numbers: list[int], count: int) -> list[int]:
    if count >= len(numbers):
        return numbers
    return [numbers[place * len(numbers) // count] for place in range(count)]


def voice_of(model: Model, prompt: Prompt) -> Voice:
    """The voice of a prompt, as this model sees it."""
    return voice_from_codes(model, prompt.codes, prompt.name)


def load_codec(path: str, config: VoxtralConfig) -> Params:
    """The codec's weights (float32) of a model or a run.

    Raises:
        CheckpointError: it has none, or they do not fit `config`.
    """
    found = unflatten(dict(source_weights(path, config, ["codec"])))["codec"]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), found)


def model_params(config: VoxtralConfig, key: jax.Array) -> Params:
    """Random weights of decoder and flow, boxed with their logical axes."""
    params = init_params(config, key)
    return {part: params[part] for part in PARTS}


def stage_tokenizer(config: VoxtralConfig, directory: str | None) -> Tokenizer:
    """The tokenizer in a model's directory; small models need none.

    Raises:
        ConfigError: the model needs one, and no directory is named.
    """
    if config.tokenizer != "tekken":
        return load_tokenizer(Path(), config.tokenizer)
    if directory is None:
        raise ConfigError("this model needs a tekken.json: name its directory as tokenizer")
    return load_tokenizer(find_model(directory), config.tokenizer)


def assemble(config: VoxtralConfig, weights: Params, codec: Params, tokenizer: Tokenizer) -> Model:
    """A model that speaks, on one device, of weights in training and a codec's."""
    return Model(
        config=config,
        params={part: weights[part] for part in PARTS} | {"codec": codec},
        codec=fold(codec, config.codec),
        tokenizer=tokenizer,
        voices={},
        kernels=default_kernels(),
        rules=None,
        source="the model in training",
    )
