"""`/v1/models` and `/v1/audio/voices`: what there is, and voices that clients keep."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile

from voxtral_jax.serving.http.schemas import (
    ModelEntry,
    ModelList,
    VoiceDeleted,
    VoiceEntry,
    VoiceList,
)
from voxtral_jax.serving.http.service import Service
from voxtral_jax.serving.http.speech import answers
from voxtral_jax.serving.http.voices import NAME
from voxtral_jax.voice import About

LONGEST_CONSENT = 4000
"""Characters of a statement of consent."""


def catalogue_routes(service: Service) -> APIRouter:
    """The routes, for an app to include."""
    router = APIRouter()
    started = int(time.time())

    @router.get("/v1/models", tags=["models"], responses=answers())
    async def list_models() -> ModelList:
        """The model that the server has."""
        return ModelList(data=[ModelEntry(id=service.settings.name, created=started)])

    @router.get("/v1/audio/voices", tags=["voices"], responses=answers())
    async def list_voices() -> VoiceList:
        """Presets and kept voices."""
        abouts = await service.in_thread(service.voices.abouts)
        return VoiceList(voices=[_entry(name, *about) for name, about in abouts.items()])

    @router.post(
        "/v1/audio/voices",
        tags=["voices"],
        status_code=201,
        responses=answers(400, 408, 409, 413, 429, 500, 503),
    )
    async def add_voice(
        name: Annotated[str, Form(pattern=f"^{NAME.pattern}$")],
        audio: Annotated[UploadFile, File(description="3 to 30 s of the voice.")],
        consent: Annotated[
            str,
            Form(
                pattern=r"\S",
                max_length=LONGEST_CONSENT,
                description="A statement that the recorded person agrees; kept with the voice.",
            ),
        ],
        language: Annotated[
            str, Form(pattern="^([a-z]{2})?$", description='Of the recording, such as "en".')
        ] = "",
    ) -> VoiceEntry:
        """Makes a voice of a recording and keeps it."""
        service.check_ready()
        with service.place():
            recording = await service.recording(await audio.read())
            about = await service.in_thread(
                service.voices.add, name, recording, consent=consent, language=language
            )
        return _entry(name, about, preset=False)

    @router.delete("/v1/audio/voices/{name}", tags=["voices"], responses=answers(404))
    async def delete_voice(name: str) -> VoiceDeleted:
        """Deletes a kept voice."""
        await service.in_thread(service.voices.remove, name)
        return VoiceDeleted(name=name)

    return router


def _entry(name: str, about: About, preset: bool) -> VoiceEntry:
    return VoiceEntry(
        name=name,
        preset=preset,
        language=about.language,
        gender=about.gender,
        character=about.character,
        default_for=about.default_for,
    )
