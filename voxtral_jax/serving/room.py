"""How much room slots have: sizes that fix every compiled shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voxtral_jax.buckets import bucket
from voxtral_jax.decoder.prompt import LEAST_PROMPT
from voxtral_jax.errors import RequestError, TextError
from voxtral_jax.serving.lines import Line

if TYPE_CHECKING:
    from voxtral_jax.model import Model
    from voxtral_jax.serving.settings import EngineSettings

LEAST_CACHE = 128
"""Smallest key/value cache, in tokens."""
LEAST_SPAN = 512
"""Smallest part of the cache that frames look at, in tokens; it doubles up to the whole."""
LONGEST_PROMPT, LONGEST_LINE = 1024, 750
"""Tokens of a prompt and frames of a line that an engine has room for, unless told otherwise, and
a batch-invariant model always."""


@dataclass(frozen=True)
class Room:
    """Sizes of the slots; they fix every compiled shape.

    Attributes:
        slots: lines side by side.
        prompt: tokens of the longest prompt.
        frames: of the longest line.
        chunk: frames of the longest chunk.
        invariant: compute the same shapes whoever is there: a line's codes are then the same, bit
            for bit, with any others.
    """

    slots: int
    prompt: int
    frames: int
    chunk: int
    invariant: bool = False

    @classmethod
    def of(cls, lines: Sequence[Line], most_slots: int, chunk: int) -> Room:
        """Room for these lines, in a few sizes."""
        frames = bucket(max(line.most_frames for line in lines), chunk)
        prompt = bucket(max(len(line.ids) for line in lines), LEAST_CACHE)
        return cls(bucket(min(len(lines), most_slots)), prompt, frames, chunk)

    @classmethod
    def invariant_of(cls, slots: int, chunk: int) -> Room:
        """The room of all lines, whichever these are."""
        return cls(slots, LONGEST_PROMPT, LONGEST_LINE, chunk, invariant=True)

    def check(self, lines: Iterable[Line], frame_rate: float) -> None:
        """Raises TextError unless each line fits."""
        for line in lines:
            if len(line.ids) > self.prompt:
                raise TextError(
                    f"voice prompt and text take {len(line.ids)} tokens, there is room for "
                    f"{self.prompt}; use a shorter reference"
                )
            if line.most_frames > self.frames:
                raise TextError(
                    f"a part of the text may take {line.most_frames / frame_rate:.0f} s, there is "
                    f"room for {self.frames / frame_rate:.0f} s; add sentence ends or set "
                    "max_seconds"
                )

    @property
    def cache(self) -> int:
        """Tokens of a slot's key/value cache."""
        return self.prompt + self.frames

    @property
    def spans(self) -> list[int]:
        """Parts of the cache that frames may look at, up to the whole."""
        if self.invariant:
            return [self.cache]
        spans = [LEAST_SPAN]
        while spans[-1] < self.cache:
            spans.append(2 * spans[-1])
        return [*spans[:-1], self.cache]

    def span(self, tokens: int) -> int:
        """How much of the cache to look at for sequences of up to so many tokens."""
        return next((span for span in self.spans if span >= tokens), self.cache)


def engine_room(model: Model, settings: EngineSettings, chunk: int) -> Room:
    """The room of an engine's slots, in chunks of at most so many frames.

    Raises:
        RequestError: the model cannot have slots of these sizes.
    """
    config, rows = model.config, model.batch_invariant
    prompt, frames = settings.longest_prompt, round(settings.longest_part * config.codec.frame_rate)
    if rows is not None:
        if (settings.slots, prompt, frames) != (rows, LONGEST_PROMPT, LONGEST_LINE):
            raise RequestError(
                f"the model computes {rows} rows of one size whatever is asked for: start the "
                f"engine with {rows} slots, not {settings.slots}, and with longest_prompt and "
                "longest_part as they are by default"
            )
        return Room.invariant_of(rows, chunk)
    prompt = min(prompt, config.max_position_embeddings - frames)
    if prompt < LEAST_PROMPT:
        raise RequestError(
            f"longest_prompt {settings.longest_prompt} and longest_part {settings.longest_part} s "
            f"leave no room in the model's {config.max_position_embeddings} tokens"
        )
    return Room(settings.slots, prompt, frames, chunk)


def chunk_size(sizes: Sequence[int], load: float, youngest: int) -> int:
    """Frames to make next: more the more slots are taken, but nobody waits for audio.

    While the next chunk is made, a listener plays what there is: a chunk is at most as long as what
    the youngest request has, which begins with the shortest.

    Args:
        sizes: to choose from, rising.
        load: share of the slots that are taken.
        youngest: fewest frames that a running request has been handed.
    """
    most = sizes[min(len(sizes) - 1, int(load * len(sizes)))]
    return max([size for size in sizes if size <= min(most, youngest)], default=sizes[0])
