"""What weights of fewer bits change: codes and waveform against float32, on a real model.

    python benchmarks/eight_bit.py            # the model in the box, 32 sentences of its test split

Each frame is made from the same past (the codes that float32 made), so that one code that differs
does not make all that follow differ. Prints, for bfloat16 and for 8 bits, the share of equal
semantic and acoustic codes, how far apart the acoustic ones are, and the log mel distance of the
waveforms that the codes decode to; writes the same as JSON with --out.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from report import circumstances, tell

import voxtral_jax as vx
from voxtral_jax import Model, VoxtralConfig
from voxtral_jax.config import TOKEN_OFFSET
from voxtral_jax.decoder.generate import Frame, Requests, append_frame, make_frame, prefill
from voxtral_jax.decoder.prompt import PromptBatch
from voxtral_jax.flow import Sampler, time_table
from voxtral_jax.serving.lines import Line, batch
from voxtral_jax.training.spectrum import log_mel
from voxtral_jax.utterance import Options, prepare

WINDOW = 1024
"""Samples of a spectrum of the waveforms."""
SENTENCES = Path(__file__).parents[1] / "data" / "nano" / "test.jsonl"


@partial(jax.jit, static_argnames=("config", "sampler"))
def forced(
    params: Any,
    prompt: PromptBatch,
    requests: Requests,
    tokens: jax.Array,
    *,
    config: VoxtralConfig,
    sampler: Sampler,
) -> jax.Array:
    """Tokens `[T, K]` that would follow each past that consists of `tokens` `[T, K]`."""
    count = tokens.shape[0]
    length = prompt.ids.shape[1] + count
    state, _ = prefill(params, prompt, config=config, cache_length=length, most_frames=count)
    table = time_table(params["flow"], config.audio, sampler, state.hidden.dtype)

    def step(state: Any, past: jax.Array) -> tuple[Any, jax.Array]:
        frame = make_frame(params, config, sampler, table, state, requests)
        told = Frame(past[None], frame.flow)
        return append_frame(params, config, state, told, requests), frame.tokens[0]

    return jax.lax.scan(step, state, tokens)[1]


def speak_all(
    reference: Model, texts: list[tuple[str, str]]
) -> list[tuple[Line, Int[np.ndarray, "T K"]]]:
    """Lines and the codes that `reference` makes of them; texts of several parts are left out."""
    spoken = []
    for seed, (text, language) in enumerate(texts):
        utterance = prepare(reference, [text], None, None, seed, language, Options())[0]
        codes = vx.synthesize(reference, text, seed=seed, language=language).codes
        if len(utterance.lines) == 1 and len(codes):
            spoken.append((utterance.lines[0], codes))
    return spoken


def compare(
    model: Model, reference: Model, spoken: list[tuple[Line, Int[np.ndarray, "T K"]]]
) -> dict[str, float]:
    """The codes and waveforms of `model` against those of `reference`, which has spoken."""
    sampler = Options().sampler(reference)
    semantic, acoustic, apart, mel = [], [], [], []
    for line, wanted in spoken:
        prompt, requests = batch([line])
        past = jnp.asarray(wanted + TOKEN_OFFSET, jnp.int32)
        tokens = forced(model.speaker, prompt, requests, past, config=model.config, sampler=sampler)
        codes = np.maximum(np.asarray(tokens) - TOKEN_OFFSET, 0)
        semantic.append(codes[:, 0] == wanted[:, 0])
        acoustic.append(codes[:, 1:] == wanted[:, 1:])
        apart.append(np.abs(codes[:, 1:] - wanted[:, 1:]))
        ours, theirs = (
            log_mel(
                jnp.asarray(vx.decode_codes(reference, each))[None], WINDOW, reference.sample_rate
            )
            for each in (codes, wanted)
        )
        mel.append(float(jnp.mean(jnp.abs(ours - theirs))))
    return {
        "equal_semantic_codes": float(np.mean(np.concatenate(semantic))),
        "equal_acoustic_codes": float(np.mean(np.concatenate(acoustic))),
        "acoustic_levels_apart": float(np.mean(np.concatenate(apart))),
        "log_mel_distance": float(np.mean(mel)),
        "frames": int(sum(map(len, semantic))),
    }


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="directory (default: the model in the box)")
    parser.add_argument("--sentences", type=Path, default=SENTENCES, help="manifest of texts")
    parser.add_argument("--count", type=int, default=32, help="sentences, spread over the manifest")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    options = parser.parse_args()

    vx.enable_compilation_cache()
    rows = [json.loads(line) for line in options.sentences.read_text("utf-8").splitlines()]
    chosen = rows[:: max(1, len(rows) // options.count)][: options.count]
    texts = [(row["text"], row["language"]) for row in chosen]
    reference = vx.load_model(options.model, dtype="float32")
    result: dict[str, Any] = {
        "model": str(options.model or "the model in the box"),
        **circumstances(),
        "sentences": len(texts),
    }
    spoken = speak_all(reference, texts)
    for dtype in ("bfloat16", "int8"):
        result[dtype] = compare(vx.load_model(options.model, dtype=dtype), reference, spoken)
    tell(result, options.out)


if __name__ == "__main__":
    main()
