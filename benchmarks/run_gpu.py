"""All GPU figures in one call: Voxtral-4B with random weights in its real sizes, on one GPU.

    python benchmarks/run_gpu.py --out benchmarks/results/gpu-h100.json

Measures the device's two ceilings, each part of a frame against its floor, the streams of the table
below through the engine, the codec, a cold start, and equality of the compiled kernels with their
plain twins (`pytest -m gpu`). Needs jax, flax, jaxtyping, ftfy (and its wcwidth), safetensors and
rich; py3langid and sentencex for the streams, whose text is cut into parts; pytest and hypothesis
for the kernels, matplotlib for the plot; no tokenizer, no weights. The repository need not be
installed.

Each step is a process of its own: one that fails is reported, and the rest goes on. The file is
written after each step, so that a call which is stopped keeps what it measured; `--only` runs some
steps and keeps the others' figures of the same file.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
SIZES = ROOT / "configs" / "voxtral-4b" / "params.json"
TESTS = ROOT / "tests" / "test_kernels.py"
"""All tests marked gpu; to collect the other files takes packages that a bare machine lacks."""
STEP_SECONDS = 240.0
"""After which a step is given up."""
LOG_CHARACTERS = 4000
"""Kept of what a failed step printed last."""
ENGINE = (
    *("--seconds", "15", "--rates", "--characters", "500", "--prompt", "256", "--part", "20"),
    "--no-plot",
)
"""Of the streams: 500 characters with a 10 s reference, as in the published figures."""
ONE = ("--slots", "1", "--chunks", "1", "4", "--clients", "1")
"""Of a single stream: first audio after one frame (80 ms)."""
MANY = ("--chunks", "1", "8")
"""Of many: the same, then chunks that cost less."""


class StepError(Exception):
    """Why a step failed."""


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


def run_process(command: list[str], folder: Path, seconds: float) -> str:
    """What a process printed; it leaves no children behind.

    Args:
        command: of it.
        folder: of its temporary files.
        seconds: after which it is ended.

    Raises:
        StepError: it failed, or took longer.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A group, so that its children end with it; no session, which would outlive ours.
        process_group=0,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # To the end of the pipe, which comes once the last child is gone.
            printed, _ = process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                why = f"took more than {seconds:g} s\n{printed[-LOG_CHARACTERS:]}"
                raise StepError(why.strip()) from None
            raise
    if process.returncode:
        raise StepError(f"status {process.returncode}\n{printed[-LOG_CHARACTERS:]}".strip())
    return printed


def run_step(step: Step, sizes: Path, seconds: float = STEP_SECONDS) -> dict[str, Any]:
    """What a step measured, or `{"failed": why}`; its files are gone either way."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "step.json"
        script = [sys.executable, str(HERE / step.script)]
        where = ["--params", str(sizes), "--out", str(out)]
        try:
            run_process([*script, *where, *step.arguments], Path(folder), seconds)
            measured: dict[str, Any] = json.loads(out.read_text())
        except (StepError, OSError) as error:
            return {"failed": str(error)}
    return measured


def run_tests(file: Path = TESTS, seconds: float = STEP_SECONDS) -> dict[str, Any]:
    """How the tests marked gpu ended: their last line, or `{"failed": why}`."""
    # Without the project's options, which ask for pytest-xdist.
    options = ("-m", "gpu", "-q", "-o", "addopts=", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *options, str(file)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            printed = run_process(command, Path(folder), seconds)
        except StepError as error:
            return {"failed": str(error)}
    return {"end": printed.splitlines()[-1]}


def save(results: dict[str, Any], out: Path) -> None:
    """Writes all results, with the device and the date, in one step."""
    devices = [one["device"] for one in results.values() if "device" in one]
    results["device"] = devices[0] if devices else "unknown"
    results["date"] = datetime.date.today().isoformat()
    # A call may be stopped while it writes.
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=2) + "\n")
    partial.replace(out)


def main() -> None:
    """Parses the command line, runs the steps, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default=SIZES, help="params.json: sizes")
    parser.add_argument("--only", nargs="+", choices=[*STEPS, "tests"], help="steps (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="JSON; the plot goes beside it")
    options = parser.parse_args()

    # Ends the running step and removes its files, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    # What one process compiled another one finds.
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder) / "compiled"))
        for name in options.only or [*STEPS, "tests"]:
            begun, before = time.monotonic(), lines(results)
            measured = run_tests() if name == "tests" else run_step(STEPS[name], options.params)
            if "failed" in measured:
                results.setdefault("failed", {})[name] = measured["failed"]
                print(f"{name}: failed\n{measured['failed']}", flush=True)
            else:
                results[name] = measured
                results.get("failed", {}).pop(name, None)
                print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
            save(results, options.out)
            # Now, for a call that is stopped does not come to the table.
            for line in lines(results):
                if line not in before:
                    print(line, flush=True)
    print("\n".join(["", *lines(results)]))
    if "decode" in results and importlib.util.find_spec("matplotlib"):
        plot(results, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
