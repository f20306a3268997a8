"""A batch job: one text for one file, and the checks that it passes before a model loads."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import ConfigDict, Field

from voxtral_jax.audio.reading import read_audio
from voxtral_jax.audio.writing import format_of
from voxtral_jax.errors import JobError, VoiceError
from voxtral_jax.text import check, clean, estimate_seconds
from voxtral_jax.utterance import LARGEST_SEED, Options
from voxtral_jax.voice import SUFFIXES, Voice

RESULTS = "results.jsonl"
"""The manifest's name in the output directory."""
LONGEST_NAME = 200
"""Bytes of each part of a name: file systems allow 255, suffixes and temporary names included."""
FORBIDDEN = re.compile(r'[\\:*?"<>|\x00-\x1f\x7f]')
"""Characters that some file system does not have in names."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One text to speak. All fields but the first three are what a list can say of it.

    Attributes:
        line: where it stands in its list, from 1.
        digest: of everything that the audio depends on.
        source_digest: of the bytes of `source`.
        text: what is said.
        name: of its file in the output directory, without suffix; "/" parts folders.
        format: of the file.
        voice: a preset, or the path of a saved voice; None is the language's default.
        ref: path of a recording to clone.
        seed, language, guidance, noise_scale, temperature, max_seconds: as in `synthesize`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    line: int
    digest: str = ""
    source_digest: str | None = None
    text: str
    name: str
    format: str = "wav"
    voice: str | None = None
    ref: str | None = None
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0
    language: str | None = None
    guidance: float | None = None
    noise_scale: float | None = None
    temperature: float = 0.0
    max_seconds: float | None = None

    @property
    def file(self) -> str:
        """Where its audio goes, relative to the output directory."""
        return f"{self.name}.{self.format.lower()}"

    @property
    def expected_seconds(self) -> float:
        """How long it will take to say, about."""
        usual = estimate_seconds(self.text)
        return usual if self.max_seconds is None else min(usual, self.max_seconds)

    @property
    def source(self) -> str | None:
        """The file that its voice comes from, if it is not a preset."""
        if self.ref is not None:
            return self.ref
        return self.voice if self.voice is not None and self.voice.endswith(SUFFIXES) else None


DERIVED = ("line", "digest", "source_digest")
FIELDS = tuple(name for name in Job.__dataclass_fields__ if name not in DERIVED)
"""What a line of a list may say."""


def check_job(job: Job, voices: Collection[str]) -> None:
    """Raises a VoxtralError unless this can be spoken, as far as that is known without a model.

    Args:
        job: from a list.
        voices: names of the model's presets.
    """
    check(job.text)
    check(clean(job.text))
    check_name(job.name)
    format_of(job.name, job.format)
    Options(
        guidance=job.guidance,
        noise_scale=job.noise_scale,
        temperature=job.temperature,
        max_seconds=job.max_seconds,
    )
    if job.voice is not None and job.ref is not None:
        raise JobError("it names a voice and a ref; keep one of them")
    if job.source is None and job.voice is not None and job.voice not in voices:
        known = ", ".join(sorted(voices)) or "none, so give a ref"
        raise VoiceError(f"unknown voice {job.voice!r}; the model's presets are: {known}")


def check_source(path: str) -> str:
    """The digest of a recording's or a saved voice's bytes.

    Raises:
        AudioError, VoiceError: it is neither.
    """
    if path.endswith(SUFFIXES):
        Voice.load(path)
    else:
        read_audio(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(name: str) -> None:
    """Raises JobError unless a name is a file's, within the output directory, on any system."""
    for part in name.split("/"):
        if not part.strip() or part.startswith("."):
            raise JobError(
                f"the name {name!r} does not stay in the output directory or would be hidden; "
                "parts of a name are not empty and do not start with a dot"
            )
        if found := FORBIDDEN.search(part):
            raise JobError(f"the name {name!r} has the character {found[0]!r}; leave it out")
        try:
            size = len(part.encode())
        except UnicodeEncodeError:
            raise JobError(f"the name {name!r} is no valid Unicode") from None
        if size > LONGEST_NAME:
            raise JobError(f"the name {name[:40]!r}... has {size} bytes, at most {LONGEST_NAME}")


def clashes(jobs: Iterable[Job]) -> dict[int, str]:
    """Line -> why its file cannot stand beside those of the lines before it."""
    files: dict[str, int] = {RESULTS: 0}
    folders: dict[str, int] = {}
    found = {}
    for job in jobs:
        # Some file systems do not tell capital letters.
        file = job.file.casefold()
        above = [str(folder) for folder in PurePosixPath(file).parents][:-1]
        other = files.get(file, folders.get(file))
        if other is None:
            other = next((files[folder] for folder in above if folder in files), None)
        if other is not None:
            whose = f"that of line {other}" if other else "the list of results"
            found[job.line] = f"its file {job.file!r} is {whose}; give it another name"
            continue
        files[file] = job.line
        folders |= dict.fromkeys(above, job.line)
    return found


def digest_of(job: Job, model: str) -> str:
    """A digest of what the audio of a job depends on.

    Args:
        job: checked.
        model: names the weights.
    """
    asked = asdict(job)
    del asked["line"], asked["digest"]
    if job.source is not None:
        # A recording that moved is the same; one that was replaced is not.
        del asked["ref"], asked["voice"]
    text = json.dumps({"model": model, **asked}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
