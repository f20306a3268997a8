"""What a run tells: a progress bar or lines, `metrics.jsonl`, and TensorBoard."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from voxtral_jax.files import replacing

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
MEL_BANDS, MEL_WINDOW, MEL_HOP = 128, 1024, 240
"""Of spectrogram pictures: one column every 10 ms at 24 kHz."""
RANGE_DB = 80.0
"""From black to white."""


CHATTY = ("absl", "orbax", "jax._src.distributed")
"""Libraries whose running commentary would drown a run's own."""


def quiet_libraries() -> None:
    """Lets them speak of errors only."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        metrics: scalars.
        audio: samples `[S]` by name.
        rate: of the audio, in Hz.
        codes: `[frames, K]` by name.
    """

    metrics: dict[str, float]
    audio: dict[str, Float[np.ndarray, " S"]] = field(default_factory=dict)
    rate: int = 24_000
    codes: dict[str, np.ndarray] = field(default_factory=dict)


def spectrogram_picture(samples: Float[np.ndarray, " S"], rate: int) -> np.ndarray:
    """Mel spectrogram as a picture `[3, height, width]` uint8: time to the right, pitch upwards."""
    import librosa

    mel = librosa.feature.melspectrogram(
        y=samples, sr=rate, n_fft=MEL_WINDOW, hop_length=MEL_HOP, n_mels=MEL_BANDS
    )
    db = np.clip(librosa.power_to_db(mel, ref=np.max, top_db=RANGE_DB), -RANGE_DB, 0)
    shade = (255 * (1 + db / RANGE_DB)).astype(np.uint8)[::-1]
    return np.repeat(shade[None], 3, axis=0)


class RunLog:
    """The log of one run directory; only the first host writes."""

    def __init__(
        self, out: Path, *, steps: int, start: int, tensorboard: bool, writes: bool
    ) -> None:
        self._writes, self._out, self._steps = writes, out, steps
        self._board = self._progress = None
        self._console = Console(file=sys.stderr)
        if not writes:
            return
        self._trim(start)
        self._metrics = (out / METRICS_FILE).open("a", encoding="utf-8")
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(
                str(out / TENSORBOARD_FOLDER), purge_step=start + 1 if start else None
            )
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar = self._progress.add_task("", total=steps, completed=start)
            self._progress.start()

    def _trim(self, start: int) -> None:
        """Drops the lines of steps that will be done again."""
        path = self._out / METRICS_FILE
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in map(_parsed, lines) if line and line["step"] <= start]
        with replacing(path) as temporary:
            temporary.write_text(
                "".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8"
            )

    def say(self, message: str) -> None:
        """A line for the person who watches."""
        if self._writes:
            self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def metrics(self, step: int, values: dict[str, float], group: str = "train") -> None:
        """Scalars of a step."""
        if not self._writes:
            return
        # JSON has no NaN: a loss that is none is null.
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = {"step": step, "time": round(time.time(), 3), "group": group} | finite
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._progress is not None and group == "train":
            self._progress.update(self._bar, completed=step, description=shown)
        else:
            self.say(f"{group} {step}/{self._steps}  {shown}")

    def validation(self, step: int, found: Validation) -> None:
        """Scalars, audio and pictures of a validation; codes go to `validation/STEP.npz`."""
        if not self._writes:
            return
        self.metrics(step, found.metrics, "validation")
        if found.codes:
            folder = self._out / "validation"
            folder.mkdir(exist_ok=True)
            with (
                replacing(folder / f"{step}.npz") as temporary,
                temporary.open("wb") as file,
            ):
                np.savez_compressed(file, allow_pickle=False, **found.codes)
        if self._board is not None:
            for name, samples in found.audio.items():
                self._board.add_audio(name, np.clip(samples, -1, 1), step, found.rate)
                self._board.add_image(
                    f"{name} spectrogram", spectrogram_picture(samples, found.rate), step
                )

    def close(self) -> None:
        """Writes out what is left."""
        if not self._writes:
            return
        if self._progress is not None:
            self._progress.stop()
        if self._board is not None:
            self._board.close()
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        self._metrics.close()


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of metrics; None for one that was cut off by a kill."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
