"""Stands before the API: who may call it, and how much a request may bring, how slowly."""

from __future__ import annotations

import asyncio
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxtral_jax.serving.http.failures import Refusal, refuse
from voxtral_jax.serving.http.settings import ServerSettings

GUARDED = "/v1/"
KEY_PROTOCOL = "voxtral-key."
"""Browsers can give a WebSocket no header; they offer the subprotocol `voxtral-key.KEY`."""


class Guard:
    """Checks key, origin and the size of the body of everything under `/v1/`.

    Args:
        app: what it stands before.
        settings: of the server.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it."""
        # Not `startswith`: the app may be mounted, or served under a root path.
        if scope["type"] not in ("http", "websocket") or GUARDED not in scope["path"]:
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_key(headers, scope.get("subprotocols", []))
            self._check_origin(headers)
            length = headers.get("content-length", "")
            if length.isdecimal() and int(length[:20]) > self._settings.largest_body:
                raise self._too_large()
        except Refusal as refusal:
            await refuse(refusal, scope, receive, send)
            return
        if scope["type"] == "http":
            receive = self._counted(receive)
        await self._app(scope, receive, send)

    def _check_key(self, headers: Headers, protocols: list[str]) -> None:
        key = self._settings.api_key
        if key is None:
            return
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        offers = [one for one in protocols if one.startswith(KEY_PROTOCOL)]
        if scheme.lower() != "bearer":
            shown = offers[0].removeprefix(KEY_PROTOCOL) if offers else ""
        if not hmac.compare_digest(shown.strip().encode(), key.encode()):
            message = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
            raise Refusal(401, "bad_key", message, headers={"WWW-Authenticate": "Bearer"})

    def _check_origin(self, headers: Headers) -> None:
        # Any page that its user visits could otherwise call a server on the same machine.
        origin = headers.get("origin")
        if origin is None or origin in self._settings.origins:
            return
        try:
            host = urlsplit(origin).netloc
        except ValueError:
            host = ""  # no address
        if not host or host.lower() != headers.get("host", "").lower():
            message = f"pages of {origin[:80]} may not call; --origin allows them"
            raise Refusal(403, "bad_origin", message)

    def _counted(self, receive: Receive) -> Receive:
        """Watches the body as it comes: it need not say how long it is, nor say the truth."""
        received, complete = 0, False
        latest = asyncio.get_running_loop().time() + self._settings.upload_seconds

        async def counted() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(latest):
                    message = await receive()
            except TimeoutError:
                seconds = self._settings.upload_seconds
                why = f"the request did not arrive within {seconds:g} s"
                raise Refusal(408, "slow_upload", why) from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self._settings.largest_body:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> Refusal:
        message = f"the request has more than {self._settings.largest_body:,} bytes"
        return Refusal(413, "too_large", message)
