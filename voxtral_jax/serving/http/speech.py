"""`POST /v1/audio/speech`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.datastructures import UploadFile

from voxtral_jax.serving.http.delivery import Delivery
from voxtral_jax.serving.http.encoding import CODINGS
from voxtral_jax.serving.http.failures import Refusal, describe
from voxtral_jax.serving.http.recital import Recital
from voxtral_jax.serving.http.schemas import ErrorAnswer, SpeechRequest, speech_body
from voxtral_jax.serving.http.service import Service

AUDIO = {
    "description": "Audio in the format asked for, or events.",
    "content": {
        kind: {} for kind in (*(c.media_type for c in CODINGS.values()), "text/event-stream")
    },
}
ERRORS = {
    400: "Something is wrong with the request; the message says what.",
    401: "The API key is missing or wrong.",
    403: "Not allowed.",
    404: "There is no such thing.",
    408: "The request did not arrive in time.",
    409: "There is one of that name already, or there are too many.",
    413: "The request is too large.",
    415: "The request is neither JSON nor a form.",
    429: "Too much is asked for at once; see Retry-After.",
    500: "The server failed.",
    503: "The server starts or ends; see Retry-After.",
    504: "The speech took too long.",
}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI page: how a route refuses, beside 401 and 403."""
    return {
        status: {"model": ErrorAnswer, "description": ERRORS[status]}
        for status in (401, 403, *statuses)
    }


def speech_routes(service: Service) -> APIRouter:
    """The route, for an app to include."""
    router = APIRouter(tags=["speech"])

    @router.post(
        "/v1/audio/speech",
        status_code=200,
        response_class=Response,
        responses={200: AUDIO, **answers(400, 408, 413, 415, 429, 500, 503, 504)},
        openapi_extra={"requestBody": speech_body()},
    )
    async def create_speech(request: Request) -> Delivery:
        """Speaks a text: OpenAI's API, and more."""
        begun = time.perf_counter()
        deadline = asyncio.get_running_loop().time() + service.settings.request_seconds
        try:
            return await _prepare(service, request, begun, deadline)
        except Exception as error:
            service.metrics.requests.labels(describe(error).code).inc()
            raise

    return router


async def _prepare(service: Service, request: Request, begun: float, deadline: float) -> Delivery:
    """Reads the request and queues the speech."""
    service.check_ready()
    with service.place():
        wanted, upload = await read_request(request)
        who = await service.speaker(wanted, upload)
        talk = await service.speak(wanted.input, **who, **wanted.options())
    return Delivery(
        Recital(service, talk, begun),
        wanted,
        sample_rate=service.engine.model.sample_rate,
        deadline=deadline,
    )


async def read_request(request: Request) -> tuple[SpeechRequest, bytes | None]:
    """The request's fields, and the reference if it was uploaded.

    Raises:
        ValidationError: a field is missing, unknown or wrong.
        Refusal: the body is of another kind.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return SpeechRequest.model_validate_json(await request.body(), strict=True), None
    if kind != "multipart/form-data":
        message = "send the request as application/json or as multipart/form-data"
        raise Refusal(415, "bad_media_type", message)
    async with request.form(max_files=1) as form:
        fields = dict(form)
        upload = fields.get("ref_audio")
        data = None
        if isinstance(upload, UploadFile):
            data = await upload.read()
            del fields["ref_audio"]
        return SpeechRequest.model_validate(fields), data
