"""How well a recogniser understands each recording of the corpus, so that bad ones can be left out.

    python scripts/corpus/filter.py corpus/audio --split train --worker 0 --workers 2

Reads `lines-*.jsonl` of `speak.py` and appends to `heard-*.jsonl`, one line a recording: what
Whisper base heard, and its character error rate. The same command goes on where it was stopped, and
finds what was spoken since. Needs the extra `voxtral-jax[evaluation]`.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated, Any

import typer

from voxtral_jax.audio import read_audio, resample, to_mono
from voxtral_jax.evaluation.judges import RATE
from voxtral_jax.evaluation.judges.recognition import Whisper
from voxtral_jax.evaluation.transcripts import compare
from voxtral_jax.files import append_line, read_lines
from voxtral_jax.progress import followed


def waiting(
    audio: Path, languages: list[str], split: str | None, worker: int, workers: int
) -> list[dict[str, Any]]:
    """One worker's recordings that nobody has heard yet."""
    heard = {line["audio"] for file in audio.glob("heard-*.jsonl") for line in read_lines(file)}
    lines = [line for file in sorted(audio.glob("lines-*.jsonl")) for line in read_lines(file)]
    return [
        line
        for line in lines
        if line["audio"] not in heard
        and (not languages or line["language"] in languages)
        and split in (None, line["split"])
        # By name, not by place: the list grows.
        and zlib.crc32(line["audio"].encode()) % workers == worker
    ]


def main(
    audio: Annotated[Path, typer.Argument(help="folder that speak.py writes")],
    language: Annotated[list[str] | None, typer.Option(help="only these, several times")] = None,
    split: Annotated[str | None, typer.Option(help="only this")] = None,
    worker: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int, typer.Option(min=1)] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Hears one worker's share of the recordings."""
    left = waiting(audio, language or [], split, worker, workers)
    whisper = Whisper(threads)
    out = audio / f"heard-{worker}-of-{workers}.jsonl"
    for line in followed(left, f"worker {worker}, recordings heard", len(left)):
        samples, rate = read_audio(audio / line["audio"])
        heard = whisper.transcribe(resample(to_mono(samples), rate, RATE), line["language"])
        errors = compare(line["text"], heard, line["language"]).characters.rate
        entry = {"audio": line["audio"], "heard": heard, "character_errors": round(errors, 4)}
        append_line(out, entry)


if __name__ == "__main__":
    typer.run(main)
