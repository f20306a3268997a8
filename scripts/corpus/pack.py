"""Packs recordings so that they travel with the repository: as Opus, in a few shards or as files.

    python scripts/corpus/pack.py corpus/audio/codec-train.jsonl data/nano/train
    python scripts/corpus/pack.py corpus/audio/test.jsonl data/nano/test --files

Training reads a directory of shards in place of a manifest; with files there is a manifest beside
them. About 20 kbit/s, 2.6 kB for a second.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Annotated

import soundfile
import typer

from voxtral_jax.files import replacing
from voxtral_jax.progress import followed
from voxtral_jax.training.data.audio_shards import write_audio_shards
from voxtral_jax.training.data.manifest import Manifest, read_manifest
from voxtral_jax.training.data.recordings import read_utterance
from voxtral_jax.training.data.utterances import Utterance

RATE = 24_000
"""Hz."""
COMPRESSION = 0.95
"""Of libsndfile's Opus, from 0 to 1."""
SHARD_BYTES = 2**24


def main(
    manifest: Annotated[Path, typer.Argument(help="from manifest.py")],
    out: Annotated[Path, typer.Argument(help="directory to write")],
    files: Annotated[bool, typer.Option("--files", help="files and a manifest, no shards")] = False,
) -> None:
    """Writes the recordings and what is known of them."""
    read = read_manifest(manifest, need_text=False)
    if files:
        _as_files(read, out)
    else:
        _as_shards(read, out)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{len(read.utterances):,} recordings, {size / 1e6:.1f} MB")


def _as_files(manifest: Manifest, out: Path) -> None:
    every = manifest.utterances
    out.mkdir(parents=True, exist_ok=True)
    with (
        replacing(out.with_suffix(".jsonl")) as temporary,
        temporary.open("w", encoding="utf-8") as lines,
    ):
        for one in followed(every, "recordings packed", len(every)):
            file = (out / one.audio).with_suffix(".opus")
            file.parent.mkdir(parents=True, exist_ok=True)
            _encode(one, file)
            entry = {
                "audio": file.relative_to(out.parent).as_posix(),
                "text": one.texts[0],
                "language": one.language,
                "speaker": one.speaker,
                "phonemes": one.phonemes,
            }
            lines.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _as_shards(manifest: Manifest, out: Path) -> None:
    every = manifest.utterances
    with tempfile.TemporaryDirectory() as folder:
        packed = []
        for number, one in enumerate(followed(every, "recordings packed", len(every))):
            file = Path(folder) / f"{number}.opus"
            _encode(one, file)
            packed.append(dataclasses.replace(one, file=str(file), start=0.0, end=None))
        for lost in write_audio_shards(Manifest(tuple(packed), ()), out, SHARD_BYTES):
            print(f"{lost.where}: {lost.reason}")


def _encode(utterance: Utterance, file: Path) -> None:
    samples = read_utterance(utterance, RATE)
    soundfile.write(
        file, samples, RATE, format="OGG", subtype="OPUS", compression_level=COMPRESSION
    )


if __name__ == "__main__":
    typer.run(main)
