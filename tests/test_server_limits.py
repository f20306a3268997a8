"""What the server refuses, and how it ends: no client can take more than its share, or it down."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import ENDLESS, idle, live, until, wav

from voxtral_jax import Model
from voxtral_jax.errors import AudioError, RequestError
from voxtral_jax.serving.engine import Engine
from voxtral_jax.serving.settings import EngineSettings

for package in ("av", "fastapi_offline", "httpx2", "prometheus_client", "python_multipart"):
    pytest.importorskip(package, reason="needs voxtral-jax[serve]")

import httpx2  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from starlette.testclient import WebSocketDenialResponse  # noqa: E402
from starlette.types import Message  # noqa: E402

from voxtral_jax.serving.http.app import create_app  # noqa: E402
from voxtral_jax.serving.http.conversation import PATH  # noqa: E402
from voxtral_jax.serving.http.failures import Refusal, refuse  # noqa: E402
from voxtral_jax.serving.http.fetching import Fetcher, is_public  # noqa: E402
from voxtral_jax.serving.http.references import decode_reference, read_data_uri  # noqa: E402
from voxtral_jax.serving.http.settings import ServerSettings  # noqa: E402

SPEECH, VOICES = "/v1/audio/speech", "/v1/audio/voices"
SHORT = {"input": "Hello there.", "max_seconds": 0.4, "response_format": "pcm"}
LONG = {"input": ENDLESS, "response_format": "pcm", "stream": True}
SMALL = EngineSettings(
    slots=1, chunk_frames=(2,), most_waiting=1, longest_prompt=192, longest_part=40.0
)
NOISE = (0.1 * np.random.default_rng(0).standard_normal(48_000)).astype(np.float32)


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[Engine]:
    with Engine(model, SMALL) as engine:
        yield engine


@pytest.fixture(autouse=True)
def nothing_is_left(engine: Engine) -> Iterator[None]:
    yield
    until(lambda: idle(engine))
    assert engine.status.failures == 0


@contextmanager
def kept_busy(engine: Engine) -> Iterator[None]:
    """Holds the only slot."""
    talk = engine.speak(ENDLESS)
    until(lambda: engine.status.busy == 1)
    try:
        yield
    finally:
        talk.cancel()


def client(engine: Engine, **settings: object) -> TestClient:
    return TestClient(create_app(engine, ServerSettings(**settings)))


def refusal(app: TestClient, **options: Any) -> tuple[int, str]:
    """How a WebSocket's handshake is answered."""
    with pytest.raises(WebSocketDenialResponse) as caught, app.websocket_connect(PATH, **options):
        pass
    return caught.value.status_code, caught.value.json()["error"]["code"]


# Who may call


def test_the_key_is_asked_for_everywhere_but_where_machines_look(engine: Engine) -> None:
    locked = client(engine, api_key="secret")
    for path in (SPEECH, VOICES, "/v1/models"):
        for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic secret"}):
            answer = locked.get(path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "bad_key")
    assert locked.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
    for path in ("/", "/health", "/ready", "/metrics", "/docs", "/openapi.json"):
        assert locked.get(path).status_code == 200
    assert "HTTPBearer" in locked.get("/openapi.json").json()["components"]["securitySchemes"]
    assert refusal(locked) == (401, "bad_key")
    with locked.websocket_connect(PATH, subprotocols=["voxtral", "voxtral-key.secret"]) as socket:
        assert socket.accepted_subprotocol == "voxtral"
        assert socket.receive_json()["type"] == "ready"


def test_the_key_is_asked_for_also_where_the_app_is_mounted(engine: Engine) -> None:
    outer = FastAPI()
    outer.mount("/tts", create_app(engine, ServerSettings(api_key="secret\n")))
    mounted = TestClient(outer)
    assert mounted.get("/tts/v1/models").status_code == 401
    key = {"Authorization": "Bearer secret"}
    assert mounted.get("/tts/v1/models", headers=key).status_code == 200
    assert mounted.get("/tts/health").status_code == 200


def test_pages_of_other_origins_may_not_call_unless_allowed(engine: Engine) -> None:
    other = {"Origin": "https://example.org"}
    app = client(engine)
    assert app.get(VOICES, headers=other).json()["error"]["code"] == "bad_origin"
    assert app.get(VOICES, headers={"Origin": "http://testserver"}).status_code == 200
    for origin in ("null", "http://["):
        assert app.get(VOICES, headers={"Origin": origin}).json()["error"]["code"] == "bad_origin"
    assert refusal(app, headers=other) == (403, "bad_origin")
    allowed = client(engine, origins=("https://example.org",)).get(VOICES, headers=other)
    assert allowed.headers["access-control-allow-origin"] == "https://example.org"


