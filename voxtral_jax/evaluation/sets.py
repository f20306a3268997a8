"""Test sets: sentences, who speaks them, and the recordings that voices are cloned from.

Two formats are read. seed-tts-eval's list, one sentence a line, with paths relative to the list:

    utterance|text of the prompt|prompt.wav|text to speak[|recording of it.wav]

And our manifest of JSON lines, in which a speaker's utterances are references for each other:

    {"audio": "en/m003/test-00001.opus", "text": "...", "language": "en", "speaker": "m003"}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxtral_jax.errors import DataError

ENOUGH = 0.8
"""Share of the wanted length that a reference has at least; with less there is none."""
HOME = "en"
"""Language of the references that are cloned across languages."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One line of a test set.

    Attributes:
        key: its name, fit to be a relative path; no two are alike.
        text: what is to be said.
        language: of the text.
        speaker: who says it, or whose voice is to be cloned.
        audio: a recording of the sentence, if there is one.
        seconds: length of the recording.
        prompt: the recording to clone, where the set names one.
    """

    key: str
    text: str
    language: str
    speaker: str
    audio: Path | None = None
    seconds: float = 0.0
    prompt: Path | None = None


@dataclass(frozen=True)
class Reference:
    """A recording to clone: files in a row, cut.

    Attributes:
        speaker, language: of the recording; the language is that wanted, others may complete it.
        files: joined in this order.
        limit: seconds after which it is cut; None takes all.
    """

    speaker: str
    language: str
    files: tuple[Path, ...]
    limit: float | None

    @property
    def name(self) -> str:
        """Names the content: equal references are made and encoded once."""
        parts = "\n".join(f"{file.parent.name}/{file.name}" for file in self.files)
        digest = hashlib.blake2s(f"{parts} {self.limit}".encode(), digest_size=4).hexdigest()
        length = "whole" if self.limit is None else f"{self.limit:g}s"
        return _key(f"{self.speaker}-{self.language}-{length}-{digest}".replace("/", "-"))


def read_set(path: Path, language: str | None = None) -> list[Sentence]:
    """Reads a test set in either format, in its order.

    Args:
        path: JSON lines if it ends in `.jsonl`, a list otherwise.
        language: of a list's texts; detected if None. A manifest says it itself.

    Raises:
        DataError: it cannot be read, a line is malformed, or a recording is missing.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the test set {path} cannot be read as UTF-8 text: {error}") from None
    manifest = path.suffix == ".jsonl"
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            parsed = (
                _of_manifest(line, path.parent)
                if manifest
                else _of_list(line, path.parent, language)
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: {error}") from None
        found.append(parsed)
    if not found:
        raise DataError(f"the test set {path} holds no sentences")
    keys = [sentence.key for sentence in found]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{path} names {twice!r} twice; each sentence needs a name of its own")
    return found


def _of_list(line: str, directory: Path, language: str | None) -> Sentence:
    from voxtral_jax.text import language_of

    fields = [field.strip() for field in line.split("|")]
    if len(fields) not in (4, 5) or not all(fields[i] for i in (0, 2, 3)):
        raise ValueError("expected utterance|prompt text|prompt.wav|text[|recording.wav]")
    prompt = directory / fields[2]
    _seconds(prompt)
    audio = directory / fields[4] if len(fields) == 5 and fields[4] else None
    return Sentence(
        key=_key(fields[0]),
        text=fields[3],
        language=language or language_of(fields[3]),
        speaker=_key(str(Path(fields[2]).with_suffix(""))).replace("/", "-"),
        audio=audio,
        seconds=0.0 if audio is None else _seconds(audio),
        prompt=prompt,
    )


def _of_manifest(line: str, directory: Path) -> Sentence:
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, got {type(data).__name__}")
    variants = data.get("text")
    data["text"] = variants[0] if isinstance(variants, list) and variants else variants
    for name in ("audio", "text", "language", "speaker"):
        if not data.get(name):
            raise ValueError(f"{name!r} is missing")
        if not isinstance(data[name], str):
            raise ValueError(f"{name!r} must be a text, got {data[name]!r}")
    if data.get("start") or data.get("end"):
        raise ValueError("parts of recordings (start, end) are not evaluated; cut them out first")
    audio = directory / data["audio"]
    return Sentence(
        key=_key(str(Path(data["audio"]).with_suffix(""))),
        text=data["text"],
        language=data["language"],
        speaker=data["speaker"],
        audio=audio,
        seconds=_seconds(audio),
    )


def _key(name: str) -> str:
    """The name as a harmless relative path."""
    parts = [re.sub(r"[^\w.+-]", "_", part).lstrip(".") for part in name.split("/")]
    return "/".join(part for part in parts if part)


def _seconds(file: Path) -> float:
    import soundfile

    try:
        return float(soundfile.info(file).duration)
    except (soundfile.SoundFileError, OSError) as error:
        raise ValueError(f"{file} cannot be read as audio: {error}") from None


def limited(sentences: Sequence[Sentence], limit: int | None) -> list[Sentence]:
    """The first `limit` sentences of each language."""
    if limit is None:
        return list(sentences)
    counts: dict[str, int] = {}
    kept = []
    for sentence in sentences:
        counts[sentence.language] = counts.get(sentence.language, 0) + 1
        if counts[sentence.language] <= limit:
            kept.append(sentence)
    return kept


def find_reference(
    sentences: Iterable[Sentence], target: Sentence, language: str, seconds: float
) -> Reference | None:
    """What the target's speaker says in other sentences, until it is `seconds` long.

    Sentences in `language` come first. Those in others complete it, unless the target is in yet
    another language: then nothing but the language could show whether cloning crosses it.

    Returns:
        None if the speaker has too little.
    """
    own = [
        sentence
        for sentence in sentences
        if sentence.speaker == target.speaker
        and sentence.audio is not None
        and sentence.key != target.key
        and sentence.text != target.text
    ]
    if target.language != language:
        own = [sentence for sentence in own if sentence.language == language]
    own.sort(key=lambda sentence: (sentence.language != language, sentence.key))
    files: list[Path] = []
    have = 0.0
    for sentence in own:
        if have >= seconds:
            break
        assert sentence.audio is not None
        files.append(sentence.audio)
        have += sentence.seconds
    if have < ENOUGH * seconds:
        return None
    return Reference(target.speaker, language, tuple(files), seconds)
