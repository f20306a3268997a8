"""Many streams at once through the engine: first audio, real-time factor, throughput, underruns.

    python benchmarks/serve.py                                   # the model in the box
    python benchmarks/serve.py --params configs/voxtral-4b/params.json --slots 32 --seconds 60

With --params the weights are random and every request gets the usual length of its text. Closed
loop: so many clients, each asking again as soon as it was answered. Open loop: requests come at
random (Poisson) at a share of the closed loop's best throughput. Writes JSON (--out) and, unless
told otherwise (--no-plot), a plot beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from random_model import random_params, random_voice
from report import circumstances, write

import voxtral_jax as vx
from voxtral_jax import Model, Voice, VoxtralConfig, utterance
from voxtral_jax.codec import fold
from voxtral_jax.errors import BusyError
from voxtral_jax.kernels import default_kernels
from voxtral_jax.model import DTYPES, computing_dtype
from voxtral_jax.serving.engine import Engine
from voxtral_jax.serving.settings import EngineSettings
from voxtral_jax.text import ByteTokenizer, FrameLimits, estimate_seconds

TEXT = (
    "The harbour was quiet when the first boats came home. Nobody had expected them before noon, "
    "and the market was still closed. A boy ran up the hill to ring the bell, as he did whenever "
    "something happened that was worth telling. By the time he reached the church, the whole town "
    "was already on its feet. They carried baskets and blankets, and somebody had thought of hot "
    "coffee. It was the kind of morning that people would talk about for years, although hardly "
    "anything had happened at all."
)
"""What every request says, as much of it as --characters."""
PUBLISHED = {
    "vLLM-Omni, H100": {
        "1": {"first_audio_ms": 82.6, "real_time_factor": 0.128},
        "8": {"first_audio_ms": 170, "audio_seconds_per_second": 37.1},
    },
    "paper, H200": {
        "32": {
            "first_audio_ms": 552,
            "real_time_factor": 0.302,
            "audio_seconds_per_second": 106,
        }
    },
}
"""Of the released model, 500 characters with a 10 s reference (shared/architecture.md)."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """How one request fared, in seconds.

    Attributes:
        first_audio: from the request to its first samples.
        total: to its last.
        audio: its duration.
        underruns: chunks that came after what was there had been played.
        stalled: how late they were, added up.
    """

    first_audio: float
    total: float
    audio: float
    underruns: int
    stalled: float


def listen(engine: Engine, text: str, options: dict[str, Any]) -> Answer:
    """Asks, and plays what comes as a listener would."""
    begun = time.perf_counter()
    first = audio = stalled = played_until = 0.0
    underruns = 0
    for chunk in engine.speak(text, **options):
        now = time.perf_counter() - begun
        if not len(chunk.samples):
            continue
        if not first:
            first = played_until = now
        elif now > played_until:
            underruns += 1
            stalled += now - played_until
            played_until = now
        played_until += chunk.seconds
        audio += chunk.seconds
    return Answer(first, time.perf_counter() - begun, audio, underruns, stalled)


def closed_loop(
    engine: Engine, clients: int, seconds: float, text: str, voice: dict[str, Any]
) -> dict[str, Any]:
    """`clients` at once for `seconds`; each finishes what it has begun."""
    answers: list[Answer] = []
    begun = time.perf_counter()

    def client(number: int) -> None:
        seed = number
        while True:
            answers.append(listen(engine, text, {"seed": seed, **voice}))
            seed += clients
            if time.perf_counter() - begun > seconds:
                return

    _run([threading.Thread(target=client, args=(number,)) for number in range(clients)])
    return summary(answers, text, time.perf_counter() - begun)


def open_loop(
    engine: Engine, rate: float, seconds: float, text: str, voice: dict[str, Any]
) -> dict[str, Any]:
    """Requests at random, `rate` a second on average."""
    answers: list[Answer] = []
    refused = 0
    random = np.random.default_rng(0)
    threads: list[threading.Thread] = []
    begun = time.perf_counter()

    def client(seed: int) -> None:
        nonlocal refused
        try:
            answers.append(listen(engine, text, {"seed": seed, **voice}))
        except BusyError:
            refused += 1

    due = 0.0
    while due < seconds:
        time.sleep(max(0.0, due - (time.perf_counter() - begun)))
        threads.append(threading.Thread(target=client, args=(len(threads),)))
        threads[-1].start()
        due += random.exponential(1 / rate)
    for thread in threads:
        thread.join()
    result = summary(answers, text, time.perf_counter() - begun)
    return result | {"requests_per_second": rate, "refused": refused}


def _run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def summary(answers: list[Answer], text: str, wall: float) -> dict[str, Any]:
    """Percentiles and totals."""
    first = [1e3 * answer.first_audio for answer in answers]
    audio = sum(answer.audio for answer in answers)
    return {
        "requests": len(answers),
        "first_audio_ms_p50": float(np.percentile(first, 50)),
        "first_audio_ms_p95": float(np.percentile(first, 95)),
        "real_time_factor": float(np.mean([a.total / a.audio for a in answers])),
        "audio_seconds_per_second": audio / wall,
        "characters_per_second": len(answers) * len(text) / wall,
        "requests_with_underruns": sum(answer.underruns > 0 for answer in answers),
        "stalled_seconds_per_request": sum(a.stalled for a in answers) / len(answers),
    }


class FewTokens(ByteTokenizer):
    """Tokens for random weights: as many as Tekken makes of English, without its file."""

    characters = 4.5
    """For each token."""

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Every few bytes of the text."""
        ids = super().encode(text, language)
        return ids[: max(1, round(len(ids) / self.characters))]