# How much


def test_a_body_is_cut_off_at_its_limit_whatever_it_says_of_its_length(engine: Engine) -> None:
    app = client(engine, largest_reference=1000)
    large = b" " * 2**21
    pieces = iter([large[: 2**19]] * 4)
    for content in (large, pieces):
        answer = app.post(SPEECH, content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    answer = app.post(VOICES, data={"name": "a", "consent": "b"}, files={"audio": large})
    assert answer.status_code == 413


def test_a_body_that_does_not_come_is_not_waited_for(engine: Engine) -> None:
    with live(create_app(engine, ServerSettings(upload_seconds=0.2))) as (url, _):
        host, port = url.removeprefix("http://").split(":")

        async def dawdle() -> bytes:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                f"POST {SPEECH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                "Content-Length: 100\r\n\r\n{".encode()
            )
            answer = await reader.readuntil(b"}}")
            writer.close()
            return answer

        assert asyncio.run(dawdle()).startswith(b"HTTP/1.1 408")


def test_requests_beyond_the_queue_are_told_when_to_come_back(engine: Engine) -> None:
    with live(create_app(engine)) as (url, _), httpx2.Client(base_url=url, timeout=120) as caller:
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(caller.post(SPEECH, json=SHORT)))
        with kept_busy(engine):
            waiting.start()
            until(lambda: engine.status.waiting == 1)
            answer = caller.post(SPEECH, json=SHORT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
        waiting.join()
        assert answers[0].status_code == 200


def test_requests_being_read_are_counted_too(engine: Engine) -> None:
    app = create_app(engine, ServerSettings(most_open=1))
    with app.state.service.place():
        answer = TestClient(app).post(SPEECH, json=SHORT)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
    assert TestClient(app).post(SPEECH, json=SHORT).status_code == 200


# How long


@pytest.mark.parametrize("how", [{"stream": False}, {"stream": True}, {"stream_format": "sse"}])
def test_a_speech_that_takes_too_long_frees_its_slot(engine: Engine, how: dict) -> None:
    with live(create_app(engine, ServerSettings(request_seconds=2.0))) as (url, _):
        try:
            answer = httpx2.post(url + SPEECH, json={**LONG, **how}, timeout=120)
        except httpx2.RemoteProtocolError:
            # Audio cannot say that it is a part; the connection can.
            assert how == {"stream": True}
        else:
            # A status before the first audio, an event after it.
            assert re.search(r'"code": ?"timeout"', answer.text.strip().split("\n\n")[-1])
            assert answer.status_code == 504 or "stream_format" in how
        until(lambda: idle(engine))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(engine: Engine, stream: bool) -> None:
    async def leave(url: str) -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=120) as caller:
            asking = asyncio.create_task(caller.post(SPEECH, json={**LONG, "stream": stream}))
            while not engine.status.busy:
                await asyncio.sleep(0.01)
            asking.cancel()

    with live(create_app(engine)) as (url, _):
        asyncio.run(leave(url))
        until(lambda: idle(engine))
        metrics = httpx2.get(url + "/metrics").text
    assert 'voxtral_requests_total{outcome="disconnected"} 1.0' in metrics


def test_a_client_that_leaves_while_it_waits_is_forgotten(engine: Engine) -> None:
    with live(create_app(engine)) as (url, _), kept_busy(engine):
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(url + SPEECH, json=SHORT, timeout=0.5)
        until(lambda: engine.status.waiting == 0)


# How it ends


def test_what_runs_is_finished_when_the_server_is_told_to_end(engine: Engine) -> None:
    app = create_app(engine)
    with live(app) as (url, server), httpx2.Client(base_url=url, timeout=120) as caller:
        request = {**LONG, "max_seconds": 3}
        with caller.stream("POST", SPEECH, json=request) as answer:
            app.state.service.draining = server.should_exit = True
            audio = b"".join(answer.iter_raw())
        assert len(audio) > 0
        with pytest.raises(httpx2.TransportError):
            until(lambda: httpx2.get(url + "/health") is None)


