"""What makes the semantic code carry language: teachers behind one interface.

`Whisper`: hidden states and alignments computed beforehand (`scripts/whisper_targets.py`), as
published. `Phonemes`: where it is known when each is spoken (synthetic speech), what is heard.
`Characters`: where only transcripts exist, a CTC head that predicts their UTF-8 bytes. All look at
the post-VQ semantic latents through one linear map.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from voxtral_jax.errors import DataError
from voxtral_jax.nn.linear import Linear
from voxtral_jax.nn.module import apply
from voxtral_jax.text.phonemes import SYMBOLS as SYMBOLS_OF_PHONEMES
from voxtral_jax.training.data.targets import TargetSource
from voxtral_jax.training.data.utterances import Utterance
from voxtral_jax.training.losses import token_cosine, weighted_mean

MOST_TOKENS = 256
"""Text tokens of a crop that are looked at; more than anyone says in 20 s."""
WHISPER_WIDTH = 1280
"""Of the hidden states of Whisper large, where the targets are not at hand."""
INSIDE = 0.8
"""Share of a token's alignment that must lie within the crop for the token to count."""
BLANK = 0
"""CTC's blank; byte b is symbol b + 1."""
SYMBOLS = 257
STEPS_PER_FRAME = 4
"""CTC steps in an 80 ms frame: speech has more letters than frames."""


class Distillation(Protocol):
    """A teacher."""

    def targets(
        self, utterance: Utterance, first_sample: int, samples: int, whole: bool
    ) -> dict[str, np.ndarray]:
        """Arrays of fixed shapes for one crop, made on the host."""

    def init(self, key: jax.Array, width: int) -> Any:
        """Weights of the head for semantic latents of `width` channels."""

    def loss(
        self, params: Any, semantic: Float[Array, "B T C"], mask: Float[Array, "B T"], targets: Any
    ) -> tuple[Array, dict[str, Array]]:
        """The loss on post-VQ semantic latents, and what to log."""


@dataclass(frozen=True)
class Whisper:
    """Cosine distance of latents averaged per token to the last decoder layer's hidden states.

    Attributes:
        source: targets per utterance, those without do not count; None for accounts of cost.
        width: of the hidden states.
        frame_samples: samples in a codec frame.
        crop_frames: T, frames in a crop.
    """

    source: TargetSource | None
    width: int
    frame_samples: int
    crop_frames: int

    def targets(
        self, utterance: Utterance, first_sample: int, samples: int, whole: bool
    ) -> dict[str, np.ndarray]:
        """Hidden states `[N, D]`, the alignment's part within the crop `[N, T]`, a mask `[N]`."""
        hidden = np.zeros((MOST_TOKENS, self.width), np.float32)
        alignment = np.zeros((MOST_TOKENS, self.crop_frames), np.float32)
        mask = np.zeros(MOST_TOKENS, np.float32)
        found = self.source.get(utterance.key) if samples and self.source is not None else None
        if found is not None:
            states, weights = found
            first = first_sample // self.frame_samples
            frames = -(-samples // self.frame_samples)
            part = weights[:, first : first + frames]
            inside = part.sum(axis=1) >= INSIDE * np.maximum(weights.sum(axis=1), 1e-6)
            chosen = np.flatnonzero(inside)[:MOST_TOKENS]
            hidden[: len(chosen)] = states[chosen]
            alignment[: len(chosen), : part.shape[1]] = part[chosen]
            mask[: len(chosen)] = 1
        return {"hidden": hidden, "alignment": alignment, "mask": mask}

    def init(self, key: jax.Array, width: int) -> Any:
        """The projection to Whisper's width."""
        return Linear(self.width).init(key, jnp.zeros((1, width)))["params"]

    def loss(
        self, params: Any, semantic: Array, mask: Array, targets: Any
    ) -> tuple[Array, dict[str, Array]]:
        """1 - mean cosine."""
        projected = apply(Linear(self.width), params, semantic)
        loss = token_cosine(projected, targets["hidden"], targets["alignment"], targets["mask"])
        return loss, {"distillation_tokens": jnp.sum(targets["mask"])}


def symbols(utterance: Utterance) -> bytes:
    """What is said, as CTC spells it: phonemes if the manifest has them, else bare lower case."""
    if utterance.phonemes:
        return utterance.phonemes.encode("utf-8")
    text = utterance.texts[0] if utterance.texts else ""
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in text.lower())
    return " ".join("".join(kept).split()).encode("utf-8")


