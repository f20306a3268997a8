"""From the command to the saved audio, with an empty compilation cache and with a full one.

    python benchmarks/cold_start.py                                          # the model in the box
    python benchmarks/cold_start.py --params configs/voxtral-4b/params.json  # random weights

Each start is a fresh process that loads the model, speaks five seconds and saves them, as a user's
command does. With --params a checkpoint of these sizes is written first.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""Of audio."""
TEXT = "The harbour was quiet when the first boats came home, and the market was still closed."
PROMPT_SECONDS = 10.0
"""Of the random voice prompt."""
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


def write_checkpoint(params: Path, directory: Path) -> Path:
    """A model of these sizes with random weights, in the released layout; returns its voice."""
    import jax.numpy as jnp
    import numpy as np
    from decode import random_params

    from voxtral_jax import Voice, VoxtralConfig
    from voxtral_jax.checkpoint.weights import WEIGHTS_FILE, save_params

    # No file of tokens is needed for bytes.
    config = dataclasses.replace(VoxtralConfig.load(params), tokenizer="bytes")
    directory.mkdir()
    config.save(directory / "params.json")
    save_params(directory / WEIGHTS_FILE, config, random_params(config, jnp.dtype("bfloat16")))
    frames = round(PROMPT_SECONDS * config.codec.frame_rate) + 1
    embedding = np.random.default_rng(0).standard_normal((frames, config.dim))
    voice = directory / "random.safetensors"
    Voice("random", embedding.astype(np.float32), None).save(voice)
    return voice


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
            write = (
                "import sys, cold_start as c; print(c.write_checkpoint(*map(c.Path, sys.argv[1:])))"
            )
            done = subprocess.run(
                [sys.executable, "-c", write, str(options.params), directory],
                env={**os.environ, "PYTHONPATH": _path()},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            voice = done.stdout.split()[-1]
        starts = [
            start(directory, voice, options.dtype, here / "cache", here / "speech.wav")
            for _ in range(1 + options.repeats)
        ]
        import jax

        result: dict[str, Any] = {
            "model": str(options.params or options.model or "the model in the box"),
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "date": datetime.date.today().isoformat(),
            "empty_cache": starts[0],
            "full_cache": min(starts[1:], key=lambda one: one["total"]),
        }
    for name, value in result.items():
        print(f"{name:12s} {value}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def _path() -> str:
    """Where this file's modules are found, before what was searched already."""
    return os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


if __name__ == "__main__":
    main()
