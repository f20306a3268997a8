"""Voices: what the decoder is shown so that it speaks like someone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from voxtral_jax.errors import VoiceError
from voxtral_jax.files import replacing

if TYPE_CHECKING:
    from voxtral_jax.config import VoxtralConfig

SUFFIXES = (".safetensors", ".pt")
NEUTRAL = "neutral_female"
"""Preset that speaks languages without a default of their own, if the model has it."""
GENDERS = ("female", "male")
CODES = np.int16
"""Type of codes in a file; no codebook has more rows than it counts."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a voice; each field may be empty. It is kept in the voice's file.

    Attributes:
        language: ISO 639-1 code of what the recording says; the voice speaks others as well.
        gender: "female" or "male".
        character: how it sounds, such as "deep, calm".
        default_for: the language that this voice speaks when no voice is named.
        origin: whose recording it is.
        consent: statement that the recorded person agrees to be cloned.
    """

    language: str = ""
    gender: str = ""
    character: str = ""
    default_for: str = ""
    origin: str = ""
    consent: str = ""

    @classmethod
    def of_name(cls, name: str) -> About:
        """What a name tells: `de_male` of the released presets, `en_female_warm` of ours."""
        first, *others = name.split("_")
        language = first if len(first) == 2 else ""
        words = others if language else [first, *others]
        gender = next((word for word in words if word in GENDERS), "")
        return cls(
            language=language,
            gender=gender,
            character=" ".join(word for word in words if word not in GENDERS),
        )


@dataclass(frozen=True, eq=False)
class Voice:
    """A voice prompt.

    Attributes:
        name: for messages and lists.
        embedding: `[N, D]` float32, the embeddings that replace the prompt's `[AUDIO]` tokens. It
            fits the model that made it, and no other.
        codes: `[frames, K]` int32 codes of the recording (no offset), or None if a preset has none.
        about: what is known of the voice.
    """

    name: str
    embedding: Float[np.ndarray, "N D"]
    codes: Int[np.ndarray, "frames K"] | None = None
    about: About = About()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the voice as safetensors, replacing the file in one step."""
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        path = Path(path)
        if path.suffix != ".safetensors":
            raise VoiceError(f"voices are saved as .safetensors, got {str(path)!r}")
        tensors = {"embedding": np.ascontiguousarray(self.embedding, np.float32)}
        if self.codes is not None:
            tensors["codes"] = np.ascontiguousarray(self.codes, CODES)
        known = {key: value for key, value in asdict(self.about).items() if value}
        try:
            with replacing(path) as temporary:
                save_file(tensors, temporary, metadata={"name": self.name} | known)
        except (OSError, SafetensorError) as error:
            raise VoiceError(f"cannot write {path}: {error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Voice:
        """Reads a voice: `.safetensors`, or `.pt` of the released layout (no pickle is executed).

        Raises:
            VoiceError: the file is missing, corrupt, or holds no voice.
        """
        path = Path(path)
        if path.suffix == ".pt":
            from voxtral_jax.checkpoint.torch_voice import read_torch_tensor

            about = About.of_name(path.stem)
            return cls(path.stem, _checked(read_torch_tensor(path), path), about=about)
        if path.suffix != ".safetensors":
            raise VoiceError(f"{path}: a voice ends in {' or '.join(SUFFIXES)}")
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                keys = list(file.keys())
                tensors: dict[str, Any] = {key: file.get_tensor(key) for key in keys}
        except FileNotFoundError:
            raise VoiceError(f"{path} does not exist") from None
        except (SafetensorError, OSError, AttributeError) as error:  # types that numpy lacks, too
            raise VoiceError(f"{path} is not a readable voice: {error}") from None
        if "embedding" not in tensors:
            raise VoiceError(f"{path} holds no 'embedding'; make it with Voice.save")
        codes = tensors.get("codes")
        return cls(
            metadata.get("name", path.stem),
            _checked(tensors["embedding"], path),
            None if codes is None else codes.astype(np.int32),
            _about(metadata, path),
        )

    def check(self, config: VoxtralConfig) -> None:
        """Raises VoiceError unless the voice was made for a decoder of this width."""
        shape = list(np.shape(self.embedding))
        if len(shape) != 2 or shape[1] != config.dim or not shape[0]:
            raise VoiceError(
                f"voice {self.name!r} is {shape}, this model needs [frames, {config.dim}]: a voice "
                "fits the model that made it"
            )


def _checked(embedding: np.ndarray, path: Path) -> Float[np.ndarray, "N D"]:
    if np.iscomplexobj(embedding):
        raise VoiceError(f"{path}: a voice is of real numbers, this is {embedding.dtype}")
    embedding = np.asarray(embedding, np.float32)
    if embedding.ndim != 2 or 0 in embedding.shape:
        raise VoiceError(f"{path}: a voice is [frames, width], this is {list(embedding.shape)}")
    if not np.isfinite(embedding).all():
        raise VoiceError(f"{path} holds numbers that are not finite")
    return embedding


def _about(metadata: Mapping[str, str], path: Path) -> About:
    known = {key: metadata[key] for key in asdict(About()) if key in metadata}
    return About(**known) if known else About.of_name(path.stem)


def read_about(path: Path) -> About:
    """What is known of the voice in a file; only its header is read."""
    if path.suffix == ".pt":
        return About.of_name(path.stem)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return _about(file.metadata() or {}, path)
    except (SafetensorError, OSError) as error:
        raise VoiceError(f"{path} is not a readable voice: {error}") from None


def default_voice(abouts: Mapping[str, About], language: str | None = None) -> str:
    """The preset that speaks when none is named.

    That is the default of the language; without one, the first preset recorded in it; without any,
    the default of English, `NEUTRAL` or the first one.

    Args:
        abouts: of the presets, by name; at least one.
        language: ISO 639-1 code of the text, if known.
    """
    names = sorted(abouts)
    language = language or "en"
    fitting = (
        [name for name in names if abouts[name].default_for == language]
        or [name for name in names if abouts[name].language == language]
        or [name for name in names if abouts[name].default_for == "en"]
        or [name for name in names if name == NEUTRAL]
        or names
    )
    return fitting[0]


def voice_files(directory: Path) -> dict[str, Path]:
    """Preset voices of a model directory: name -> file."""
    # Of two files of one name the later is ours, `.safetensors`: it was made from a `.pt`.
    files = sorted((directory / "voice_embedding").glob("*"))
    return {file.stem: file for file in files if file.suffix in SUFFIXES}
