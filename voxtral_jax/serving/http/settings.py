"""What a server allows, in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from voxtral_jax.errors import RequestError

MEGABYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Options of the server; those of the engine are `voxtral_jax.serving.settings.EngineSettings`.

    Attributes:
        name: of the model, in `/v1/models`.
        voices: directory of the voices that clients keep, or None if they may keep none.
        api_key: what clients must show as a bearer token; None lets everyone in.
        origins: web pages of other origins that may call, such as "https://example.org".
        url_hosts: hosts that references may be fetched from, "example.org" or "example.org:8443";
            none turns fetching off.
        watermark: mark all audio inaudibly (`voxtral_jax.watermark`).
        largest_reference: bytes of a reference's file.
        longest_reference: seconds of a reference, counted while it is decoded.
        most_voices: voices kept in the directory.
        most_open: requests being read and prepared at once; more are refused.
        most_sockets: WebSocket connections at once.
        upload_seconds: time that a request's body may take.
        request_seconds: time that a request may take in all, and a WebSocket may be silent.
        url_seconds: time that fetching a reference may take.
        drain_seconds: time that running requests have left when the server is told to end.
    """

    name: str = "voxtral"
    voices: Path | None = None
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    url_hosts: tuple[str, ...] = ()
    watermark: bool = True
    largest_reference: int = 12 * MEGABYTE
    longest_reference: float = 60.0
    most_voices: int = 1000
    most_open: int = 128
    most_sockets: int = 64
    upload_seconds: float = 60.0
    request_seconds: float = 600.0
    url_seconds: float = 10.0
    drain_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in ("int", "float") and not value > 0:
                raise RequestError(f"{field.name} must be more than 0, got {value!r}")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip()):
            raise RequestError("the API key must be of ASCII characters, and not empty")
        if self.api_key is not None:
            # Files that keys are read from end with a newline.
            object.__setattr__(self, "api_key", self.api_key.strip())

    @property
    def largest_body(self) -> int:
        """Bytes of a request: a reference in base64, and room for the rest."""
        return self.largest_reference * 4 // 3 + MEGABYTE
