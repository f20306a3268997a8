"""Writes the tables of figures into README.md, from the JSON files in `results/`.

    python benchmarks/readme.py

Each is a key of `TABLES`; `voxtral_jax/tables.py` says where it stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import run_gpu

from voxtral_jax.tables import fill, markdown_table

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
GPU_FILES = "gpu-*.json"
"""What `run_gpu.py` wrote, one file for each kind of GPU."""


def read(name: str) -> dict[str, Any]:
    """The results of a benchmark."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def decoding() -> list[str]:
    """`decode.py`, the small configuration."""
    head = ("streams", "frame", "codec, a frame", "real-time factor", "audio seconds per second")
    rows = []
    for name in ("decode-nano-cpu", "decode-nano-cpu-batch8"):
        one = read(name)
        rows.append(
            (
                f"{one['batch']}",
                f"{one['ms_per_frame']:.1f} ms",
                f"{one['codec_ms_per_frame']:.1f} ms",
                f"{one['real_time_factor']:.2f}",
                f"{one['audio_seconds_per_second']:.0f}",
                f"{one['share_of_bandwidth']:.0%}",
                f"{one['share_of_matmul_rate']:.0%}",
            )
        )
    return markdown_table((*head, "of copy bandwidth", "of matmul rate"), rows)


def training() -> list[str]:
    """`train.py`, both stages."""
    rows = []
    for what, name in (
        ("codec, batch of 8 x 1.92 s, without discriminators", "train-codec-plain-nano-cpu"),
        ("speech, 12 rows of 320 tokens", "train-speech-nano-cpu"),
    ):
        one = read(name)
        rows.append(
            (
                what,
                f"{one['seconds_per_step']:.2g} s",
                f"{one['audio_seconds_per_second']:.0f}",
                f"{one['mfu']:.0%}",
            )
        )
    return markdown_table(("stage", "step", "audio seconds per second", "of matmul rate"), rows)


def serving() -> list[str]:
    """`serve.py`, the model in the box."""
    rows = [
        (
            clients,
            f"{one['first_audio_ms_p50'] / 1e3:.2g}, {one['first_audio_ms_p95'] / 1e3:.2g} s",
            f"{one['real_time_factor']:.2f}",
            f"{one['audio_seconds_per_second']:.3g}",
        )
        for clients, one in read("serve-nano-cpu")["closed_loop"].items()
    ]
    head = ("clients", "first audio, p50 and p95", "real-time factor of each")
    return markdown_table((*head, "audio seconds per second"), rows)


def gpu() -> list[str]:
    """`run_gpu.py`, each kind of GPU that there are results of."""
    lines = []
    for file in sorted(RESULTS.glob(GPU_FILES)):
        results = json.loads(file.read_text(encoding="utf-8"))
        lines += [f"{results['device']}, {results['date']}:", "", *run_gpu.lines(results), ""]
    return lines or ["No GPU figure has been measured yet."]


TABLES: dict[str, Callable[[], list[str]]] = {
    "gpu": gpu,
    "decoding": decoding,
    "training": training,
    "serving": serving,
}


if __name__ == "__main__":
    fill(README, TABLES)
