"""The whole evaluation: speak, listen, count, report."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtral_jax.errors import ConfigError, DataError
from voxtral_jax.evaluation.figures import make_rows, summarize
from voxtral_jax.evaluation.judges import JUDGES, Judge
from voxtral_jax.evaluation.judges.recognition import Whisper
from voxtral_jax.evaluation.listening import listen, make_judges
from voxtral_jax.evaluation.page import page
from voxtral_jax.evaluation.report import markdown
from voxtral_jax.evaluation.sets import Sentence, read_set
from voxtral_jax.evaluation.speaking import BATCH, SPEED, make_clips, measure_speed
from voxtral_jax.evaluation.takes import (
    CLONE,
    CODEC,
    CONDITIONS,
    CROSS,
    PRESET,
    check_conditions,
    make_takes,
)
from voxtral_jax.evaluation.transcripts import compare
from voxtral_jax.files import read_lines, replacing
from voxtral_jax.parameters import leaves

if TYPE_CHECKING:
    from voxtral_jax.config import CodecConfig
    from voxtral_jax.model import Model

SETTINGS = "settings.json"
RECOGNISERS = ("whisper", "pocketsphinx")
NAMED = 5
"""Failures that are quoted; all are counted."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much is."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to evaluate.

    Attributes:
        test_set: a list or a manifest (`read_set`).
        out: folder for audio, scores and reports.
        conditions: of `CONDITIONS`.
        judges: of `JUDGES`; None takes all that are installed.
        limit: sentences of each language; all if None.
        lengths: seconds of the references.
        language: of a list's texts.
        long_texts: long texts of each language.
        samples: sentences of each language on the page.
        seed: of all speech.
        batch: texts spoken together.
        threads: CPU threads of each judge.
        options: more arguments of `synthesize`.
    """

    test_set: Path
    out: Path
    conditions: Sequence[str] = CONDITIONS
    judges: Sequence[str] | None = None
    limit: int | None = None
    lengths: Sequence[float] = (3.0, 10.0)
    language: str | None = None
    long_texts: int = 1
    samples: int = 2
    seed: int = 0
    batch: int = BATCH
    threads: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_conditions(self.conditions)
        for name, least in (("limit", 1), ("batch", 1), ("threads", 1), ("samples", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be {least} or more, got {value}")
        if not self.lengths or not all(1 <= length < math.inf for length in self.lengths):
            raise ConfigError("the seconds of references must be 1 or more")


def evaluate(
    model: Model, name: str, plan: Plan, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Evaluates a model and writes `results.json`, `results.md` and `index.html`.

    What an earlier call with the same settings spoke and heard is used again.

    Args:
        model: from `load_model`.
        name: what to call it in the reports.
        plan: what to evaluate.
        on_progress: told how far it is.

    Returns:
        What is in `results.json`.

    Raises:
        DataError: the set cannot be read, or Whisper does not know one of its languages.
        ConfigError: a judge is missing, or `out` holds the speech of other settings.
    """
    sentences = read_set(plan.test_set, plan.language)
    judges, missing = make_judges(plan.judges, plan.threads)
    _check_languages(plan.test_set, sentences, judges)
    if set(judges) & set(RECOGNISERS):
        for language in {sentence.language for sentence in sentences}:
            compare("1 a", "1 a", language)  # what a language needs is missed now, not at the end
    _claim(plan, model)
    conditions, notes = _possible(model, plan.conditions)
    takes = make_takes(
        sentences,
        conditions=conditions,
        voices={name: about.language for name, about in model.abouts.items()},
        lengths=plan.lengths,
        limit=plan.limit,
        long_texts=plan.long_texts,
        can_clone=model.can_clone,
    )

    def step(what: str) -> Callable[[int, int], None] | None:
        return None if on_progress is None else lambda done, of: on_progress(what, done, of)

    clips = make_clips(
        model,
        takes,
        plan.out,
        seed=plan.seed,
        batch=plan.batch,
        options=plan.options,
        on_progress=step("speaking"),
    )
    measure_speed(model, takes, plan.out, plan.options)
    scores = listen(clips, judges, plan.out, step("listening"))
    rows = make_rows(
        clips, scores, {name: judges[name].wants for name in judges if name in RECOGNISERS}
    )
    failures = [clip for clip in clips if clip.failure is not None]
    notes += [f"{clip.name}: {clip.failure}" for clip in failures[:NAMED]]
    results = {
        "model": name,
        "set": plan.test_set.name,
        **_about(),
        "settings": {"limit": plan.limit, "seed": plan.seed, "options": plan.options},
        "judges": {judge: JUDGES[judge].says for judge in judges},
        "missing": missing,
        "notes": notes,
        "speed": speed_of(read_lines(plan.out / SPEED)),
        "bits_per_second": bits_per_second(model.config.codec),
        "figures": summarize(rows),
    }
    _write(plan.out / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    _write(plan.out / "results.md", markdown(results))
    _write(plan.out / "index.html", page(results, rows, plan.out, plan.samples))
    return results


def _check_languages(
    file: Path, sentences: Sequence[Sentence], judges: Mapping[str, Judge]
) -> None:
    """Raises DataError for a language that Whisper cannot be told: now, not after the speaking."""
    whisper = judges.get("whisper")
    known = whisper.languages if isinstance(whisper, Whisper) else None
    for sentence in sentences:
        if known is not None and sentence.language not in known:
            raise DataError(
                f"{file}: {sentence.key} is in {sentence.language!r}, which the judge whisper does "
                'not know: name languages by codes such as "en", or choose --judges without it'
            )


def _possible(model: Model, conditions: Sequence[str]) -> tuple[list[str], list[str]]:
    """The conditions that a model can be heard in, and why it cannot be in others."""
    left, notes = list(conditions), []
    if not model.can_clone:
        gone = [c for c in left if c in (CODEC, CLONE, CROSS)]
        left = [c for c in left if c not in gone]
        if gone:
            notes.append(
                f"without {', '.join(gone)}: the model has no codec encoder; give its weights "
                "with --encoder-weights"
            )
    if PRESET in left and not model.voices:
        left.remove(PRESET)
        notes.append(f"without {PRESET}: the model has no preset voices")
    return left, notes


def bits_per_second(config: CodecConfig) -> float:
    """Bit rate of the codec's codes."""
    bits = math.log2(config.semantic_codebook_size)
    bits += config.acoustic_dim * math.log2(config.acoustic_codebook_size)
    return bits * config.frame_rate


def speed_of(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Speed from the lines of `speed.jsonl`: the median of single texts, the sum of batches."""
    factors = sorted(line["factor"] for line in lines if "factor" in line)
    batches = [line for line in lines if "wall" in line]
    speed = {}
    if factors:
        speed["real_time_factor"] = round(factors[len(factors) // 2], 4)
    if batches:
        wall = sum(line["wall"] for line in batches)
        speed["batch_seconds_per_second"] = round(sum(b["seconds"] for b in batches) / wall, 3)
    return speed


def _about() -> dict[str, str]:
    import jax

    import voxtral_jax

    return {
        "date": datetime.date.today().isoformat(),
        "version": voxtral_jax.__version__,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}",
    }


def _claim(plan: Plan, model: Model) -> None:
    """Notes whose speech `out` holds; speech of other settings is not mixed in."""
    ours = {
        "model": fingerprint(model),
        "set": hashlib.blake2b(plan.test_set.read_bytes(), digest_size=8).hexdigest(),
        "language": plan.language,
        "seed": plan.seed,
        "options": plan.options,
        # Long texts are named by neither.
        "lengths": list(plan.lengths),
        "long_texts": plan.long_texts,
    }
    file = plan.out / SETTINGS
    try:
        if not file.exists():
            plan.out.mkdir(parents=True, exist_ok=True)
            _write(file, json.dumps(ours, indent=2) + "\n")
            return
        theirs = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{plan.out} cannot hold an evaluation: {error}") from None
    other = [key for key in ours if ours[key] != theirs.get(key)]
    if other:
        raise ConfigError(
            f"{plan.out} holds the speech of other settings ({', '.join(other)}); "
            "choose another --out, or remove it"
        )


def fingerprint(model: Model) -> str:
    """Tells a model from others: the weights that it speaks with, adapters merged, and presets."""
    digest = hashlib.blake2b(digest_size=8)
    for path, weight in leaves(model.params):
        digest.update(f"{path} {weight.shape} {weight.dtype}".encode())
        digest.update(np.asarray(weight).tobytes())
    for name, file in sorted(model.voices.items()):
        digest.update(name.encode() + file.read_bytes())
    return digest.hexdigest()


def _write(file: Path, text: str) -> None:
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
