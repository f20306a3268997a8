"""Candidates to prefer among: the model speaks each prompt several times, a judge scores them.

They are kept in shards, so that a run that is stopped goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Int

from voxtral_jax.codec.run import decode_codes
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.model import Model
from voxtral_jax.progress import followed
from voxtral_jax.speech import Speech
from voxtral_jax.synthesis import MOST_LINES, synthesize
from voxtral_jax.text import split_text
from voxtral_jax.training.data.plan import spoken_text
from voxtral_jax.training.data.records import RecordWriter, read_entries, read_record
from voxtral_jax.training.judging import Judge, Ranking, Scores, Spoken
from voxtral_jax.training.speaking import Prompt, voice_of

KIND = "candidates"
SHARD_PROMPTS = 64
"""Prompts in a shard: what a kill may cost."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How candidates are spoken.

    Attributes:
        count: N, candidates for each prompt.
        temperature: of the semantic code; at 0 only the flow's noise would differ.
        top_p: share of the probability that is drawn from.
        guidance, noise_scale: of the flow; None is the model's own.
        seed: of the first candidate; the others have the next ones.
    """

    count: int
    temperature: float
    top_p: float
    guidance: float | None
    noise_scale: float | None
    seed: int


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to speak a prompt.

    Attributes:
        codes: `[T, K]`, no offset.
        ended: whether the model ended it, rather than its limit.
    """

    codes: Int[np.ndarray, "T K"]
    ended: bool


@dataclass(frozen=True, eq=False)
class Pair:
    """A prompt with its preferred and its rejected candidate."""

    text: str
    language: str
    voice: Int[np.ndarray, "T K"]
    winner: Candidate
    loser: Candidate


def speak_candidates(
    directory: str | os.PathLike[str],
    model: Model,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    judge: Judge,
) -> None:
    """Speaks and scores the prompts that the directory does not have yet.

    Prompts of more than one part are left out: preference is about single sequences.
    """
    with RecordWriter(directory, KIND, SHARD_PROMPTS) as writer:
        missing = [
            prompt
            for prompt in prompts
            if prompt.name not in writer.done and _single(prompt, model.config)
        ]
        at_once = max(1, MOST_LINES // sampling.count)
        batches = list(_batches(missing, at_once))
        for batch in followed(batches, "batches of prompts spoken", len(batches)):
            for prompt, spoken in zip(batch, _speak(model, batch, sampling), strict=True):
                scores = _judge(model, judge, prompt, spoken)
                writer.write(_record(prompt, spoken), _entry(prompt, scores), 1)


def _single(prompt: Prompt, config: VoxtralConfig) -> bool:
    text = spoken_text(prompt.text)
    return text is not None and len(split_text(text, config.part_seconds)) == 1


def _batches(prompts: Sequence[Prompt], size: int) -> Iterator[list[Prompt]]:
    # Alike in length, few wait for others.
    remaining = iter(sorted(prompts, key=lambda prompt: len(prompt.text)))
    while batch := list(islice(remaining, size)):
        yield batch


def _speak(model: Model, batch: list[Prompt], sampling: Sampling) -> list[list[Speech]]:
    count = sampling.count
    voices = [voice_of(model, prompt) for prompt in batch]
    spoken = synthesize(
        model,
        [prompt.text for prompt in batch for _ in range(count)],
        voice=[voice for voice in voices for _ in range(count)],
        language=[prompt.language or None for prompt in batch for _ in range(count)],
        seed=[(sampling.seed + i) % 2**32 for _ in batch for i in range(count)],
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        guidance=sampling.guidance,
        noise_scale=sampling.noise_scale,
    )
    return [spoken[i : i + count] for i in range(0, len(spoken), count)]


def _judge(model: Model, judge: Judge, prompt: Prompt, spoken: Sequence[Speech]) -> list[Scores]:
    reference, rate = decode_codes(model, prompt.codes), model.sample_rate
    return [
        judge(Spoken(one.samples, reference, rate, prompt.text, prompt.language)) for one in spoken
    ]


def _record(prompt: Prompt, spoken: Sequence[Speech]) -> dict[str, object]:
    return {
        "voice": _packed(prompt.codes),
        "codes": [_packed(one.codes) for one in spoken],
        "ended": [one.finish_reason == "stop" for one in spoken],
    }


def _entry(prompt: Prompt, scores: Sequence[Scores]) -> dict[str, object]:
    return {
        "key": prompt.name,
        "text": prompt.text,
        "language": prompt.language,
        "books": prompt.codes.shape[1],
        "scores": [[one.word_errors, one.similarity, one.naturalness] for one in scores],
    }


def _packed(codes: np.ndarray) -> bytes:
    return codes.astype("<u2").tobytes()


def read_pairs(directory: str | os.PathLike[str], ranking: Ranking) -> tuple[list[Pair], int]:
    """Pairs of all prompts whose candidates differ enough, and how many prompts there are."""
    pairs, total = [], 0
    for shard, number, entry in read_entries(directory, KIND):
        total += 1
        chosen = ranking.pair([Scores(*scores) for scores in entry["scores"]])
        if chosen is None:
            continue
        record = read_record(shard, number)

        def unpacked(packed: bytes, books: int = entry["books"]) -> np.ndarray:
            return np.frombuffer(packed, "<u2").reshape(-1, books).astype(np.int32)

        winner, loser = (
            Candidate(unpacked(record["codes"][i]), record["ended"][i]) for i in chosen
        )
        voice = unpacked(record["voice"])
        pairs.append(Pair(entry["text"], entry["language"], voice, winner, loser))
    return pairs, total
