"""Voices: what the decoder is shown so that it speaks like someone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from voxtral_jax.errors import VoiceError
from voxtral_jax.files import replacing

if TYPE_CHECKING:
    from voxtral_jax.config import VoxtralConfig

SUFFIXES = (".safetensors", ".pt")


@dataclass(frozen=True, eq=False)
class Voice:
    """A voice prompt.

    Attributes:
        name: for messages and lists.
        embedding: `[N, D]` float32, the embeddings that replace the prompt's `[AUDIO]` tokens. It
            fits the model that made it, and no other.
        codes: `[frames, K]` int32 codes of the recording (no offset), or None for a preset.
    """

    name: str
    embedding: Float[np.ndarray, "N D"]
    codes: Int[np.ndarray, "frames K"] | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the voice as safetensors, replacing the file in one step."""
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        path = Path(path)
        if path.suffix != ".safetensors":
            raise VoiceError(f"voices are saved as .safetensors, got {str(path)!r}")
        tensors = {"embedding": np.ascontiguousarray(self.embedding, np.float32)}
        if self.codes is not None:
            tensors["codes"] = np.ascontiguousarray(self.codes, np.int32)
        try:
            with replacing(path) as temporary:
                save_file(tensors, temporary, metadata={"name": self.name})
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

            return cls(path.stem, _checked(read_torch_tensor(path), path))
        if path.suffix != ".safetensors":
            raise VoiceError(f"{path}: a voice ends in {' or '.join(SUFFIXES)}")
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                name = (file.metadata() or {}).get("name", path.stem)
                keys = list(file.keys())
                tensors: dict[str, Any] = {key: file.get_tensor(key) for key in keys}
        except FileNotFoundError:
            raise VoiceError(f"{path} does not exist") from None
        except (SafetensorError, OSError) as error:
            raise VoiceError(f"{path} is not a readable voice: {error}") from None
        if "embedding" not in tensors:
            raise VoiceError(f"{path} holds no 'embedding'; make it with Voice.save")
        codes = tensors.get("codes")
        return cls(name, _checked(tensors["embedding"], path), codes)

    def check(self, config: VoxtralConfig) -> None:
        """Raises VoiceError unless the voice was made for a decoder of this width."""
        if self.embedding.shape[1] != config.dim:
            raise VoiceError(
                f"voice {self.name!r} was made for a model of width {self.embedding.shape[1]}, "
                f"this one has {config.dim}"
            )


def _checked(embedding: np.ndarray, path: Path) -> Float[np.ndarray, "N D"]:
    embedding = np.asarray(embedding, np.float32)
    if embedding.ndim != 2 or 0 in embedding.shape:
        raise VoiceError(f"{path}: a voice is [frames, width], this is {list(embedding.shape)}")
    if not np.isfinite(embedding).all():
        raise VoiceError(f"{path} holds numbers that are not finite")
    return embedding


def voice_files(directory: Path) -> dict[str, Path]:
    """Preset voices of a model directory: name -> file."""
    files = sorted((directory / "voice_embedding").glob("*"), reverse=True)
    return {file.stem: file for file in files if file.suffix in SUFFIXES}
