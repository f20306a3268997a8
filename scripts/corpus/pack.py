"""Packs recordings into few small files that travel with the repository: Opus, in shards.

    python scripts/corpus/pack.py corpus/audio/codec-train.jsonl data/nano/train

Training reads the directory in place of the manifest. About 28 kbit/s, 3.5 kB for a second.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated

import soundfile
import typer
from rich.progress import track

from voxtral_jax.training.data.audio_shards import write_audio_shards
from voxtral_jax.training.data.manifest import Manifest, read_manifest
from voxtral_jax.training.data.recordings import read_utterance

RATE = 24_000
"""Hz."""
COMPRESSION = 0.92
"""Of libsndfile's Opus, from 0 to 1."""
SHARD_BYTES = 2**24


def main(
    manifest: Annotated[Path, typer.Argument(help="from manifest.py")],
    out: Annotated[Path, typer.Argument(help="directory of shards")],
) -> None:
    """Writes the shards."""
    read = read_manifest(manifest, need_text=False)
    with tempfile.TemporaryDirectory() as folder:
        packed = []
        for number, one in enumerate(track(read.utterances, "packing")):
            file = Path(folder) / f"{number}.opus"
            samples = read_utterance(one, RATE)
            soundfile.write(
                file, samples, RATE, format="OGG", subtype="OPUS", compression_level=COMPRESSION
            )
            packed.append(dataclasses.replace(one, file=str(file), start=0.0, end=None))
        broken = write_audio_shards(Manifest(tuple(packed), ()), out, SHARD_BYTES)
    for lost in broken:
        print(f"{lost.where}: {lost.reason}")
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{len(packed) - len(broken):,} recordings, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
