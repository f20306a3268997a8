"""Batches of packed rows of voice prompts, texts and speech, for the decoder and the flow."""

from __future__ import annotations

import sys
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import grain
import numpy as np

from voxtral_jax.config import VoxtralConfig
from voxtral_jax.errors import DataError
from voxtral_jax.text import Tokenizer
from voxtral_jax.training.data.batches import SpeechBatch
from voxtral_jax.training.data.layout import (
    SpeechSequence,
    fill_row,
    lay_out,
    speech_weights,
    stack_rows,
)
from voxtral_jax.training.data.pairing import same_recordings
from voxtral_jax.training.data.pipeline import Batches, my_rows
from voxtral_jax.training.data.plan import PackingSettings, Plan, Planner, spoken_text
from voxtral_jax.training.data.shards import CodeRecord, CodeSource

__all__ = [
    "PackedRows",
    "PackingSettings",
    "SpeechBatches",
    "empty_rows",
    "speech_batches",
    "validation_speech",
]

KEPT_PLANS = 2
"""Plans that are kept: while one epoch ends, the next begins."""
NAMED = 5
"""Records left out that a note names for each reason; the plan names all."""


class PackedRows:
    """The rows of all epochs, one epoch after the other, by number; worker processes may share it.

    Epochs differ a little in rows, so where one begins is known only from the plans of those
    before it. They are made when they are needed: when a run goes on in a later epoch, all of them.

    Args:
        source: what is spoken.
        tokenizer: of the model.
        config: of the model.
        settings: of sequences and rows.
        seed: of all chance.
        prompts: codes that take the place of `source`'s in voice prompts, by key.

    Raises:
        DataError: the settings contradict each other, or `prompts` is of other recordings.
    """

    def __init__(
        self,
        source: CodeSource,
        tokenizer: Tokenizer,
        config: VoxtralConfig,
        settings: PackingSettings,
        seed: int,
        prompts: CodeSource | None = None,
    ) -> None:
        self._source, self._tokenizer, self._config = source, tokenizer, config
        self._prompts = prompts
        self._prompt_of = (
            {} if prompts is None else same_recordings(source.entries, prompts.entries)
        )
        self._settings, self._frame_rate = settings, config.codec.frame_rate
        self._planner = Planner(source.entries, tokenizer, settings, self._frame_rate, seed)
        self._ends: list[int] = []
        self._forget()

    def _forget(self) -> None:
        """What does not travel to another process."""
        self._lock = threading.RLock()
        self._plan = lru_cache(KEPT_PLANS)(self._planner.plan)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_plan")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def other_prompts(self) -> int:
        """Records with codes of their own for voice prompts."""
        return len(self._prompt_of)

    def plan(self, epoch: int) -> Plan:
        """The plan of an epoch.

        Raises:
            DataError: no record can be used.
        """
        with self._lock:
            return self._plan(epoch)

    def end(self, epoch: int) -> int:
        """Rows of all epochs up to this one, its own among them.

        Raises:
            DataError: no record can be used.
        """
        with self._lock:
            while len(self._ends) <= epoch:
                before = self._ends[-1] if self._ends else 0
                self._ends.append(before + self._plan(len(self._ends)).rows)
            return self._ends[epoch]

    def __getitem__(self, number: int) -> SpeechBatch:
        """One row, without the axis B.

        Raises:
            DataError: a shard is corrupt, or of a codec of another size.
        """
        with self._lock:
            while not self._ends or self._ends[-1] <= number:
                self.end(len(self._ends))
            epoch = bisect_right(self._ends, number)
            row = number - (self._ends[epoch - 1] if epoch else 0)
            plan = self._plan(epoch)
        first, stop = plan.bounds[row], plan.bounds[row + 1]
        return self._row([self._sequence(plan, i) for i in range(first, stop)])

    def batch(self, numbers: Sequence[int | None]) -> SpeechBatch:
        """Some rows as one batch; None is a row of padding."""
        return stack_rows([self._row([]) if n is None else self[n] for n in numbers])

    def _row(self, sequences: Sequence[SpeechSequence]) -> SpeechBatch:
        settings = self._settings
        return fill_row(sequences, self._config, settings.row_tokens, settings.row_targets)

    def _sequence(self, plan: Plan, i: int) -> SpeechSequence:
        """The sequence number i of a plan."""
        target, voice = self._record(self._source, plan.targets[i]), self._voice(plan.voices[i])
        first = plan.voice_first[i]
        text = spoken_text(target.texts[plan.variants[i]])
        assert text is not None
        return lay_out(
            self._config,
            self._tokenizer,
            text,
            voice.codes[first : first + plan.voice_frames[i]],
            target.codes,
            speech_weights(target.speech, self._settings.silence_seconds * self._frame_rate),
            target.language or None,
            target.phoneme_ends,
        )

    def _voice(self, number: int) -> CodeRecord:
        """A record as voice prompts have it."""
        heard = self._prompt_of.get(int(number))
        if self._prompts is None or heard is None:
            return self._record(self._source, number)
        return self._record(self._prompts, heard)

    def _record(self, source: CodeSource, number: int) -> CodeRecord:
        record, audio = source[int(number)], self._config.audio
        sizes = [audio.semantic_codebook_size] + [audio.acoustic_codebook_size] * (
            audio.n_codebooks - 1
        )
        if record.codes.shape[1] != len(sizes) or np.any(record.codes.max(axis=0) >= sizes):
            raise DataError(
                f"{record.key} has {record.codes.shape[1]} codebooks with codes up to "
                f"{record.codes.max()}, the model has {len(sizes)} of {sizes[0]} and {sizes[-1]} "
                "codes; make the codes with this model's codec"
            )
        return record


