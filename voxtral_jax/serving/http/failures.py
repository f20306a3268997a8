"""What went wrong, as the client is told: OpenAI's JSON for errors, and a status."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from voxtral_jax.errors import (
    AudioError,
    BusyError,
    CheckpointError,
    ClosedError,
    EngineError,
    RequestError,
    TextError,
    VoiceError,
    VoxtralError,
)

log = logging.getLogger(__name__)
RETRY_SECONDS = 5
"""What a client is told to wait for a server that starts or ends."""


class Refusal(HTTPException):
    """A request that the server refuses by itself.

    Args:
        status: of HTTP.
        code: for programs.
        message: for people.
        param: the field at fault.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code, self.param = code, param


@dataclass(frozen=True)
class Failure:
    """What a client is told.

    Attributes:
        status: HTTP status.
        code: for programs; also the outcome counted in the metrics.
        message: for people.
        param: the field at fault.
        headers: of the answer.
    """

    status: int
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def error(self) -> dict[str, Any]:
        """The object that OpenAI's clients expect under "error"."""
        return {
            "message": self.message,
            "type": _type(self.status),
            "param": self.param,
            "code": self.code,
        }

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse({"error": self.error}, self.status, self.headers)


KINDS: tuple[tuple[type[VoxtralError], int, str, str | None], ...] = (
    (ClosedError, 503, "not_ready", None),
    (TextError, 400, "bad_text", "input"),
    (VoiceError, 400, "bad_voice", "voice"),
    (AudioError, 400, "bad_audio", "ref_audio"),
    # Checkpoints were loaded long ago: a request meets one that cannot do what it asks for.
    (CheckpointError, 400, "cannot_clone", "ref_audio"),
    (RequestError, 400, "bad_request", None),
)
"""Errors of the library: status, code, and the field most likely at fault."""


def describe(error: Exception) -> Failure:
    """What to tell a client of an error; of one that is a bug, nothing but that."""
    if isinstance(error, BusyError):
        wait = {"Retry-After": str(max(1, round(error.retry_after)))}
        return Failure(429, "busy", str(error), headers=wait)
    if isinstance(error, EngineError):
        return Failure(500, "engine_failed", "the device failed; the server's log says why")
    for kind, status, code, param in KINDS:
        if isinstance(error, kind):
            wait = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}
            return Failure(status, code, str(error), param, wait)
    if isinstance(error, ValidationError):
        return _invalid(error.errors(include_url=False, include_context=False, include_input=False))
    if isinstance(error, RequestValidationError):
        return _invalid(error.errors())
    if isinstance(error, Refusal):
        headers = dict(error.headers or {})
        return Failure(error.status_code, error.code, error.detail, error.param, headers)
    if isinstance(error, ClientDisconnect):
        return Failure(400, "disconnected", "the request was cut off")
    if isinstance(error, StarletteHTTPException):
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        headers = dict(error.headers or {})
        return Failure(error.status_code, code, str(error.detail), headers=headers)
    return Failure(500, "server_failed", "the server failed; its log says why")


async def refuse(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a request, or a WebSocket's handshake, with an error.

    A server without ASGI's denial response can only close a WebSocket: its client sees 403.
    """
    can_answer = "websocket.http.response" in (scope.get("extensions") or {})
    if scope["type"] == "http" or can_answer:
        await describe(error).response()(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})


def _invalid(errors: Sequence[Any]) -> Failure:
    """The first thing wrong with a request's fields."""
    place = [str(one) for one in errors[0]["loc"] if one != "body"]
    message = errors[0]["msg"].removeprefix("Value error, ")
    if not place:
        return Failure(400, "invalid", message)
    return Failure(400, "invalid", f"{place[0]}: {message}", place[0])


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    if status in (401, 403):
        return "authentication_error" if status == 401 else "permission_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def install(app: FastAPI) -> None:
    """Makes every error of the app an answer of this form."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, EngineError):
            log.error("a speech failed", exc_info=error)
        return describe(error).response()

    for kind in (
        VoxtralError,
        ValidationError,
        RequestValidationError,
        ClientDisconnect,
        StarletteHTTPException,
        Exception,
    ):
        app.add_exception_handler(kind, answer)
