"""From the command to the saved audio, with an empty compilation cache and with a full one.

    python benchmarks/cold_start.py                                          # the model in the box
    python benchmarks/cold_start.py --params configs/voxtral-4b/params.json  # random weights

Each start is a fresh process that loads the model, speaks five seconds and saves them, as a user's
command does, though as raw samples, for which no library is needed. With --params a checkpoint of
these sizes is written first.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""Of audio."""
TEXT = "The harbour was quiet when the first boats came home, and the market was still closed."
SPEAK = """
import sys, time
import jax
import voxtral_jax as vx
vx.enable_compilation_cache()
directory, voice, dtype, out = sys.argv[1:]
model = vx.load_model(directory or None, dtype=dtype or None)
jax.block_until_ready(model.params)
loaded = time.time()
speech = vx.synthesize(
    model, {text!r}, voice=voice or None, language="en", max_seconds={seconds}
)
speech.save(out)
print(loaded, loaded + speech.timings.first_audio, time.time(), speech.seconds)
"""
"""What a process does; the last line says when each part ended."""


def write_checkpoint(params: Path, directory: Path) -> str:
    """A model of these sizes with random weights, in the released layout; the name of its voice."""
    from random_model import random_params, random_voice

    from voxtral_jax import VoxtralConfig
    from voxtral_jax.checkpoint.weights import WEIGHTS_FILE, save_params

    # No file of tokens is needed for bytes.
    config = dataclasses.replace(VoxtralConfig.load(params), tokenizer="bytes")
    voices = directory / "voice_embedding"
    voices.mkdir(parents=True)
    config.save(directory / "params.json")
    save_params(directory / WEIGHTS_FILE, config, random_params(config))
    voice = random_voice(config)
    voice.save(voices / f"{voice.name}.safetensors")
    return voice.name


def start(directory: str, voice: str, dtype: str, cache: Path, out: Path) -> dict[str, float]:
    """One process, in seconds."""
    program = SPEAK.format(text=TEXT, seconds=SECONDS)
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-c", program, directory, voice, dtype, str(out)],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    loaded, first, saved, audio = done.stdout.splitlines()[-1].split()
    return {
        "to_loaded": float(loaded) - begun,
        "to_first_audio": float(first) - begun,
        "to_saved": float(saved) - begun,
        "total": time.time() - begun,
        "audio": float(audio),
    }


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="directory (default: the model in the box)")
    parser.add_argument("--params", type=Path, help="params.json: random weights of these sizes")
    parser.add_argument("--dtype", default="", help="(default: by device)")
    parser.add_argument("--repeats", type=int, default=2, help="starts with a full cache")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        directory, voice = options.model, ""
        if options.params:
            directory = str(here / "model")
            # In a process of its own, which gives the device's memory back.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                voice = pool.submit(write_checkpoint, options.params, Path(directory)).result()
        starts = [
            start(directory, voice, options.dtype, here / "cache", here / "speech.pcm")
            for _ in range(1 + options.repeats)
        ]
        from report import circumstances, tell

        result: dict[str, Any] = {
            "model": str(options.params or options.model or "the model in the box"),
            **circumstances(),
            "empty_cache": starts[0],
            "full_cache": min(starts[1:], key=lambda one: one["total"]),
        }
    tell(result, options.out)


if __name__ == "__main__":
    main()
