"""What an engine is started with, and what it says of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from voxtral_jax.errors import RequestError
from voxtral_jax.serving.room import LONGEST_PROMPT


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Sizes and limits; they fix every compiled shape and the memory.

    Attributes:
        slots: requests spoken side by side.
        chunk_frames: frames made between two looks at the queue, from a few streams to all slots;
            the first audio of a request is there after the fewest.
        most_waiting: requests in the queue; more are refused.
        longest_text: characters of a request.
        longest_prompt: tokens of a voice prompt and one part of a text (64, 96, 128, 192, ...).
        longest_part: seconds after which a part of a text is cut, if not before.
        steps: of the flow that requests may ask for; empty is the model's own number alone.
        admit_tokens: prompt tokens prefilled between two chunks, at least one prompt: running
            streams wait for no more.
    """

    slots: int = 8
    chunk_frames: tuple[int, ...] = (2, 8)
    most_waiting: int = 64
    longest_text: int = 10_000
    longest_prompt: int = LONGEST_PROMPT
    longest_part: float = 60.0
    steps: tuple[int, ...] = ()
    admit_tokens: int = 1024

    def __post_init__(self) -> None:
        numbers = (self.slots, self.most_waiting, self.longest_text, *self.chunk_frames)
        if not self.chunk_frames or min(numbers) < 1 or max(self.chunk_frames) > 1024:
            raise RequestError(
                "slots, chunk_frames, most_waiting and longest_text must be 1 or more (chunks at "
                f"most 1024), got {self!r}"
            )
        if min(self.admit_tokens, self.longest_prompt) < 1:
            raise RequestError("admit_tokens and longest_prompt must be 1 or more")
        if not 0 < self.longest_part < math.inf:
            raise RequestError(f"longest_part must be more than 0 s, got {self.longest_part!r}")


@dataclass(frozen=True)
class Status:
    """What an engine is doing.

    Attributes:
        slots, busy: slots, and those in use.
        waiting: requests in the queue.
        frames: made since the start.
        failures: of the device since the start.
        alive: whether it takes requests.
        broken: whether the device failed for good.
    """

    slots: int
    busy: int
    waiting: int
    frames: int
    failures: int
    alive: bool
    broken: bool
