"""`voxtral detect FILE ...`: one line for each file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from voxtral_jax.errors import AudioError
from voxtral_jax.watermark.pattern import KEY


def detect(
    files: Annotated[list[Path], typer.Argument(help="Recordings, in any format.")],
    key: Annotated[str, typer.Option(help="Key that the speech was marked with.")] = KEY,
) -> None:
    """Tells whether recordings hold the watermark of this program's speech.

    Exit code: 0 if all do, 1 if one does not, 2 if one cannot be read.
    """
    from voxtral_jax.audio import read_audio
    from voxtral_jax.watermark import detection

    unread, unmarked = False, False
    for file in files:
        try:
            found = detection.detect(*read_audio(file), key)
        except AudioError as error:
            print(f"error: {error}", file=sys.stderr)
            unread = True
            continue
        unmarked |= not found.present
        word = "watermark" if found.present else "no watermark"
        print(f"{file}: {word} (score {found.score:.1f}, p <= {found.p_value:.2g})")
    if unread or unmarked:
        raise typer.Exit(2 if unread else 1)
