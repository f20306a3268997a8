"""The voices that a server knows: the model's presets, and those that clients keep."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from voxtral_jax.cloning import make_voice
from voxtral_jax.errors import RequestError, VoiceError
from voxtral_jax.serving.http.failures import Refusal
from voxtral_jax.voice import About, Voice, read_about

if TYPE_CHECKING:
    from voxtral_jax.model import Model

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""Names of kept voices: none of them can leave the directory."""
SUFFIX = ".safetensors"


class VoiceStore:
    """Presets, and a directory of kept voices. Thread-safe.

    Args:
        model: whose presets they are, and which makes voices from recordings.
        directory: of the kept voices, made if it is missing; None keeps none.
        most: voices in the directory.

    Raises:
        RequestError: the directory cannot be made.
    """

    def __init__(self, model: Model, directory: Path | None, most: int) -> None:
        self._model = model
        self._directory = directory
        self._most = most
        self._lock = Lock()
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RequestError(f"{directory} cannot keep voices: {error}") from None

    def abouts(self) -> dict[str, tuple[About, bool]]:
        """What is known of each voice by name, and whether it is a preset."""
        found = {name: (about, True) for name, about in sorted(self._model.abouts.items())}
        for file in self._files():
            try:
                found.setdefault(file.stem, (read_about(file), False))
            except VoiceError:
                # Deleted meanwhile, or not a voice: nothing that can speak.
                continue
        return found

    def find(self, name: str) -> str | Voice:
        """What to hand to the engine: a preset's name, or a kept voice.

        Raises:
            VoiceError: there is no such voice.
        """
        if name in self._model.voices:
            return name
        file = self._file(name)
        if file is None or not file.is_file():
            raise VoiceError(f"unknown voice {name[:80]!r}; GET /v1/audio/voices lists them")
        return Voice.load(file)

    def add(
        self,
        name: str,
        recording: tuple[Float[np.ndarray, " S"], int],
        *,
        consent: str,
        language: str,
    ) -> About:
        """Makes a voice of a recording and keeps it.

        Args:
            name: of letters, digits, - and _.
            recording: samples and rate.
            consent: statement that the recorded person agrees.
            language: of the recording, or empty.

        Raises:
            Refusal: no voices are kept here, the name is taken or not allowed, the store is full.
            AudioError, CheckpointError: see `voxtral_jax.make_voice`.
        """
        file = self._writable(name)
        with self._lock:
            self._check_room(name, file)
        voice = make_voice(self._model, recording, name=name)
        about = About(language=language, consent=consent)
        with self._lock:
            # Another may have taken the name, or the last place, while the voice was made.
            self._check_room(name, file)
            replace(voice, about=about).save(file)
        return about

    def remove(self, name: str) -> None:
        """Deletes a kept voice.

        Raises:
            Refusal: there is none of that name, or it is a preset.
        """
        if name in self._model.voices:
            raise Refusal(403, "preset", f"{name!r} is a preset and cannot be deleted", "name")
        file = self._file(name)
        with self._lock:
            if file is None or not file.is_file():
                raise Refusal(404, "unknown_voice", f"no voice {name[:80]!r} is kept here", "name")
            file.unlink()

    def _files(self) -> list[Path]:
        if self._directory is None:
            return []
        return sorted(f for f in self._directory.glob(f"*{SUFFIX}") if NAME.fullmatch(f.stem))

    def _file(self, name: str) -> Path | None:
        if self._directory is None or not NAME.fullmatch(name):
            return None
        return self._directory / f"{name}{SUFFIX}"

    def _writable(self, name: str) -> Path:
        if self._directory is None:
            message = "this server keeps no voices; it is started with --voices DIRECTORY to do so"
            raise Refusal(403, "voices_off", message)
        file = self._file(name)
        if file is None:
            message = "name: 1 to 64 letters (a-z), digits, - or _, the first no sign"
            raise Refusal(400, "bad_name", message, "name")
        return file

    def _check_room(self, name: str, file: Path) -> None:
        if name in self._model.voices or file.exists():
            message = f"there is a voice {name!r} already; delete it or choose another name"
            raise Refusal(409, "voice_exists", message, "name")
        if len(self._files()) >= self._most:
            message = f"{self._most} voices are kept, and no more may be; delete some"
            raise Refusal(409, "voices_full", message)
