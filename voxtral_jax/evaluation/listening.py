"""All judges hear all clips; what they say is kept in `scores.jsonl`, so that none hears twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxtral_jax.errors import ConfigError
from voxtral_jax.evaluation.judges import JUDGES, Judge, Sound, make_judge
from voxtral_jax.evaluation.speaking import read_clip
from voxtral_jax.evaluation.takes import Clip
from voxtral_jax.files import append_line, read_lines

SCORES = "scores.jsonl"

Scores = dict[str, dict[str, dict[str, Any]]]
"""Name of a clip -> name of a judge -> its values."""


def make_judges(
    names: Sequence[str] | None, threads: int = 1
) -> tuple[dict[str, Judge], dict[str, str]]:
    """The judges asked for, or all that are installed.

    Args:
        names: of `JUDGES`; None takes what is there, and says what is not.
        threads: CPU threads of each.

    Returns:
        The judges by name, and why others are missing.

    Raises:
        ConfigError: one that was asked for is unknown, or its packages are missing.
    """
    made, missing = {}, {}
    for name in JUDGES if names is None else names:
        try:
            made[name] = make_judge(name, threads)
        except ConfigError as error:
            if names is not None:
                raise
            missing[name] = str(error)
    return made, missing


def listen(
    clips: Sequence[Clip],
    judges: Mapping[str, Judge],
    out: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Lets the judges hear what they have not heard yet.

    Args:
        clips: from `make_clips`.
        judges: from `make_judges`.
        out: folder of the evaluation.
        on_progress: called with the clips heard and those to hear.

    Returns:
        All scores of these judges.
    """
    known: Scores = {}
    for line in read_lines(out / SCORES):
        known.setdefault(line["clip"], {})[line["judge"]] = line["values"]
    there = {clip.name for clip in clips if clip.seconds}
    waiting = []
    for clip in clips:
        if clip.seconds and (clip.original is None or clip.original in there):
            heard = known.get(clip.name, {})
            names = [name for name in judges if name not in heard and judges[name].wants(clip)]
            if names:
                waiting.append((clip, names))
    for number, (clip, names) in enumerate(waiting, 1):
        samples, rate = read_clip(out, clip.name)
        original = None if clip.original is None else read_clip(out, clip.original)[0]
        sound = Sound(clip, samples, rate, original)
        for name in names:
            values = judges[name].hear(sound)
            append_line(out / SCORES, {"clip": clip.name, "judge": name, "values": values})
            known.setdefault(clip.name, {})[name] = values
        if on_progress is not None:
            on_progress(number, len(waiting))
    return {
        clip.name: {k: v for k, v in known.get(clip.name, {}).items() if k in judges}
        for clip in clips
    }
