"""The HTTP server as a Ray Serve application: replicas that follow the load.

    serve run voxtral_jax.serving.ray_serve:application model=path/to/model gpus=1

Each replica is the server of `voxtral_jax.serving.http` with a model and an engine of its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from ray import serve
from ray.serve import Application

from voxtral_jax.errors import ConfigError, problems_of
from voxtral_jax.serving.engine import Engine
from voxtral_jax.serving.heaps import share_heaps
from voxtral_jax.serving.http.app import create_app
from voxtral_jax.serving.http.settings import ServerSettings
from voxtral_jax.serving.settings import EngineSettings

if TYPE_CHECKING:
    from voxtral_jax.model import Model

API_KEY = "VOXTRAL_API_KEY"
"""Environment variable with the key that clients must show; a secret is no argument."""
BESIDE = 16
"""Requests that a replica takes beyond slots and queue, so that health checks and the refusals of
a full queue (429, with the time to come back) are the server's own."""
MARGIN = 10.0
"""Seconds that a replica has to end after its requests have."""
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Of the application; what `serve run` and a configuration file can set.

    Attributes:
        model, dtype, encoder_weights, adapter: as in `load_model`, known on every machine.
        gpus: of each replica; the model is spread over them. 0 is a CPU.
        slots: requests that a replica speaks side by side.
        queue: requests that wait in a replica.
        least_replicas, most_replicas: the load decides in between.
        name, voices, url_hosts, watermark, drain_seconds: as in `ServerSettings`; replicas must
            share the directory of the voices.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: str | None = None
    dtype: str | None = None
    encoder_weights: str | None = None
    adapter: str | None = None
    gpus: Annotated[int, Field(ge=0)] = 1
    slots: Count = 8
    queue: Count = 64
    least_replicas: Count = 1
    most_replicas: Count = 4
    name: str = "voxtral"
    voices: Path | None = None
    url_hosts: tuple[str, ...] = ()
    watermark: bool = True
    drain_seconds: float = 60.0

    def load(self) -> Model:
        """The model, on this replica's devices."""
        from voxtral_jax.serving.batch.running import ModelFiles

        files = ModelFiles(
            model=self.model,
            dtype=self.dtype,
            encoder_weights=self.encoder_weights,
            adapter=self.adapter,
        )
        return files.load(devices=max(1, self.gpus))


class Server:
    """A replica."""

    def __init__(self, arguments: Arguments) -> None:
        sizes = EngineSettings(slots=arguments.slots, most_waiting=arguments.queue)
        self._settings = ServerSettings(
            name=arguments.name,
            voices=arguments.voices,
            api_key=os.environ.get(API_KEY),
            url_hosts=arguments.url_hosts,
            watermark=arguments.watermark,
            drain_seconds=arguments.drain_seconds,
        )
        share_heaps()
        self._engine = Engine(arguments.load(), sizes).__enter__()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve asks for the app after `__init__`."""
        return create_app(self._engine, self._settings)

    def check_health(self) -> None:
        """Ray Serve replaces the replica when this raises."""
        if not self._engine.status.alive:
            raise RuntimeError("the engine is dead")

    def __del__(self) -> None:
        # By then Ray Serve has waited for the requests.
        self._engine.close()


def application(arguments: dict[str, Any]) -> Application:
    """Builds the application; Ray Serve calls it with the arguments of its configuration.

    Raises:
        ConfigError: an argument is unknown or out of its range.
    """
    try:
        checked = TypeAdapter(Arguments).validate_python(arguments)
    except ValidationError as error:
        raise ConfigError(f"arguments of the application: {problems_of(error)}") from None
    deployment = serve.deployment(
        name="voxtral",
        ray_actor_options={"num_gpus": checked.gpus, "num_cpus": 1},
        max_ongoing_requests=checked.slots + checked.queue + BESIDE,
        graceful_shutdown_timeout_s=checked.drain_seconds + MARGIN,
        autoscaling_config={
            "min_replicas": checked.least_replicas,
            "max_replicas": checked.most_replicas,
            # Another replica comes when the slots are full, not only when the queue is.
            "target_ongoing_requests": checked.slots,
        },
    )
    return deployment(serve.ingress()(Server)).bind(checked)
