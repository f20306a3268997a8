"""All GPU figures in one call: Voxtral-4B with random weights in its real sizes, on one GPU.

    python benchmarks/run_gpu.py --out benchmarks/results/gpu-h100.json

Measures the device's two ceilings, each part of a frame against its floor, the streams of the table
below through the engine, the codec, a cold start, and equality of the compiled kernels with their
plain twins (`pytest -m gpu`). Needs the repository, jax, flax, jaxtyping, ftfy, safetensors and
rich; no tokenizer, no weights. Each step is a process of its own: one that fails is reported, and
the rest goes on. `--only` repeats some steps and keeps the others' figures of the same file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIZES = HERE.parent / "configs" / "voxtral-4b" / "params.json"
STEP_SECONDS = 240
"""After which a step is given up: ten minutes shall hold all of them."""
ENGINE = ("--seconds", "15", "--rates", "--characters", "500", "--prompt", "256", "--part", "20")
"""Of the streams: 500 characters with a 10 s reference, as in the published figures."""
ONE = ("--slots", "1", "--chunks", "1", "4", "--clients", "1")
"""Of a single stream: first audio after one frame (80 ms)."""
MANY = ("--chunks", "1", "8")
"""Of many: the same, then chunks that cost less."""


@dataclass(frozen=True)
class Step:
    """A process that writes JSON.

    Attributes:
        script: under `benchmarks/`.
        arguments: of it, those that say where the sizes are and where the JSON goes left out.
    """

    script: str
    arguments: tuple[str, ...] = ()


STEPS: dict[str, Step] = {
    "decode": Step("decode.py"),
    "decode int8": Step("decode.py", ("--dtype", "int8")),
    "decode 32": Step("decode.py", ("--batch", "32")),
    "stream": Step("serve.py", (*ENGINE, *ONE)),
    "stream int8": Step("serve.py", (*ENGINE, *ONE, "--dtype", "int8")),
    "streams": Step(
        "serve.py", (*ENGINE, "--slots", "32", "--chunks", "1", "8", "--clients", "32")
    ),
    "most": Step("serve.py", (*ENGINE, "--slots", "192", "--chunks", "8", "--clients", "192")),
    "codec": Step("codec.py", ("--batch", "32")),
    "cold start": Step("cold_start.py", ("--repeats", "1")),
    "reproducibility": Step("reproducibility.py"),
}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: is measured.
        value: from the results of the steps.
        unit: of it.
        elsewhere: the best published elsewhere, and where.
        target: ours, and whether smaller is better.
    """

    what: str
    value: Callable[[dict[str, Any]], float]
    unit: str
    elsewhere: str
    target: float
    smaller: bool = True


def _clients(results: dict[str, Any], step: str) -> dict[str, float]:
    """The only measurement of a closed loop."""
    (row,) = results[step]["closed_loop"].values()
    measured: dict[str, float] = row
    return measured


TABLE = (
    Row(
        "one stream, real-time factor",
        lambda r: _clients(r, "stream")["real_time_factor"],
        "",
        "0.103 (vLLM-Omni, H200), 0.128 (H100)",
        0.055,
    ),
    Row(
        "one stream, first audio",
        lambda r: _clients(r, "stream")["first_audio_ms_p50"],
        "ms",
        "70 ms (H200), 83 ms (H100)",
        35,
    ),
    Row(
        "one stream, 8-bit weights, real-time factor",
        lambda r: _clients(r, "stream int8")["real_time_factor"],
        "",
        "-",
        0.033,
    ),
    Row(
        "32 streams, real-time factor",
        lambda r: _clients(r, "streams")["real_time_factor"],
        "",
        "0.302 (H200)",
        0.10,
    ),
    Row(
        "32 streams, first audio, p95",
        lambda r: _clients(r, "streams")["first_audio_ms_p95"],
        "ms",
        "552 ms (H200)",
        200,
    ),
    Row(
        "most audio seconds per second",
        lambda r: max(
            _clients(r, step)["audio_seconds_per_second"]
            for step in ("streams", "most")
            if step in r
        ),
        "",
        "106 (H200)",
        450,
        smaller=False,
    ),
    Row(
        "codec, 32 streams, times real time",
        lambda r: r["codec"]["times_real_time"],
        "",
        "-",
        3000,
        smaller=False,
    ),
    Row(
        "start to first audio, warm compilation cache",
        lambda r: r["cold start"]["full_cache"]["to_first_audio"],
        "s",
        "-",
        20,
    ),
)


def lines(results: dict[str, Any]) -> list[str]:
    """The table in Markdown; what was not measured says so."""
    found = ["| what | measured | target | elsewhere |", "| --- | --- | --- | --- |"]
    for row in TABLE:
        try:
            value = row.value(results)
        except (KeyError, ValueError):
            text = "not measured"
        else:
            met = value <= row.target if row.smaller else value >= row.target
            text = f"{value:.3g} {row.unit}".strip() + ("" if met else " (missed)")
        target = f"{row.target:g} {row.unit}".strip()
        found.append(f"| {row.what} | {text} | {target} | {row.elsewhere} |")
    return found


def plot(results: dict[str, Any], path: Path) -> None:
    """Measured time over floor of each part."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars = {
        f"{name} ({step})": part["time_over_floor"]
        for step in ("decode", "decode int8", "decode 32")
        if step in results
        for name, part in results[step]["parts"].items()
    }
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(bars) + 1.2), layout="constrained")
    drawn = axes.barh(list(bars), list(bars.values()))
    axes.bar_label(drawn, fmt="%.2f", padding=3)
    axes.axvline(1, color="grey", linewidth=0.8, linestyle="--")
    axes.invert_yaxis()
    axes.set(xlabel="time over floor", title=results["device"])
    figure.savefig(path, dpi=110)


def run_step(step: Step, sizes: Path, folder: Path) -> dict[str, Any]:
    """What a step measured, or `{"failed": why}`."""
    out = folder / "step.json"
    command = [sys.executable, str(HERE / step.script), "--params", str(sizes), "--out", str(out)]
    try:
        done = subprocess.run(
            [*command, *step.arguments],
            timeout=STEP_SECONDS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {STEP_SECONDS} s"}
    if done.returncode or not out.exists():
        return {"failed": done.stdout[-2000:]}
    measured: dict[str, Any] = json.loads(out.read_text())
    out.unlink()
    return measured


def run_tests() -> dict[str, Any]:
    """How the tests marked gpu ended: their last line."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-q", "tests"]
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
    return {"status": done.returncode, "end": done.stdout.splitlines()[-1:]}


def main() -> None:
    """Parses the command line, runs the steps, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default=SIZES, help="params.json: sizes")
    parser.add_argument("--only", nargs="+", choices=[*STEPS, "tests"], help="steps (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="JSON; the plot goes beside it")
    options = parser.parse_args()

    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    # What one process compiled another one finds.
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder) / "compiled"))
        for name in options.only or [*STEPS, "tests"]:
            begun = time.monotonic()
            if name == "tests":
                measured = run_tests()
            else:
                measured = run_step(STEPS[name], options.params, Path(folder))
            if "failed" in measured:
                results.setdefault("failed", {})[name] = measured["failed"]
                print(f"{name}: failed\n{measured['failed']}", flush=True)
            else:
                results[name] = measured
                results.get("failed", {}).pop(name, None)
                print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
            devices = [one["device"] for one in results.values() if "device" in one]
            results["device"] = devices[0] if devices else "unknown"
            results["date"] = datetime.date.today().isoformat()
            options.out.write_text(json.dumps(results, indent=2) + "\n")
    print("\n".join(lines(results)))
    if "decode" in results:
        plot(results, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
