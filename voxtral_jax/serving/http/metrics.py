"""What Prometheus is told."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from voxtral_jax.serving.engine import Engine

FIRST_AUDIO_SECONDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
REAL_TIME_FACTORS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0)


class Metrics:
    """Figures of one server, in a registry of their own.

    Attributes:
        first_audio: seconds from the request's arrival to its first samples.
        real_time_factor: seconds of making for a second of audio, without waiting for a slot.
        requests: by outcome: "stop", "length", "cancelled", "disconnected" or an error's code.
        audio: seconds of audio made.

    Args:
        engine: whose slots and queue are shown.
    """

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.first_audio = Histogram(
            "voxtral_first_audio_seconds",
            "From a request's arrival to its first samples.",
            buckets=FIRST_AUDIO_SECONDS,
            registry=self.registry,
        )
        self.real_time_factor = Histogram(
            "voxtral_real_time_factor",
            "Seconds of making for a second of audio, without waiting for a slot.",
            buckets=REAL_TIME_FACTORS,
            registry=self.registry,
        )
        self.requests = Counter(
            "voxtral_requests",
            "Speeches asked for, by how they ended.",
            ["outcome"],
            registry=self.registry,
        )
        self.audio = Counter(
            "voxtral_audio_seconds", "Seconds of audio made.", registry=self.registry
        )
        self.frames = Counter("voxtral_frames", "Frames made.", registry=self.registry)
        for name, text, of in (
            ("voxtral_slots", "Requests that can be spoken side by side.", "slots"),
            ("voxtral_slots_busy", "Requests being spoken.", "busy"),
            ("voxtral_queue", "Requests waiting for a slot.", "waiting"),
        ):
            gauge = Gauge(name, text, registry=self.registry)
            gauge.set_function(partial(_status, engine, of))

    def text(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self.registry)


def _status(engine: Engine, of: str) -> float:
    return float(getattr(engine.status, of))