def test_a_draining_server_refuses_what_is_new(engine: Engine) -> None:
    app = create_app(engine)
    app.state.service.draining = True
    ending = TestClient(app)
    assert ending.get("/health").status_code == 200
    assert ending.get("/ready").status_code == 503
    answer = ending.post(SPEECH, json=SHORT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert answer.headers["retry-after"]
    assert refusal(ending) == (503, "not_ready")


def test_a_conversation_beyond_the_most_is_told_to_wait(engine: Engine) -> None:
    app = client(engine, most_sockets=1)
    with app.websocket_connect(PATH) as socket:
        assert socket.receive_json()["type"] == "ready"
        assert refusal(app) == (429, "busy")
    with app.websocket_connect(PATH) as socket:
        assert socket.receive_json()["type"] == "ready"


def test_a_server_that_cannot_say_why_closes_a_refused_handshake() -> None:
    sent = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    asyncio.run(refuse(Refusal(401, "bad_key", "no"), {"type": "websocket"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_an_engine_that_is_closed_is_not_ready(model: Model) -> None:
    starting = client(Engine(model, SMALL))
    assert starting.get("/ready").status_code == 503
    assert starting.post(SPEECH, json=SHORT).json()["error"]["code"] == "not_ready"


def test_an_engine_that_broke_is_not_healthy(model: Model, monkeypatch) -> None:
    def no_slots(*arguments: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("voxtral_jax.serving.engine.warm_up", lambda *arguments: None)
    monkeypatch.setattr("voxtral_jax.serving.engine.Scheduler.__init__", no_slots)
    with Engine(model, SMALL) as engine:
        until(lambda: engine.status.broken)
        app = client(engine)
        for path in ("/health", "/ready"):
            answer = app.get(path)
            assert answer.status_code == 503
            assert "started anew" in answer.json()["error"]["message"]


SERVE = """
import sys
from voxtral_jax import load_model
from voxtral_jax.serving.engine import Engine
from voxtral_jax.serving.settings import EngineSettings
from voxtral_jax.serving.http.settings import ServerSettings
from voxtral_jax.serving.http.command import run

sizes = EngineSettings(slots=1, chunk_frames=(2,), longest_prompt=192, longest_part=40.0)
settings = ServerSettings(most_sockets=2)
run(Engine(load_model(sys.argv[1]), sizes), settings, "127.0.0.1", int(sys.argv[2]))
"""


def rest_of(line: Any) -> tuple[list[str], int]:
    """What a conversation still tells, errors by their code, and how it is closed."""
    from websockets.exceptions import ConnectionClosed

    told = []
    with suppress(ConnectionClosed):
        for message in line:
            told += [json.loads(message)] if isinstance(message, str) else []
    kinds = [one["error"]["code"] if "error" in one else one["type"] for one in told]
    return kinds, line.close_code


def test_sigterm_lets_speeches_and_conversations_end(reference: Path, tmp_path: Path) -> None:
    import socket

    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, str(reference), str(port)]
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("w+") as log:
        server = subprocess.Popen(command, stderr=log, stdout=log)
        try:

            def answers(path: str) -> bool:
                assert server.poll() is None, (tmp_path / "log").read_text()
                try:
                    return httpx2.get(url + path, timeout=30).status_code == 200
                except httpx2.TransportError:
                    return False

            until(lambda: answers("/health"), 300, every=0.5)
            until(lambda: answers("/ready"), 600, every=0.5)
            request = {**LONG, "max_seconds": 2}
            conversation = url.replace("http", "ws", 1) + PATH
            with (
                connect(conversation) as silent,
                connect(conversation) as line,
                httpx2.stream("POST", url + SPEECH, json=request, timeout=120) as answer,
            ):
                with pytest.raises(InvalidStatus) as refused:
                    connect(conversation)
                assert refused.value.response.status_code == 429
                line.send('{"type": "options", "max_seconds": 0.4}')
                # The only slot is taken: these sentences wait, and the last one is not complete.
                line.send('{"type": "text", "text": "Hello there. How are you? I have"}')
                for kind in ("ready", "sentence"):
                    assert json.loads(line.recv())["type"] == kind
                server.send_signal(signal.SIGTERM)
                until(lambda: not answers("/ready"), every=0.05)
                line.send('{"type": "text", "text": " seen it. And more."}')
                audio = b"".join(answer.iter_raw())
                assert len(audio) > 0
                assert rest_of(silent) == (["ready"], 1012)
                kinds, code = rest_of(line)
                assert sorted(kinds) == ["not_ready", "sentence", *2 * ["sentence.done"]]
                assert code == 1012
            assert server.wait(120) in (0, -signal.SIGTERM)
            told = (tmp_path / "log").read_text()
            assert "Traceback" not in told
            assert "ERROR" not in told
        finally:
            server.kill()


# References


def test_references_are_measured_while_they_are_decoded() -> None:
    bomb = wav(np.zeros(24_000 * 600, np.int16), format="FLAC")
    assert len(bomb) < 100_000
    with pytest.raises(AudioError, match="lasts more than 60 s"):
        decode_reference(bomb, ServerSettings())
    # The header of a stream claims four gigabytes; what is there counts.
    claims = bytearray(wav(NOISE))
    claims[4:8] = claims[40:44] = b"\xff\xff\xff\xff"
    samples, rate = decode_reference(bytes(claims), ServerSettings())
    assert (len(samples), rate) == (48_000, 24_000)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "cannot be read"),
        (b"This is a text that was renamed to a.wav.", "cannot be read"),
        (wav(NOISE)[:30], "cannot be read"),
        (wav(NOISE)[:44], "no audio"),
        (wav(NOISE * np.nan, subtype="FLOAT"), "not finite"),
        (wav(NOISE * np.inf, subtype="FLOAT"), "not finite"),
        (wav(NOISE[:160].reshape(10, 16)), "16 channels"),
        (wav(NOISE, 400_000), "400000 Hz"),
        (wav(NOISE, format="AU"), "not AU"),
    ],
)
def test_files_that_are_no_reference_are_refused(file: bytes, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        decode_reference(file, ServerSettings())


def test_data_uris_are_checked() -> None:
    assert read_data_uri("data:audio/wav;base64,aGk=", 2) == b"hi"
    for uri in ("data:audio/wav,hi", "data:;base64", "data:;base64,a", "data:;base64,aGk=!"):
        with pytest.raises(AudioError, match="data URI"):
            read_data_uri(uri, 100)
    with pytest.raises(AudioError, match="more than 100 bytes"):
        read_data_uri("data:;base64," + "aaaa" * 100, 100)


# Fetching


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
def test_addresses_within_are_not_public(address: str) -> None:
    assert not is_public(address)


def fetch(url: str, answers: dict[str, httpx2.Response], addresses: dict[str, str]) -> bytes:
    """Fetches from an internet of a few hosts, of which two are allowed."""

    async def resolve(host: str, port: int) -> list[str]:
        return addresses[host].split()

    def answer(request: httpx2.Request) -> httpx2.Response:
        # What is connected to is an address that was checked, with the host's name in TLS.
        host = request.extensions["sni_hostname"]
        assert request.url.host in addresses[host].split()
        assert request.headers["host"] == host
        return answers[f"{host}{request.url.path}"]

    transport = httpx2.MockTransport(answer)
    fetcher = Fetcher(("a.org", "b.org"), 100, 5.0, resolve, transport)
    return asyncio.run(fetcher(url))


PUBLIC = {"a.org": "93.184.216.34", "b.org": "2606:2800:220:1::1"}


def file(content: bytes) -> httpx2.Response:
    return httpx2.Response(200, stream=httpx2.ByteStream(content))


def to(url: str) -> httpx2.Response:
    return httpx2.Response(302, headers={"Location": url})


def test_an_allowed_file_is_fetched_also_through_redirects() -> None:
    answers = {"a.org/x": to("https://b.org/y"), "b.org/y": file(b"hi")}
    assert fetch("https://a.org/x", answers, PUBLIC) == b"hi"


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.org/x",
        "https://a.org@evil.org/x",
        "https://a.org:8443/x",
        "https://a.org.evil.org/x",
        "ftp://a.org/x",
        "https:///x",
        "https://[/x",
    ],
)
def test_hosts_that_are_not_listed_are_refused_also_in_redirects(url: str) -> None:
    with pytest.raises(RequestError):
        fetch(url, {}, PUBLIC)
    with pytest.raises((RequestError, AudioError)):
        fetch("https://a.org/x", {"a.org/x": to(url)}, PUBLIC)


