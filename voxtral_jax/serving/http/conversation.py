"""`/v1/audio/speech/ws`: text comes in as it is written, its sentences are spoken as they end."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from voxtral_jax.audio import pcm
from voxtral_jax.errors import BusyError, ClosedError, RequestError
from voxtral_jax.serving.http.failures import RETRY_SECONDS, Refusal, describe, refuse
from voxtral_jax.serving.http.recital import Recital
from voxtral_jax.serving.http.schemas import Manner
from voxtral_jax.serving.http.sentences import Sentence, Sentences
from voxtral_jax.serving.http.service import Service

PATH = "/v1/audio/speech/ws"
PROTOCOL = "voxtral"
"""Subprotocol that is chosen where a client offers any: browsers that send a key must."""
SERVICE_RESTART = 1012
"""Close code: the server ends, connect elsewhere."""
log = logging.getLogger(__name__)


class OptionsMessage(Manner):
    """How all that follows is spoken."""

    type: Literal["options"]


class TextMessage(BaseModel):
    """More text; it may end within a word."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class OrderMessage(BaseModel):
    """flush: speak what there is; cancel: stop and forget all; end: flush, then close."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["flush", "cancel", "end"]


MESSAGES: TypeAdapter[OptionsMessage | TextMessage | OrderMessage] = TypeAdapter(
    Annotated[OptionsMessage | TextMessage | OrderMessage, Field(discriminator="type")]
)


class Conversation:
    """One connection: a task reads what the client sends, another speaks sentence by sentence.

    Args:
        service: speaks.
        socket: accepted.
    """

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service = service
        self._socket = socket
        self._sentences = Sentences()
        self._manner: dict[str, Any] = {}
        self._queue: asyncio.Queue[Sentence | None] = asyncio.Queue()
        self._queued = 0
        self._number = 0
        self._finishing = asyncio.Event()
        self._cutting = asyncio.Lock()

    def finish(self) -> None:
        """Speaks the sentences that are complete, takes nothing more, and closes."""
        self._finishing.set()

    async def run(self) -> None:
        """Until the client ends it or leaves, or it is told to finish."""
        await self._tell(
            "ready", sample_rate=self._service.engine.model.sample_rate, format="pcm_s16le"
        )
        speaking = asyncio.create_task(self._speak_all())
        reading = asyncio.create_task(self._read())
        finishing = asyncio.create_task(self._finishing.wait())
        ended = closing = False
        try:
            while True:
                # Also after the end the client can cancel, or leave.
                awaited = {reading, speaking if closing else finishing}
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                order = None
                if reading.done():
                    order = reading.result()
                    reading = asyncio.create_task(self._read())
                elif closing:
                    break
                if order == "cancel":
                    await _stop(speaking)
                    self._forget()
                    await self._tell("cancelled")
                    speaking = asyncio.create_task(self._speak_all())
                ended |= order == "end"
                closing = ended or finishing.done()
                if closing:
                    async with self._cutting:  # what is being cut comes before the end
                        self._queue.put_nowait(None)
            if ended:
                await self._tell("done")
                await self._socket.close()
            else:
                await self._socket.close(SERVICE_RESTART, "the server is ending")
        finally:
            await _stop(finishing, reading, speaking)

    async def _read(self) -> str | None:
        """Acts on the next message; returns what concerns the whole conversation."""
        try:
            async with asyncio.timeout(self._service.settings.request_seconds):
                text = await self._socket.receive_text()
        except TimeoutError:
            await self._fail(Refusal(408, "silence", "nothing was sent for too long"))
            return "end"
        except KeyError:
            await self._fail(RequestError("messages are JSON in text frames, not binary ones"))
            return None
        try:
            message = MESSAGES.validate_json(text, strict=True)
            if message.type != "cancel":
                self._service.check_ready()
            if isinstance(message, OptionsMessage):
                who = await self._service.speaker(message)
                self._manner = who | message.options()
                self._sentences.language = message.language
            elif isinstance(message, TextMessage):
                self._check_room(message.text)
                await self._enqueue(self._sentences.push, message.text)
            elif message.type == "cancel":
                return "cancel"
            else:
                await self._enqueue(self._sentences.flush)
                return message.type
        except Exception as error:
            await self._fail(error)
        return None

    def _check_room(self, text: str) -> None:
        most = self._service.engine.settings.longest_text
        if self._queued + len(self._sentences.rest) + len(text) > most:
            message = f"more than {most} characters are waiting to be spoken; send less ahead"
            raise Refusal(429, "too_much_text", message, "text")

    async def _enqueue(self, cut: Any, *text: str) -> None:
        async with self._cutting:
            for sentence in await self._service.in_thread(cut, *text):
                self._queued += len(sentence.text)
                self._queue.put_nowait(sentence)

    def _forget(self) -> None:
        self._sentences.forget()
        self._queue = asyncio.Queue()
        self._queued = 0

    async def _speak_all(self) -> None:
        while (sentence := await self._queue.get()) is not None:
            self._queued -= len(sentence.text)
            self._number += 1
            try:
                async with asyncio.timeout(self._service.settings.request_seconds):
                    await self._speak(sentence)
            except WebSocketDisconnect:
                return
            except TimeoutError:
                error = Refusal(504, "timeout", "the sentence took too long")
                await self._fail(error, number=self._number)
            except Exception as error:
                await self._fail(error, number=self._number)

    async def _speak(self, sentence: Sentence) -> None:
        begun = time.perf_counter()
        outcome = "cancelled"
        talk = await self._service.speak(
            sentence.text, **self._manner | {"language": sentence.language}
        )
        recital = Recital(self._service, talk, begun)
        try:
            await self._tell("sentence", number=self._number, text=sentence.text)
            async for samples in recital.samples():
                await self._socket.send_bytes(pcm(samples))
            outcome = recital.finish_reason or outcome
            await self._tell(
                "sentence.done",
                number=self._number,
                finish_reason=outcome,
                seconds=round(recital.seconds, 3),
            )
        except WebSocketDisconnect:
            outcome = "disconnected"
            raise
        except Exception as error:
            outcome = describe(error).code
            raise
        finally:
            recital.end(outcome)

    async def _tell(self, kind: str, **fields: Any) -> None:
        await self._socket.send_json({"type": kind, **fields})

    async def _fail(self, error: Exception, **fields: Any) -> None:
        failure = describe(error)
        if failure.status == 500:
            log.error("a conversation went wrong", exc_info=error)
        await self._tell("error", error=failure.error, **fields)


async def _stop(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and waits until they are over, however they end."""
    for task in tasks:
        task.cancel()
    # Not `gather`: cancelled meanwhile, it would pass its tasks' cancellation on as its own.
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


def conversation_routes(service: Service) -> APIRouter:
    """The route, for an app to include."""
    router = APIRouter()

    @router.websocket(PATH)
    async def converse(socket: WebSocket) -> None:
        try:
            service.check_ready()
            if len(service.conversations) >= service.settings.most_sockets:
                message = f"{len(service.conversations)} conversations are open, which is the most"
                raise BusyError(message, retry_after=RETRY_SECONDS)
        except (BusyError, ClosedError) as error:
            await refuse(error, socket.scope, socket.receive, socket.send)
            return
        conversation = Conversation(service, socket)
        service.conversations.add(conversation)
        try:
            offered = socket.scope.get("subprotocols", [])
            await socket.accept(PROTOCOL if PROTOCOL in offered else None)
            await conversation.run()
        except WebSocketDisconnect:
            pass
        finally:
            service.conversations.remove(conversation)

    return router
