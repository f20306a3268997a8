"""Lines, as slots speak them: what each asks for, and what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from voxtral_jax.decoder.generate import Requests
from voxtral_jax.decoder.prompt import PromptBatch, batch_prompts
from voxtral_jax.speech import FinishReason


@dataclass(frozen=True, eq=False)
class Line:
    """One sequence to speak.

    Attributes:
        ids: the prompt's token ids.
        voice: `[N, D]`, the voice prompt.
        seed: of noise and draws.
        least_frames, most_frames: the speech may not end before, and is cut after.
        guidance, noise_scale, temperature, top_p: see `voxtral_jax.decoder.generate.Requests`.
    """

    ids: list[int]
    voice: Float[np.ndarray, "N D"]
    seed: int
    least_frames: int
    most_frames: int
    guidance: float
    noise_scale: float
    temperature: float
    top_p: float


@dataclass(frozen=True, eq=False)
class Chunk:
    """The next frames of one line.

    Attributes:
        samples: `[S]` float32.
        codes: `[frames, K]` int32 (no offset).
        finish_reason: None while the line goes on.
    """

    samples: Float[np.ndarray, " S"]
    codes: Int[np.ndarray, "frames K"]
    finish_reason: FinishReason | None


def batch(lines: Sequence[Line]) -> tuple[PromptBatch, Requests]:
    """Prompts of lines, padded to one bucketed length, and what they ask for."""

    def column(name: str, dtype: Any) -> Array:
        return jnp.asarray([getattr(line, name) for line in lines], dtype)

    requests = Requests(
        seeds=column("seed", np.uint32),
        guidance=column("guidance", np.float32),
        noise_scale=column("noise_scale", np.float32),
        temperature=column("temperature", np.float32),
        top_p=column("top_p", np.float32),
        least_frames=column("least_frames", np.int32),
        most_frames=column("most_frames", np.int32),
    )
    return batch_prompts([line.ids for line in lines], [line.voice for line in lines]), requests
