"""Preset voices: recordings and what is known of them, which each model makes its voices of.

A folder of presets has the recordings and `presets.json`, a list of

    {"name": "en_female_warm", "audio": "en_female_warm.flac", "language": "en", "gender": "female",
     "character": "warm, calm", "default_for": "en", "origin": "..."}

so that another model can make its own voices of the same recordings. Other keys are left alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from voxtral_jax.cloning import make_voice, voice_from_codes
from voxtral_jax.codec.run import check_codes
from voxtral_jax.config import CodecConfig
from voxtral_jax.errors import ConfigError, RequestError, VoiceError
from voxtral_jax.model import load_model
from voxtral_jax.voice import About, Voice, voice_files

PRESETS_FILE = "presets.json"
NAME = re.compile(r"\w[\w-]*")
"""Names become files and arguments."""


@dataclass(frozen=True)
class Preset:
    """A recording that becomes a preset voice; without `about`, its name tells."""

    name: str
    audio: Path
    about: About | None = None


def read_presets(folder: Path) -> list[Preset]:
    """The presets of a folder.

    Raises:
        ConfigError: `presets.json` is missing or malformed, or a recording is missing.
    """
    file = folder / PRESETS_FILE
    known = [field.name for field in dataclasses.fields(About)]
    try:
        presets = [
            Preset(
                entry["name"],
                folder / entry["audio"],
                About(**{key: str(entry[key]) for key in known if entry.get(key)}),
            )
            for entry in json.loads(file.read_text(encoding="utf-8"))
        ]
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; scripts/corpus/presets.py writes it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is no list of presets with name and audio: {error}") from None
    names: set[str] = set()
    for preset in presets:
        if not isinstance(preset.name, str) or not NAME.fullmatch(preset.name):
            raise ConfigError(f"{file}: {preset.name!r} is no name for a voice")
        if preset.name in names:
            raise ConfigError(f"{file} names {preset.name} twice")
        names.add(preset.name)
        if not preset.audio.is_file():
            raise ConfigError(f"{file}: the recording {preset.audio} of {preset.name} is missing")
    return presets


def voices_with_codes(model_directory: Path, config: CodecConfig) -> list[Voice]:
    """The preset voices of a model, of whose codes one with the same codec can make its own.

    Raises:
        VoiceError: there are none, or one has no codes, or others than this codec's.
    """
    # Files say who they are: a name within one may be anything.
    files = voice_files(model_directory)
    voices = [replace(Voice.load(file), name=name) for name, file in files.items()]
    if not voices:
        raise VoiceError(f"{model_directory} has no preset voices")
    for voice in voices:
        if voice.codes is None:
            raise VoiceError(f"{voice.name} of {model_directory} has no codes: make it of audio")
        try:
            check_codes(voice.codes, config)
        except RequestError as error:
            raise VoiceError(f"{voice.name} of {model_directory}: {error}") from None
    return voices


def make_presets(
    model_directory: Path, presets: Sequence[Preset], voices: Sequence[Voice] = ()
) -> None:
    """Makes the preset voices of a model in its directory.

    Args:
        model_directory: of the model.
        presets: recordings.
        voices: with codes (`voices_with_codes`), which are embedded anew; of two with one name the
            recording is taken.

    Raises:
        AudioError: a recording cannot be used.
    """
    if not presets and not voices:
        return
    model = load_model(model_directory, dtype="float32")
    made: dict[str, Voice] = {}
    for kept in voices:
        assert kept.codes is not None
        voice = voice_from_codes(model, kept.codes, kept.name)
        made[kept.name] = replace(voice, about=kept.about)
    for preset in presets:
        about = About.of_name(preset.name) if preset.about is None else preset.about
        voice = make_voice(model, preset.audio, name=preset.name)
        made[preset.name] = replace(voice, about=about)
    for name, voice in made.items():
        voice.save(model_directory / "voice_embedding" / f"{name}.safetensors")
