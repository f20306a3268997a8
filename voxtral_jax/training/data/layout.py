"""How a sequence of prompt and speech becomes arrays, and sequences a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from voxtral_jax.config import VoxtralConfig
from voxtral_jax.decoder.prompt import prompt_ids, voice_tokens
from voxtral_jax.errors import DataError
from voxtral_jax.text.tokenizer import Tokenizer
from voxtral_jax.training.data.batches import SpeechBatch

MARKS = 6
"""Tokens of a sequence beside text, voice and speech: five that part them, and the voice prompt's
`[END_AUDIO]`."""


@dataclass(frozen=True, eq=False)
class SpeechSequence:
    """One prompt and the speech to predict.

    Attributes:
        ids: `[L]`, the prompt's tokens and then `[AUDIO]` for each of the F frames.
        voice: `[N, K]` audio tokens of the voice prompt, `[END_AUDIO]` last.
        targets: `[F + 1, K]` audio tokens to predict, `[END_AUDIO]` last.
        weights: `[F]` of the frames in the losses.
        heard: `[F + 1, 2]` first and last of the tokens of the text that are heard in each target,
            -1 where that is not known.
    """

    ids: Int[np.ndarray, " L"]
    voice: Int[np.ndarray, "N K"]
    targets: Int[np.ndarray, "F+1 K"]
    weights: Float[np.ndarray, " F"]
    heard: Int[np.ndarray, "F+1 2"]


def lay_out(
    config: VoxtralConfig,
    tokenizer: Tokenizer,
    text: str,
    voice: Int[np.ndarray, "V K"],
    codes: Int[np.ndarray, "F K"],
    weights: Float[np.ndarray, " F"] | None = None,
    language: str | None = None,
    phoneme_ends: Sequence[float] = (),
) -> SpeechSequence:
    """A sequence as inference would have made it.

    Args:
        config: of the model.
        tokenizer: of the model.
        text: what is said, cleaned.
        voice: codes of the voice prompt.
        codes: what is spoken.
        weights: of its frames in the losses; 1 if None.
        language: of the text; None detects it where the tokenizer needs it.
        phoneme_ends: seconds at which each phoneme ends, where the last tokens of the text are
            phonemes and that is known.
    """
    prompt = prompt_ids(config, tokenizer, text, len(voice) + 1, language)
    ids = prompt + [config.audio.audio_token_id] * len(codes)
    heard = np.full((len(codes) + 1, 2), -1, np.int32)
    # The language, the phonemes, and the marks that part a text from voice and speech.
    text_tokens = len(prompt) - len(voice) - MARKS
    if config.tokenizer == "phonemes" and len(phoneme_ends) == text_tokens - 1:
        first = len(prompt) - 2 - len(phoneme_ends)
        heard = first + heard_phonemes(phoneme_ends, len(codes), config.codec.frame_rate)
    return SpeechSequence(
        ids=np.array(ids, np.int32),
        voice=voice_tokens(voice),
        targets=voice_tokens(codes),
        weights=np.ones(len(codes), np.float32) if weights is None else weights,
        heard=heard,
    )


def heard_phonemes(
    ends: Sequence[float], frames: int, frame_rate: float
) -> Int[np.ndarray, "F+1 2"]:
    """First and last phoneme of each frame; at the end of the speech, what follows the last.

    Args:
        ends: seconds at which each phoneme ends.
        frames: F.
        frame_rate: frames per second.
    """
    edges = np.arange(frames + 1) / frame_rate
    first = np.searchsorted(ends, edges, side="right")
    last = np.maximum(first[:-1], np.searchsorted(ends, edges[1:], side="left"))
    heard = np.stack([first, np.append(last, len(ends))], axis=1)
    heard[-1] = len(ends)
    return np.minimum(heard, [[len(ends) - 1]] * frames + [[len(ends)]]).astype(np.int32)


def speech_weights(
    speech: Bool[np.ndarray, " F"], silence_frames: float
) -> Float[np.ndarray, " F"]:
    """1 for frames, 0 within long silence.

    Args:
        speech: whether there is voice in a frame.
        silence_frames: a run without voice that is longer is long silence; half of so many frames
            at each of its ends still count.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[True], speech, [True]]).astype(np.int8)))
    weights = np.ones(len(speech), np.float32)
    kept = round(silence_frames / 2)
    for start, stop in edges.reshape(-1, 2):
        if stop - start > silence_frames:
            weights[start + kept : stop - kept] = 0
    return weights


def fill_row(
    sequences: Sequence[SpeechSequence], config: VoxtralConfig, row_tokens: int, row_targets: int
) -> SpeechBatch:
    """One row of a batch, without the axis B; rows without sequences are padding.

    Raises:
        DataError: the sequences do not fit.
    """
    codebooks = config.audio.n_codebooks
    tokens = sum(len(one.ids) for one in sequences)
    places = sum(len(one.targets) for one in sequences)
    if tokens > row_tokens or places > row_targets:
        raise DataError(
            f"{tokens} tokens and {places} targets do not fit a row of {row_tokens} tokens and "
            f"{row_targets} targets; make row_tokens and row_targets larger"
        )
    row: dict[str, Any] = {
        "ids": np.zeros(row_tokens, np.int32),
        "audio": np.zeros(row_tokens, bool),
        "tokens": np.zeros((row_tokens, codebooks), np.int16),
        "segments": np.zeros(row_tokens, np.int32),
        "positions": np.zeros(row_tokens, np.int32),
        "places": np.zeros(row_targets, np.int32),
        "targets": np.zeros((row_targets, codebooks), np.int16),
        "heard": np.full((row_targets, 2), -1, np.int32),
        "semantic_weights": np.zeros(row_targets, np.float32),
        "flow_weights": np.zeros(row_targets, np.float32),
    }
    token = place = 0
    for segment, one in enumerate(sequences, 1):
        length, count = len(one.ids), len(one.targets)
        here, there = slice(token, token + length), slice(place, place + count)
        audio = one.ids == config.audio.audio_token_id
        row["ids"][here] = one.ids
        row["audio"][here] = audio
        row["tokens"][here][audio] = np.concatenate([one.voice, one.targets[:-1]])
        row["segments"][here] = segment
        row["positions"][here] = np.arange(length)
        # The last token of the prompt predicts the first frame.
        row["places"][there] = np.arange(token + length - count, token + length)
        row["targets"][there] = one.targets
        row["heard"][there] = np.where(one.heard < 0, -1, one.heard + token)
        row["semantic_weights"][there] = np.append(one.weights, 1)
        row["flow_weights"][there] = np.append(one.weights, 0)
        token, place = token + length, place + count
    return SpeechBatch(**row)


def stack_rows(rows: Sequence[SpeechBatch]) -> SpeechBatch:
    """Rows as one batch."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *rows)


def one_per_row(
    sequences: Sequence[SpeechSequence], config: VoxtralConfig, row_tokens: int, row_targets: int
) -> SpeechBatch:
    """A batch with one sequence a row.

    Raises:
        DataError: a sequence does not fit.
    """
    return stack_rows([fill_row([one], config, row_tokens, row_targets) for one in sequences])