@dataclass(frozen=True)
class SpeechBatches:
    """Batches without end, or of some epochs, and what is known of them.

    Attributes:
        dataset: of `SpeechBatch`; its iterator has `get_state` and `set_state`.
        rows: what its batches are made of.
        per_pass: batches in the first epoch, at least one.
        notes: lines that say what there is and what is left out.
    """

    dataset: grain.IterDataset[SpeechBatch]
    rows: PackedRows
    per_pass: int
    notes: tuple[str, ...]


def speech_batches(
    source: CodeSource,
    tokenizer: Tokenizer,
    config: VoxtralConfig,
    settings: PackingSettings,
    *,
    batch_size: int,
    seed: int,
    prompts: CodeSource | None = None,
    epochs: int | None = None,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
) -> SpeechBatches:
    """Each record once an epoch as speech, with another excerpt of its speaker as voice prompt.

    Order, voice prompts, their lengths and the texts' variants are drawn anew each epoch. Epochs
    follow each other without a gap, so a batch may hold the end of one and the beginning of the
    next; only the very last batch is dropped if it is not full.

    Args:
        source: what is spoken.
        tokenizer: of the model.
        config: of the model.
        settings: of sequences and rows.
        batch_size: rows of a global batch.
        seed: of all chance.
        prompts: codes that take the place of `source`'s in voice prompts, by key.
        epochs: None is without end.
        workers: processes that make batches; 0 is threads of this one. The batches are the same.
        process: index of this process and how many there are; each gets its rows of a batch.

    Raises:
        DataError: no record can be used, there are too few rows for one batch, the processes cannot
            share it, or the settings contradict each other.
    """
    mine = my_rows(batch_size, process)
    rows = PackedRows(source, tokenizer, config, settings, seed, prompts)
    # Plans are made here and not in a worker: the first, or all that will be needed.
    total = rows.end((epochs or 1) - 1)
    if epochs is not None and total < batch_size:
        raise DataError(f"{total} rows in {epochs} epochs do not fill a batch of {batch_size}")
    batches = (
        grain.MapDataset.range(sys.maxsize if epochs is None else total)
        .batch(batch_size, drop_remainder=True, batch_fn=list)
        .map(lambda numbers: rows.batch(numbers[mine]))
    )
    first = rows.plan(0)
    return SpeechBatches(
        dataset=Batches(batches, workers),
        rows=rows,
        per_pass=max(1, first.rows // batch_size),
        notes=tuple(_notes(source, settings, first, rows.other_prompts)),
    )


def _notes(
    source: CodeSource, settings: PackingSettings, plan: Plan, other_prompts: int
) -> Iterator[str]:
    yield (
        f"{len(plan.targets):,} of {len(source):,} records in {plan.rows:,} rows of "
        f"{settings.row_tokens:,} tokens, {plan.padding:.1%} of them padding"
    )
    if other_prompts:
        yield f"voice prompts of {other_prompts:,} records are those of data.prompts"
    for reason, keys in plan.left_out.items():
        more = ", ..." if len(keys) > NAMED else ""
        yield f"{len(keys):,} left out, {reason}: {', '.join(keys[:NAMED])}{more}"


def empty_rows(config: VoxtralConfig, settings: PackingSettings, rows: int) -> SpeechBatch:
    """A batch of padding, in the shapes that all batches have."""
    one = fill_row([], config, settings.row_tokens, settings.row_targets)
    return stack_rows([one] * rows)


def validation_speech(
    source: CodeSource,
    tokenizer: Tokenizer,
    config: VoxtralConfig,
    settings: PackingSettings,
    *,
    batch_size: int,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
) -> grain.IterDataset[SpeechBatch]:
    """Each record once, always with the same voice prompt and text, in the same rows.

    The last batch is filled up with rows of padding. Arguments are those of `speech_batches`.
    """
    rows = PackedRows(source, tokenizer, config, settings, seed=0)
    mine = my_rows(batch_size, process)

    def make(numbers: list[int]) -> SpeechBatch:
        padding = [None] * (batch_size - len(numbers))
        return rows.batch([*numbers, *padding][mine])

    batches = grain.MapDataset.range(rows.end(0)).batch(batch_size, batch_fn=list).map(make)
    return Batches(batches, workers)
