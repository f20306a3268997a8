"""Whether a seed says the same alone and in a batch, and what it costs to make sure.

    python benchmarks/reproducibility.py
    python benchmarks/reproducibility.py --params configs/voxtral-4b/params.json  # random weights

Speaks texts one by one and as one batch, with the model as it is and with a batch-invariant one;
prints the share of equal codes (a speech that leaves the path of the other counts from there on)
and the time of both; writes the same as JSON with --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from report import circumstances, tell
from serve import TEXT, random_model

import voxtral_jax as vx
from voxtral_jax import Model

SECONDS = 4.0
"""Of each speech."""


def measure(model: Model, texts: list[str], alone: int, options: dict[str, Any]) -> dict[str, Any]:
    """Equal codes of the first `alone` texts alone and among all, and seconds of both."""
    seconds: dict[str, float] = {}
    for _ in range(2):  # the first time compiles
        begun = time.perf_counter()
        together = vx.synthesize(model, texts, seed=[*range(len(texts))], **options)
        seconds["together"] = time.perf_counter() - begun
        begun = time.perf_counter()
        single = [
            vx.synthesize(model, text, seed=seed, **options)
            for seed, text in enumerate(texts[:alone])
        ]
        seconds["alone"] = (time.perf_counter() - begun) / alone
    equal, total = 0, 0
    for ours, theirs in zip(single, together, strict=False):
        frames = min(len(ours.codes), len(theirs.codes))
        equal += int(np.sum(ours.codes[:frames] == theirs.codes[:frames]))
        total += max(len(ours.codes), len(theirs.codes)) * ours.codes.shape[1]
    return {
        "equal_codes": equal / total,
        "equal_speeches": sum(
            np.array_equal(ours.codes, theirs.codes)
            for ours, theirs in zip(single, together, strict=False)
        ),
        "speeches": alone,
        "seconds_alone": seconds["alone"],
        "seconds_together": seconds["together"],
    }


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="directory (default: the model in the box)")
    parser.add_argument("--params", type=Path, help="params.json: random weights of these sizes")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--alone", type=int, default=8, help="texts that are also spoken alone")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    options = parser.parse_args()

    vx.enable_compilation_cache()
    how: dict[str, Any] = {"language": "en", "max_seconds": SECONDS}
    if options.params:
        model, how["voice"] = random_model(options.params)
    else:
        model = vx.load_model(options.model)
    steady = dataclasses.replace(model, batch_invariant=options.batch)
    words = TEXT.split()
    texts = [" ".join(words[i % 60 : i % 60 + 12]) + "." for i in range(options.batch)]
    result: dict[str, Any] = {
        "model": str(options.params or options.model or "the model in the box"),
        **circumstances(),
        "batch": options.batch,
        "as_it_is": measure(model, texts, options.alone, how),
        "batch_invariant": measure(steady, texts, options.alone, how),
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
