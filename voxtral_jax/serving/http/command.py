"""`voxtral serve`."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from voxtral_jax.cli import AdapterOption, DtypeOption, EncoderOption, ModelOption
from voxtral_jax.errors import VoxtralError

if TYPE_CHECKING:
    from voxtral_jax.serving.engine import Engine
    from voxtral_jax.serving.http.settings import ServerSettings

LOOK_SECONDS = 0.1
"""Between two looks at the conversations that are still open at the end."""


def serve(
    model: ModelOption = None,
    encoder_weights: EncoderOption = None,
    adapter: AdapterOption = None,
    dtype: DtypeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=0, max=65535)] = 8000,
    name: Annotated[str, typer.Option(help="Of the model, in /v1/models.")] = "voxtral",
    voices: Annotated[
        Path | None, typer.Option(help="Directory for the voices that clients keep.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(help="What clients must show.", envvar="VOXTRAL_API_KEY", show_envvar=True),
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option(help="Other web origin whose pages may call; repeatable.")
    ] = None,
    url_host: Annotated[
        list[str] | None,
        typer.Option(help="Host that references may be fetched from; repeatable."),
    ] = None,
    watermark: Annotated[bool, typer.Option(help="Mark the audio inaudibly.")] = True,
    slots: Annotated[int, typer.Option(help="Requests spoken side by side.")] = 8,
    queue: Annotated[int, typer.Option(help="Requests that may wait for a slot.")] = 64,
    longest_text: Annotated[int, typer.Option(help="Characters of a request.")] = 10_000,
    longest_reference: Annotated[float, typer.Option(help="Seconds of a reference.")] = 60.0,
    request_seconds: Annotated[float, typer.Option(help="Time a request may take.")] = 600.0,
    drain_seconds: Annotated[
        float, typer.Option(help="Time that running requests have when the server is ended.")
    ] = 60.0,
) -> None:
    """Serves the model over HTTP: OpenAI's speech API, a WebSocket, a page to try voices."""
    try:
        from voxtral_jax.serving.http.settings import ServerSettings
    except ImportError as error:
        raise VoxtralError(
            f"serving needs the package {error.name}: pip install voxtral-jax[serve]"
        ) from None
    from voxtral_jax import enable_compilation_cache, load_model
    from voxtral_jax.serving.engine import Engine
    from voxtral_jax.serving.heaps import share_heaps
    from voxtral_jax.serving.settings import EngineSettings

    share_heaps()
    settings = ServerSettings(
        name=name,
        voices=voices,
        api_key=api_key,
        origins=tuple(origin or ()),
        url_hosts=tuple(url_host or ()),
        watermark=watermark,
        longest_reference=longest_reference,
        request_seconds=request_seconds,
        drain_seconds=drain_seconds,
    )
    sizes = EngineSettings(slots=slots, most_waiting=queue, longest_text=longest_text)
    enable_compilation_cache()
    loaded = load_model(model, dtype=dtype, encoder_weights=encoder_weights, adapter=adapter)
    run(Engine(loaded, sizes), settings, host, port)


def run(engine: Engine, settings: ServerSettings, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT; then lets what runs end, for `drain_seconds` at most.

    The port is open at once, and `/ready` says yes when the engine is warm.

    Args:
        engine: not yet open; opened here and closed.
        settings: of the server.
        host: address to listen at.
        port: to listen at.
    """
    import uvicorn

    from voxtral_jax.serving.http.app import create_app

    app = create_app(engine, settings)
    service = app.state.service

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            service.draining = True
            super().handle_exit(sig, frame)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # uvicorn finishes requests, but would close WebSockets at once.
            until = time.monotonic() + settings.drain_seconds
            for conversation in service.conversations:
                conversation.finish()
            while service.conversations and not self.force_exit and time.monotonic() < until:
                await asyncio.sleep(LOOK_SECONDS)
            self.config.timeout_graceful_shutdown = math.ceil(max(0, until - time.monotonic()))
            await super().shutdown(sockets)

    server = Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            ws_max_size=settings.largest_body,
            server_header=False,
        )
    )
    # uvicorn 0.54 says this of refused handshakes too, though they have been answered.
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: "without completing handshake" not in str(record.msg)
    )
    failures: list[Exception] = []

    def warm_up() -> None:
        try:
            engine.__enter__()
        except Exception as error:
            failures.append(error)
            server.should_exit = True

    threading.Thread(target=warm_up, name="voxtral-warm-up", daemon=True).start()
    try:
        server.run()
    finally:
        engine.close()
    if failures:
        raise failures[0]
