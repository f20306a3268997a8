"""The app: routes, guard, errors, the page."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from fastapi import FastAPI, Response, Security
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST

from voxtral_jax import __version__
from voxtral_jax.serving.http.catalogue import catalogue_routes
from voxtral_jax.serving.http.conversation import conversation_routes
from voxtral_jax.serving.http.failures import install
from voxtral_jax.serving.http.guard import Guard
from voxtral_jax.serving.http.schemas import ErrorAnswer
from voxtral_jax.serving.http.service import Service
from voxtral_jax.serving.http.settings import ServerSettings
from voxtral_jax.serving.http.speech import speech_routes

if TYPE_CHECKING:
    from voxtral_jax.serving.engine import Engine


def create_app(engine: Engine, settings: ServerSettings | None = None) -> FastAPI:
    """The server as an ASGI app; `app.state.service.draining = True` makes it refuse new requests.

    Args:
        engine: speaks; whoever made it opens and closes it.
        settings: what is allowed.
    """
    settings = settings or ServerSettings()
    service = Service(engine, settings)
    # Its API page needs no other host.
    app = FastAPIOffline(
        title="voxtral-jax",
        version=__version__,
        summary="Speech in OpenAI's API, and more.",
        redoc_url=None,
        favicon_url="page/icon.svg",
    )
    app.state.service = service
    install(app)
    app.add_middleware(Guard, settings=settings)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Finish-Reason", "X-Sample-Rate", "X-Audio-Seconds", "Retry-After"],
        )
    # The guard checks the key; this lets the API page ask for it.
    asks = [Security(HTTPBearer(auto_error=False))] if settings.api_key else []
    app.include_router(speech_routes(service), dependencies=asks)
    app.include_router(catalogue_routes(service), dependencies=asks)
    app.include_router(conversation_routes(service))

    @app.get("/health", tags=["state"], responses={503: {"model": ErrorAnswer}})
    async def health() -> dict[str, str]:
        """The process is there, and need not be started anew."""
        service.check_health()
        return {"status": "ok"}

    @app.get("/ready", tags=["state"], responses={503: {"model": ErrorAnswer}})
    async def ready() -> dict[str, str]:
        """New requests are taken."""
        service.check_ready()
        return {"status": "ready"}

    @app.get(
        "/metrics",
        tags=["state"],
        response_class=Response,
        responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}},
    )
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    _serve_page(app)
    _describe_truly(app)
    return app


def _describe_truly(app: FastAPI) -> None:
    """Wrong fields are answered with 400 here, not with the 422 that FastAPI describes."""
    described = app.openapi()
    for path in described["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for schema in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(schema, None)


def _serve_page(app: FastAPI) -> None:
    """The page to try voices in a browser."""
    page = resources.files("voxtral_jax.serving") / "page"
    app.mount("/page", StaticFiles(directory=str(page)), name="page")

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(str(page / "index.html"))