@pytest.mark.parametrize("address", ["127.0.0.1", "93.184.216.34 10.0.0.1", "::ffff:10.0.0.1"])
def test_a_listed_host_with_a_private_address_is_refused(address: str) -> None:
    with pytest.raises(RequestError, match="not public"):
        fetch("https://a.org/x", {}, {"a.org": address})
    answers = {"a.org/x": to("https://b.org/y")}
    with pytest.raises(RequestError, match="not public"):
        fetch("https://a.org/x", answers, {**PUBLIC, "b.org": address})


def test_localhost_is_refused_by_the_systems_own_resolver(engine: Engine) -> None:
    answer = client(engine, url_hosts=("localhost",)).post(
        SPEECH, json={**SHORT, "ref_audio": "http://localhost/x.wav"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
    assert "not public" in answer.json()["error"]["message"]


def test_what_cannot_be_fetched_is_refused() -> None:
    large = file(b"x" * 101)
    with pytest.raises(AudioError, match="more than 100 bytes"):
        fetch("https://a.org/x", {"a.org/x": large}, PUBLIC)
    with pytest.raises(AudioError, match="status 404"):
        fetch("https://a.org/x", {"a.org/x": httpx2.Response(404)}, PUBLIC)
    with pytest.raises(AudioError, match="redirects more than 3 times"):
        fetch("https://a.org/x", {"a.org/x": to("/x")}, PUBLIC)
