"""Puts the recordings of a manifest into shards: `python scripts/shard_audio.py MANIFEST OUT_DIR`.

Training reads the directory in place of the manifest. What is interrupted goes on with the same
command.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from voxtral_jax.errors import VoxtralError
from voxtral_jax.training.data.audio_shards import write_audio_shards
from voxtral_jax.training.data.manifest import read_manifest


def main(
    manifest: Annotated[str, typer.Argument(help="Manifest (JSON lines), or a pattern.")],
    out_dir: Annotated[Path, typer.Argument(help="Directory of the shards.")],
    shard_mb: Annotated[float, typer.Option(min=0.001, help="Size of a shard in MiB.")] = 256,
    most_broken: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the utterances that may be broken.")
    ] = 0.05,
) -> None:
    """Puts the recordings of a manifest into shards; parts of recordings are cut out as FLAC."""
    try:
        found = read_manifest(manifest, need_text=False, most_broken=most_broken)
        undecoded = write_audio_shards(found, out_dir, int(shard_mb * 2**20))
    except VoxtralError as error:
        sys.exit(f"error: {error}")
    for one in (*found.broken, *undecoded):
        print(f"left out {one.where}: {one.reason}", file=sys.stderr)
    print(f"{len(found.utterances) - len(undecoded):,} utterances are in {out_dir}")


if __name__ == "__main__":
    typer.run(main)