@dataclass(frozen=True)
class Characters:
    """CTC over UTF-8 bytes of the transcript, for crops that are whole utterances.

    Attributes:
        frame_samples: samples in a codec frame.
        crop_frames: T, frames in a crop.
    """

    frame_samples: int
    crop_frames: int

    @property
    def _most(self) -> int:
        return self.crop_frames * STEPS_PER_FRAME

    def targets(
        self, utterance: Utterance, first_sample: int, samples: int, whole: bool
    ) -> dict[str, np.ndarray]:
        """Symbols `[N]` and how many count (0 where the transcript does not fit the crop)."""
        labels = np.zeros(self._most, np.int32)
        spelled = symbols(utterance) if whole and samples else b""
        repeats = sum(a == b for a, b in pairwise(spelled))
        steps = -(-samples // self.frame_samples) * STEPS_PER_FRAME
        if len(spelled) + repeats > steps:
            spelled = b""
        labels[: len(spelled)] = np.frombuffer(spelled, np.uint8).astype(np.int32) + 1
        return {"labels": labels, "count": np.asarray(len(spelled), np.int32)}

    def init(self, key: jax.Array, width: int) -> Any:
        """The linear map to symbols, several steps a frame."""
        return Linear(SYMBOLS * STEPS_PER_FRAME).init(key, jnp.zeros((1, width)))["params"]

    def loss(
        self, params: Any, semantic: Array, mask: Array, targets: Any
    ) -> tuple[Array, dict[str, Array]]:
        """Negative log-likelihood of the transcript, per CTC step."""
        logits = apply(Linear(SYMBOLS * STEPS_PER_FRAME), params, semantic)
        rows = logits.shape[0]
        logits = logits.reshape(rows, -1, SYMBOLS)
        silent = 1 - jnp.repeat(mask, STEPS_PER_FRAME, axis=1)
        spare = (jnp.arange(targets["labels"].shape[1]) >= targets["count"][:, None]).astype(
            jnp.float32
        )
        each = optax.ctc_loss(logits, silent, targets["labels"], spare, blank_id=BLANK)
        known = (targets["count"] > 0).astype(jnp.float32)
        per_step = each / jnp.maximum(jnp.sum(1 - silent, axis=1), 1)
        return weighted_mean(per_step, known), {"distillation_rows": jnp.sum(known)}


@dataclass(frozen=True)
class Phonemes:
    """Which phoneme is spoken when, several times a frame, where the manifest knows it.

    Attributes:
        frame_rate: frames per second.
        frame_samples: samples in a codec frame.
        crop_frames: T, frames in a crop.
    """

    frame_rate: float
    frame_samples: int
    crop_frames: int

    def targets(
        self, utterance: Utterance, first_sample: int, samples: int, whole: bool
    ) -> dict[str, np.ndarray]:
        """Symbols `[4 T]`: at the middle of each step, 0 where it is not known."""
        labels = np.zeros(self.crop_frames * STEPS_PER_FRAME, np.int32)
        if utterance.phoneme_ends and samples:
            steps = -(-samples // self.frame_samples) * STEPS_PER_FRAME
            places = first_sample / self.frame_samples + (np.arange(steps) + 0.5) / STEPS_PER_FRAME
            times = places / self.frame_rate
            spoken = np.searchsorted(utterance.phoneme_ends, times, side="right")
            known = [1 + SYMBOLS_OF_PHONEMES.find(one) for one in utterance.phonemes or ""]
            labels[:steps] = np.array([*known, 0])[spoken]
        return {"labels": labels}

    def init(self, key: jax.Array, width: int) -> Any:
        """The linear map to symbols, several steps a frame."""
        return self._names.init(key, jnp.zeros((1, width)))["params"]

    @property
    def _names(self) -> Linear:
        return Linear(len(SYMBOLS_OF_PHONEMES) * STEPS_PER_FRAME)

    def loss(
        self, params: Any, semantic: Array, mask: Array, targets: Any
    ) -> tuple[Array, dict[str, Array]]:
        """Cross-entropy of the phonemes."""
        logits = apply(self._names, params, semantic)
        logits = logits.reshape(logits.shape[0], -1, len(SYMBOLS_OF_PHONEMES))
        labels = targets["labels"]
        known = (labels > 0).astype(jnp.float32)
        spoken = jnp.maximum(labels - 1, 0)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, spoken)
        right = (jnp.argmax(logits, axis=-1) == spoken).astype(jnp.float32)
        return weighted_mean(each, known), {"phoneme_accuracy": weighted_mean(right, known)}


class Nothing:
    """No teacher: for codecs that only reconstruct."""

    def targets(
        self, utterance: Utterance, first_sample: int, samples: int, whole: bool
    ) -> dict[str, np.ndarray]:
        """None."""
        return {}

    def init(self, key: jax.Array, width: int) -> Any:
        """No weights."""
        return {}

    def loss(
        self, params: Any, semantic: Array, mask: Array, targets: Any
    ) -> tuple[Array, dict[str, Array]]:
        """0."""
        return jnp.zeros(()), {}


def make_distillation(
    kind: str,
    targets: str | None,
    frame_samples: int,
    frame_rate: float,
    crop_frames: int,
    *,
    read: bool,
) -> Distillation:
    """The teacher of a configuration: "whisper", "phonemes", "characters" or "none".

    Args:
        targets: directory of Whisper targets.
        read: False is for accounts of cost: the targets need not be there.

    Raises:
        DataError: there are no Whisper targets where the configuration says.
    """
    if kind == "none":
        return Nothing()
    if kind == "characters":
        return Characters(frame_samples, crop_frames)
    if kind == "phonemes":
        return Phonemes(frame_rate, frame_samples, crop_frames)
    if not read:
        return Whisper(None, WHISPER_WIDTH, frame_samples, crop_frames)
    if targets is None:
        raise DataError(
            "distillation.kind = 'whisper' needs distillation.targets, a directory made by "
            "scripts/whisper_targets.py; or use kind = 'characters'"
        )
    source = TargetSource(targets)
    return Whisper(source, source.width, frame_samples, crop_frames)
