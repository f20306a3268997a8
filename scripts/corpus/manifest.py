"""Manifests of the corpus: speech (train, validation, test) and codec.

    python scripts/corpus/manifest.py corpus/audio --real librispeech --real ljspeech

Reads what `speak.py` listed, leaves out what `filter.py` heard wrongly, and adds real speech
(without transcripts) to the codec's manifests: its speakers are those that file names begin with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from voxtral_jax.files import read_lines, replacing

SPLITS = ("train", "validation", "test")
REAL_APART = 20
"""Of so many real speakers, one is for validation and another for the test."""
REAL_SUFFIXES = (".flac", ".wav")


def spoken(audio: Path, most_errors: float) -> Iterator[dict[str, Any]]:
    """Lines of recordings that were heard rightly, or that nobody listened to."""
    files = sorted(audio.glob("heard-*.jsonl"))
    heard = {line["audio"]: line["character_errors"] for f in files for line in read_lines(f)}
    seen: set[str] = set()
    for line in (line for f in sorted(audio.glob("lines-*.jsonl")) for line in read_lines(f)):
        if line["audio"] not in seen and heard.get(line["audio"], 0.0) <= most_errors:
            seen.add(line["audio"])
            yield line


def real(folder: Path, base: Path) -> Iterator[dict[str, Any]]:
    """Recordings of a folder, with their split."""
    files = sorted(file for file in folder.iterdir() if file.suffix in REAL_SUFFIXES)
    speakers = sorted({_speaker(file) for file in files})
    splits = dict(zip(speakers, (_real_split(i) for i in range(len(speakers))), strict=True))
    for file in files:
        yield {
            "audio": os.path.relpath(file, base),
            "language": "en",
            "speaker": f"real-{_speaker(file)}",
            "split": splits[_speaker(file)],
        }


def _speaker(file: Path) -> str:
    return file.stem.split("-")[0].rstrip("0123456789") or file.stem.split("-")[0]


def _real_split(number: int) -> str:
    return {1: "validation", 2: "test"}.get(number % REAL_APART, "train")


def main(
    audio: Annotated[Path, typer.Argument(help="folder that speak.py wrote")],
    most_errors: Annotated[float, typer.Option(help="character error rate that is kept")] = 0.3,
    real_speech: Annotated[
        list[Path] | None,
        typer.Option("--real", exists=True, file_okay=False, help="folder of real speech"),
    ] = None,
) -> None:
    """Writes `train.jsonl`, `validation.jsonl`, `test.jsonl` and `codec-*.jsonl` to the folder."""
    speech = list(spoken(audio, most_errors))
    more = [line for folder in real_speech or [] for line in real(folder, audio)]
    for split in SPLITS:
        ours = [line for line in speech if line["split"] == split]
        codec = ours + [line for line in more if line["split"] == split]
        for name, lines in ((f"{split}.jsonl", ours), (f"codec-{split}.jsonl", codec)):
            with replacing(audio / name) as temporary, temporary.open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        hours = sum(line["seconds"] for line in ours) / 3600
        print(f"{split}: {len(ours):,} spoken, {hours:.2f} h; {len(codec) - len(ours):,} real")


if __name__ == "__main__":
    typer.run(main)
