"""What the tests of the server share: an engine, a server that listens, audio to send."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import soundfile

from voxtral_jax.serving.engine import Engine
from voxtral_jax.serving.settings import EngineSettings

SETTINGS = EngineSettings(
    slots=8, chunk_frames=(2,), most_waiting=64, longest_prompt=192, longest_part=40.0
)
ENDLESS = ("word " * 50 + ". ") * 20
"""A text whose speech goes on for long enough to be stopped."""


def until(true: Callable[[], bool], seconds: float = 60.0, every: float = 0.01) -> None:
    """Waits until something is so; fails if it never is."""
    latest = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < latest, "what was waited for did not happen"
        time.sleep(every)


def idle(engine: Engine) -> bool:
    """Whether no request has a slot or waits for one."""
    status = engine.status
    return status.busy == status.waiting == 0


@contextmanager
def live(app: Any) -> Iterator[tuple[str, Any]]:
    """The app behind a real server: its address, and the server."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs voxtral-jax[serve]")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=30)
        )
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", server
        finally:
            server.should_exit = True
            thread.join(60)


def wav(samples: np.ndarray, rate: int = 24_000, **how: str) -> bytes:
    """A file of samples, WAV unless `format` says otherwise."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", **how})
    return file.getvalue()


def samples_of(audio: bytes) -> np.ndarray:
    """What is in raw PCM, as floats."""
    return np.frombuffer(audio, "<i2") / np.float32(32767)
