"""Which line is in which slot: admits lines, advances them chunk by chunk, hands out what is made.

The host stays one chunk ahead: the next frames are under way on the device while it takes the last.
A line's chunks depend on the line alone, whoever shares the slots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from voxtral_jax.buckets import bucket
from voxtral_jax.flow import Sampler
from voxtral_jax.serving.lines import Chunk, Line, batch
from voxtral_jax.serving.room import Room
from voxtral_jax.serving.slots import Voiced, admit, advance, open_slots
from voxtral_jax.speech import FinishReason

if TYPE_CHECKING:
    from voxtral_jax.model import Model

Who = TypeVar("Who", bound=Hashable)


@dataclass(eq=False)
class _Running(Generic[Who]):
    """A line in its slot: whose it is, frames asked for so far, frames handed out."""

    who: Who
    line: Line
    sampler: Sampler
    asked: int = 0
    taken: int = 0


class Scheduler(Generic[Who]):
    """Lines in slots. Not thread-safe: one thread drives it.

    Args:
        model: speaks.
        room: sizes.
    """

    def __init__(self, model: Model, room: Room) -> None:
        self.room = room
        self._model = model
        embeddings = model.params["decoder"]["mm_audio_embeddings"]["tok_embeddings"]["weight"]
        self._slots = open_slots(
            config=model.config,
            slots=room.slots,
            cache_length=room.cache,
            most_frames=room.frames + room.chunk,
            dtype=embeddings.dtype,
            rules=model.rules,
        )
        self._running: list[_Running[Who] | None] = [None] * room.slots
        self._under_way: deque[tuple[list[_Running[Who] | None], Voiced]] = deque()

    @property
    def free(self) -> int:
        """Slots without a line."""
        return self._running.count(None)

    @property
    def busy(self) -> bool:
        """Whether a line runs."""
        return self.free < self.room.slots

    def admit(self, lines: Sequence[tuple[Who, Line, Sampler]]) -> None:
        """Puts lines into free slots, with one prefill for all of them.

        Args:
            lines: whose they are, the lines (which fit the room), and how their flow runs; no more
                than there are free slots.
        """
        if self.room.invariant and len(lines) > 1:
            for one in lines:
                self.admit([one])
            return
        rows = [row for row, one in enumerate(self._running) if one is None][: len(lines)]
        spare = bucket(len(lines)) - len(lines)
        only = [line for _, line, _ in lines]
        prompts, requests = batch([*only, *[only[0]] * spare])
        self._slots = admit(
            self._model.speaker,
            self._slots,
            prompts,
            requests,
            jnp.asarray([*rows, *[self.room.slots] * spare], jnp.int32),
            config=self._model.config,
            rules=self._model.rules,
        )
        for row, (who, line, sampler) in zip(rows, lines, strict=True):
            self._running[row] = _Running(who, line, sampler)

    def cancel(self, who: Who) -> None:
        """Frees the slots of `who`; its chunks under way are dropped."""
        self._running = [one if one and one.who != who else None for one in self._running]
        self._forget_if_idle()

    def step(self, count: int) -> list[tuple[Who, Chunk]]:
        """Asks for the next frames, and hands out those asked for before.

        Args:
            count: frames of a chunk, at most the room's.

        Returns:
            Chunks, each with whose it is; lines that end leave their slots.
        """
        dispatched = self._dispatch(count)
        chunks: list[tuple[Who, Chunk]] = []
        while len(self._under_way) > dispatched:
            chunks += self._take(*self._under_way.popleft())
        self._forget_if_idle()
        return chunks

    def _forget_if_idle(self) -> None:
        # Frames asked for before the last line ended: they would keep it until the next one comes.
        if not self.busy:
            self._under_way.clear()

    def _dispatch(self, count: int) -> int:
        """Starts the next frames of every line that has some left, one program for a sampler."""
        going = [one if one and one.asked < one.line.most_frames else None for one in self._running]
        samplers = {one.sampler: None for one in going if one}
        for sampler in samplers:
            rows = [one if one and one.sampler == sampler else None for one in going]
            span = self.room.span(max(len(one.line.ids) + one.asked for one in rows if one) + count)
            self._under_way.append((rows, self._advance(rows, count, sampler, span)))
            for one in rows:
                if one:
                    one.asked += count
        return len(samplers)

    def compile(self, count: int, sampler: Sampler, span: int) -> None:
        """Makes the program ready for such chunks, which look at one of the room's spans."""
        self._advance([None] * self.room.slots, count, sampler, span)

    def _advance(
        self, rows: Sequence[_Running[Who] | None], count: int, sampler: Sampler, span: int
    ) -> Voiced:
        self._slots, made = advance(
            self._model.speaker,
            self._model.codec,
            self._slots,
            jnp.asarray([one is not None for one in rows]),
            count=count,
            config=self._model.config,
            sampler=sampler,
            span=span,
        )
        return made

    def _take(self, rows: list[_Running[Who] | None], made: Voiced) -> list[tuple[Who, Chunk]]:
        made = jax.device_get(made)  # all at once
        every, codes = np.asarray(made.samples), np.asarray(made.codes)
        counts, ends = np.asarray(made.valid), np.asarray(made.stopped)
        frame = self._model.config.codec.frame_samples
        chunks: list[tuple[Who, Chunk]] = []
        for row, one in enumerate(rows):
            # A line that ended or was cancelled meanwhile has left; its slot may have a new one.
            if one is None or self._running[row] is not one:
                continue
            valid, stopped = int(counts[row]), bool(ends[row])
            one.taken += valid
            done = stopped or one.taken >= one.line.most_frames
            reason: FinishReason | None = ("stop" if stopped else "length") if done else None
            samples = every[row, : valid * frame]
            chunks.append((one.who, Chunk(samples, codes[row, :valid], reason)))
            if done:
                self._running[row] = None
        return chunks
