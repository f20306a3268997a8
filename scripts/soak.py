"""Keeps a server busy for minutes, with clients of every kind, and says whether it stays as it was.

    python scripts/soak.py                                   # the model in the box, ten minutes
    python scripts/soak.py --model models/voxtral --minutes 60 --clients 64 --out soak.json

Starts `voxtral serve` as a process of its own. Clients take files and streams in every format,
leave in the middle, talk over a WebSocket and interrupt, clone, keep and delete voices, and send
what is wrong. Fails if an answer was not the one expected, if memory grew from the second quarter
of the time to the last, or if slots or open files are left at the end. The first quarter is for
buffers to find their size.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
import numpy as np
import psutil
import soundfile
import typer
import websockets
from prometheus_client.parser import text_string_to_metric_families

SPEECH, VOICES = "/v1/audio/speech", "/v1/audio/voices"
CONVERSATION = "/v1/audio/speech/ws"
FORMATS = ("pcm", "wav", "flac", "mp3", "opus", "aac")
SENTENCES = (
    "Good morning.",
    "The boats came home before noon.",
    "Nobody had thought of the coffee, and so they waited.",
    "Yes! And then a boy ran up the hill to ring the bell.",
)
LONGEST = 3.0
"""Seconds of each speech."""
BUSY = 429
"""What a full queue answers; the client comes back later."""
START_SECONDS, QUIET_SECONDS = 600.0, 30.0
"""Time that a server has to be ready, and to be quiet once its clients are gone."""
GROWTH = 0.02
"""Share by which memory may differ between two quarters: what allocators keep or give back."""
LEFT_FILES = 4
"""Open files that may come and go by themselves (keep-alive connections of the last look)."""


class Unexpected(Exception):
    """An answer was not the one that a request must get."""


@dataclass
class Report:
    """What a soak saw.

    Attributes:
        seconds: it took.
        answers: by kind of request, those among them that were told to come later.
        wrong: answers that were not the expected ones, in words.
        memory: MiB of the server, every few seconds.
        growth: of the median of `memory`, from its second quarter to its last, as a share.
        left: slots, waiting requests and open files that remained, by name; those of files over
            their number at the start.
    """

    seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    growth: float = 0.0
    left: dict[str, float] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """Everything that should not be; empty if the server stayed as it was."""
        found = []
        if self.wrong:
            found.append(f"{len(self.wrong)} wrong answers, the first: {self.wrong[0]}")
        if self.growth > GROWTH:
            found.append(f"memory grew by {self.growth:.1%}")
        return found + [f"{count:g} {name} left" for name, count in self.left.items() if count > 0]


@dataclass
class Client:
    """One client: its connection, its dice, and a recording of its voice."""

    http: httpx2.AsyncClient
    address: str
    dice: random.Random
    number: int
    recording: bytes

    def request(self, **fields: Any) -> dict[str, Any]:
        """A speech in the usual length, whose fields may be replaced."""
        usual = {
            "input": self.dice.choice(SENTENCES),
            "seed": self.dice.randrange(1000),
            "max_seconds": self.dice.uniform(0.5, LONGEST),
            "response_format": self.dice.choice(FORMATS),
        }
        return usual | fields


def expect(response: httpx2.Response, status: int, what: str) -> None:
    """Raises Unexpected unless the response has the status."""
    if response.status_code != status:
        raise Unexpected(f"{what}: {response.status_code} in place of {status}")


async def take_file(client: Client) -> None:
    """A whole file."""
    response = await client.http.post(SPEECH, json=client.request())
    if response.status_code == BUSY:
        return
    expect(response, 200, "file")
    if not response.content:
        raise Unexpected("a file without content")


async def take_stream(client: Client) -> None:
    """A stream, to its end."""
    await _stream(client, most_bytes=None)


async def leave(client: Client) -> None:
    """A stream that nobody listens to after its first bytes."""
    await _stream(client, most_bytes=client.dice.choice((0, 1, 10_000)))


async def _stream(client: Client, most_bytes: int | None) -> None:
    body = client.request(stream=True)
    async with client.http.stream("POST", SPEECH, json=body) as response:
        if response.status_code == BUSY:
            return
        expect(response, 200, "stream")
        got = 0
        async for part in response.aiter_bytes():
            got += len(part)
            if most_bytes is not None and got > most_bytes:
                return
    if not got:
        raise Unexpected("a stream without content")


async def take_events(client: Client) -> None:
    """Server-sent events, whose last one must be the end."""
    body = client.request(stream_format="sse", response_format="pcm")
    response = await client.http.post(SPEECH, json=body)
    if response.status_code == BUSY:
        return
    expect(response, 200, "events")
    if "speech.audio.done" not in response.text:
        raise Unexpected(f"events without an end: {response.text[-200:]}")


async def converse(client: Client) -> None:
    """Sentences over a WebSocket, interrupted, then one more to its end."""
    url = client.address.replace("http", "ws", 1) + CONVERSATION
    async with websockets.connect(url) as line:

        async def say(**message: Any) -> None:
            await line.send(json.dumps(message))

        await say(type="options", max_seconds=LONGEST, seed=client.dice.randrange(1000))
        await say(type="text", text=" ".join(SENTENCES))
        await say(type="flush")
        await asyncio.sleep(client.dice.uniform(0, 1))
        await say(type="cancel")
        await say(type="text", text=SENTENCES[0])
        await say(type="end")
        kinds = [json.loads(part)["type"] async for part in line if isinstance(part, str)]
    if kinds[-1:] != ["done"] or "cancelled" not in kinds:
        raise Unexpected(f"a conversation went {kinds}")


async def clone(client: Client) -> None:
    """Speech in the voice of an uploaded recording."""
    fields = {name: str(value) for name, value in client.request().items()}
    files = {"ref_audio": ("me.wav", client.recording)}
    response = await client.http.post(SPEECH, data=fields, files=files)
    if response.status_code != BUSY:
        expect(response, 200, "clone")


async def keep_voice(client: Client) -> None:
    """A voice is kept, spoken with, and deleted."""
    name = f"client-{client.number}"
    fields = {"name": name, "language": "en", "consent": "I am the speaker, and I agree."}
    files = {"audio": ("me.wav", client.recording)}
    expect(await client.http.post(VOICES, data=fields, files=files), 201, "keeping a voice")
    try:
        response = await client.http.post(SPEECH, json=client.request(voice=name))
        if response.status_code != BUSY:
            expect(response, 200, "speaking with a kept voice")
    finally:
        expect(await client.http.delete(f"{VOICES}/{name}"), 200, "deleting a voice")


async def err(client: Client) -> None:
    """What cannot be done, for which the client is to blame."""
    wrong = client.dice.choice(
        (
            {"input": ""},
            {"voice": "nobody"},
            {"voice": "../../etc/passwd"},
            {"response_format": "midi"},
            {"ref_audio": "data:audio/wav;base64,UklGRg=="},
            {"steps": 100_000},
        )
    )
    response = await client.http.post(SPEECH, json=client.request(**wrong))
    if response.status_code != BUSY and not 400 <= response.status_code < 500:
        raise Unexpected(f"{wrong}: {response.status_code}")


KINDS: dict[str, Callable[[Client], Awaitable[None]]] = {
    "file": take_file,
    "stream": take_stream,
    "leave": leave,
    "events": take_events,
    "conversation": converse,
    "clone": clone,
    "kept voice": keep_voice,
    "error": err,
}


async def soak(address: str, pid: int, seconds: float, clients: int, seed: int = 0) -> Report:
    """Keeps a server busy.

    Args:
        address: of the server, which is ready and keeps voices.
        pid: its process.
        seconds: to go on for.
        clients: at once.
        seed: of what they do.
    """
    report, process = Report(), psutil.Process(pid)
    begun = time.monotonic()
    over = begun + seconds
    tone = 0.1 * np.sin(np.arange(3 * 24_000) / 9).astype(np.float32)
    recording = io.BytesIO()
    soundfile.write(recording, tone, 24_000, format="WAV")

    async def run(number: int) -> None:
        dice = random.Random(seed * 1000 + number)
        async with httpx2.AsyncClient(base_url=address, timeout=120) as http:
            client = Client(http, address, dice, number, recording.getvalue())
            while time.monotonic() < over:
                kind = dice.choice(list(KINDS))
                try:
                    await KINDS[kind](client)
                    report.answers[kind] += 1
                except (Unexpected, httpx2.HTTPError, OSError, websockets.WebSocketException) as e:
                    report.wrong.append(f"{kind}: {type(e).__name__}: {e}")

    async def watch() -> None:
        while time.monotonic() < over:
            report.memory.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(seconds / 100)

    async with httpx2.AsyncClient(base_url=address, timeout=120) as http:
        await http.get("/health")
        files = process.num_fds()
        await asyncio.gather(watch(), *(run(number) for number in range(clients)))
        until = time.monotonic() + QUIET_SECONDS
        while True:
            figures = await metrics(http)
            report.left = {
                "slots": figures["voxtral_slots_busy"],
                "waiting requests": figures["voxtral_queue"],
                "open files": process.num_fds() - files - LEFT_FILES,
            }
            if max(report.left.values()) <= 0 or time.monotonic() > until:
                break
            await asyncio.sleep(0.2)
    quarter = len(report.memory) // 4
    if quarter:
        early = statistics.median(report.memory[quarter : 2 * quarter])
        report.growth = statistics.median(report.memory[-quarter:]) / early - 1
    report.seconds = time.monotonic() - begun
    return report


async def metrics(http: httpx2.AsyncClient) -> dict[str, float]:
    """Figures of the server by name, those with labels left out."""
    families = text_string_to_metric_families((await http.get("/metrics")).text)
    return {
        sample.name: sample.value
        for family in families
        for sample in family.samples
        if not sample.labels
    }


async def until_ready(address: str, server: subprocess.Popen[bytes]) -> None:
    """Waits for a server that is starting.

    Raises:
        RuntimeError: it ended, or took too long.
    """
    until = time.monotonic() + START_SECONDS
    async with httpx2.AsyncClient(base_url=address) as http:
        while server.poll() is None and time.monotonic() < until:
            try:
                if (await http.get("/ready")).status_code == 200:
                    return
            except httpx2.HTTPError:
                pass
            await asyncio.sleep(0.5)
    raise RuntimeError("the server did not get ready")


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def main(
    model: Annotated[str | None, typer.Option(help="directory (default: the model in the box)")] = (
        None
    ),
    minutes: Annotated[float, typer.Option(help="to go on for")] = 10.0,
    clients: Annotated[int, typer.Option(help="at once")] = 16,
    slots: Annotated[int, typer.Option(help="of the server")] = 8,
    out: Annotated[Path | None, typer.Option(help="write JSON here")] = None,
) -> None:
    """Starts a server, keeps it busy, reports."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    voxtral = "from voxtral_jax.cli import voxtral; voxtral()"
    serve = [sys.executable, "-c", voxtral, "serve", f"--port={port}", f"--slots={slots}"]
    if model:
        serve.append(f"--model={model}")
    with tempfile.TemporaryDirectory() as voices, tempfile.TemporaryFile() as log:
        server = subprocess.Popen([*serve, f"--voices={voices}"], stdout=log, stderr=log)
        try:
            asyncio.run(until_ready(address, server))
            report = asyncio.run(soak(address, server.pid, 60 * minutes, clients))
        except Exception:
            log.seek(0)
            print(log.read().decode(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            server.terminate()
            code = server.wait(120)
    result = vars(report) | {"clients": clients, "slots": slots, "exit_status": code}
    for name, value in result.items():
        print(f"{name}: {value}")
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    # uvicorn ends in order, then by the signal that it was sent.
    if report.problems or code not in (0, -signal.SIGTERM):
        sys.exit("; ".join(report.problems) or f"the server ended with {code}")
    print("stayed as it was")


if __name__ == "__main__":
    typer.run(main)