def random_model(params: Path, dtype: str | None = None) -> tuple[Model, Voice]:
    """A model of these sizes with random weights, and a random voice.

    Args:
        params: params.json.
        dtype: as in `load_model`.
    """
    config = VoxtralConfig.load(params)
    weights = random_params(config, dtype)
    model = Model(
        config=config,
        params=weights,
        codec=fold(weights["codec"], config.codec),
        tokenizer=FewTokens(),
        voices={},
        kernels=default_kernels(),
        rules=None,
        source=str(params),
    )

    def usual(text: str, frame_rate: float) -> FrameLimits:
        count = round(estimate_seconds(text) * frame_rate)
        return FrameLimits(count, count)

    # Random weights end whenever they like; every request shall have its usual length.
    utterance.frame_limits = usual
    return model, random_voice(config)


def plot(result: dict[str, Any], path: Path) -> None:
    """First audio and throughput over the number of clients."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = result["closed_loop"]
    clients = [int(n) for n in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, label in (("first_audio_ms_p50", "p50"), ("first_audio_ms_p95", "p95")):
        left.plot(clients, [row[name] for row in rows.values()], marker="o", label=label)
    left.set(xlabel="clients", ylabel="first audio (ms)", xscale="log", yscale="log")
    right.plot(
        clients, [row["audio_seconds_per_second"] for row in rows.values()], marker="o", label="all"
    )
    right.plot(
        clients, [1 / row["real_time_factor"] for row in rows.values()], marker="o", label="each"
    )
    right.axhline(1, color="grey", linewidth=0.8, linestyle="--")
    right.set(xlabel="clients", ylabel="audio seconds per second", xscale="log", yscale="log")
    for axes in (left, right):
        axes.set_xticks(clients, [str(n) for n in clients])
        axes.minorticks_off()
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.suptitle(f"{result['model']} on {result['device']}, {result['slots']} slots")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="directory (default: the model in the box)")
    parser.add_argument("--params", type=Path, help="params.json: random weights of these sizes")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--chunks", type=int, nargs="+", default=[2, 8], help="frames of a chunk")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument("--rates", type=float, nargs="*", default=[0.5, 0.8], help="of the best")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--characters", type=int, default=500)
    parser.add_argument("--prompt", type=int, default=1024, help="tokens of the longest prompt")
    parser.add_argument("--part", type=float, default=60.0, help="seconds of the longest part")
    parser.add_argument("--dtype", choices=DTYPES, help="(default: by device)")
    parser.add_argument("--out", type=Path, help="write JSON here, and a plot beside it")
    parser.add_argument(
        "--no-plot", action="store_true", help="JSON only: matplotlib is not needed"
    )
    options = parser.parse_args()

    vx.enable_compilation_cache()
    text = TEXT[: options.characters]
    voice: dict[str, Any] = {"language": "en"}
    if options.params:
        model, voice["voice"] = random_model(options.params, options.dtype)
    else:
        model = vx.load_model(options.model, dtype=options.dtype)
    settings = EngineSettings(
        slots=options.slots,
        chunk_frames=tuple(options.chunks),
        most_waiting=10_000,
        longest_prompt=options.prompt,
        longest_part=options.part,
    )
    result: dict[str, Any] = {
        "model": str(options.params or options.model or "the model in the box"),
        **circumstances(),
        "slots": options.slots,
        "chunk_frames": options.chunks,
        "dtype": options.dtype or str(computing_dtype(None)),
        "characters": len(text),
        "closed_loop": {},
        "open_loop": {},
        "published": PUBLISHED,
    }
    begun = time.perf_counter()
    with Engine(model, settings) as engine:
        result["warm_up_seconds"] = time.perf_counter() - begun
        listen(engine, text[:60], voice)
        for clients in options.clients:
            row = closed_loop(engine, clients, options.seconds, text, voice)
            result["closed_loop"][str(clients)] = row
            print(f"{clients:3d} clients", _line(row), flush=True)
        best = max(row["characters_per_second"] for row in result["closed_loop"].values())
        for share in options.rates:
            rate = share * best / len(text)
            row = open_loop(engine, rate, options.seconds, text, voice)
            result["open_loop"][f"{share:g}"] = row
            print(f"{share:4.0%} of best  ", _line(row), flush=True)
    if options.out:
        write(result, options.out)
        if not options.no_plot:
            plot(result, options.out.with_suffix(".png"))


def _line(row: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:,.4g}" for name, value in row.items())


if __name__ == "__main__":
    main()
