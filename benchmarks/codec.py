"""Speed of codec decoding with random weights, against what the device's memory and matmuls allow.

    python benchmarks/codec.py --params configs/voxtral-4b/params.json --batch 32

Prints milliseconds for a chunk of frames, times real time, and time over floor; writes the same as
JSON with --out. The floor counts reading the weights once and their products with every step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax.numpy as jnp
from hardware import measure
from parts import CODEC_FRAMES, CodecBench
from random_model import random_params
from report import circumstances, tell

from voxtral_jax import VoxtralConfig, enable_compilation_cache
from voxtral_jax.codec import fold


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default=Path("configs/nano/params.json"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, help="also write JSON here")
    options = parser.parse_args()

    enable_compilation_cache()
    config = VoxtralConfig.load(options.params)
    ceilings = measure(jnp.dtype("float32"))
    params = random_params(config)
    bench = CodecBench(fold(params["codec"], config.codec), config, options.batch)
    seconds, floor = bench.seconds(), bench.cost().floor(ceilings)
    result = circumstances() | {
        "params": str(options.params),
        "batch": options.batch,
        "ms_per_chunk": 1e3 * seconds,
        "times_real_time": options.batch * CODEC_FRAMES / config.codec.frame_rate / seconds,
        "time_over_floor": seconds / floor,
        "bandwidth": ceilings.bandwidth,
        "matmul_rate": ceilings.matmul,
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
