"""Whatever is sent, the server answers as its OpenAPI page says, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from serving import idle, until, wav

from voxtral_jax import Model
from voxtral_jax.serving.engine import Engine
from voxtral_jax.serving.settings import EngineSettings

for package in ("av", "fastapi_offline", "httpx2", "prometheus_client", "python_multipart"):
    pytest.importorskip(package, reason="needs voxtral-jax[serve]")
schemathesis = pytest.importorskip("schemathesis", reason="needs the package schemathesis")

from fastapi.testclient import TestClient  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from voxtral_jax.serving.http.app import create_app  # noqa: E402
from voxtral_jax.serving.http.settings import ServerSettings  # noqa: E402

SPEECH, VOICES = "/v1/audio/speech", "/v1/audio/voices"
SMALL = EngineSettings(
    slots=1, chunk_frames=(2,), longest_text=40, longest_prompt=192, longest_part=40.0
)
RANDOM = np.random.default_rng(0)
NOISE = (0.1 * RANDOM.standard_normal(36_000)).astype(np.float32)


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[Engine]:
    with Engine(model, SMALL) as engine:
        yield engine


@pytest.fixture(scope="module")
def app(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Any:
    kept = tmp_path_factory.mktemp("voices")
    return create_app(engine, ServerSettings(voices=kept, request_seconds=60))


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.parametrize("mode", GenerationMode)
def test_requests_as_described_and_otherwise_are_answered_as_described(app, mode) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode == GenerationMode.NEGATIVE and not operation.body:
            continue  # there is nothing that could be wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=12,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, timeout=300)

        check()


def damaged(file: bytes, seed: int) -> bytes:
    """The file with a few of its first bytes replaced."""
    random = np.random.default_rng(seed)
    data = bytearray(file)
    for place in random.integers(0, min(len(data), 120), 8):
        data[place] = random.integers(256)
    return bytes(data)


REFUSED = {
    "nothing": b"",
    "text": b"Dear sir or madam, this is a letter." * 100,
    "cut header": wav(NOISE)[:40],
    "cut flac": wav(NOISE, format="FLAC")[:5000],
    "ten minutes of silence": wav(np.zeros(24_000 * 600, np.int16), format="FLAC"),
    "silence": wav(np.zeros(36_000, np.float32)),
    "not a number": wav(NOISE * np.nan, subtype="FLOAT"),
    "infinite": wav(NOISE * np.inf, subtype="FLOAT"),
    "one sample": wav(NOISE[:1]),
    "many channels": wav(NOISE.reshape(-1, 100)),
    "a zip": b"PK\x03\x04" + bytes(1000),
    "a playlist": b"#EXTM3U\nfile:///etc/passwd\n",
}
HARMLESS = {
    "lengths of 4 GB": wav(NOISE)[:40] + b"\xff\xff\xff\xff" + wav(NOISE)[44:],
    "huge": wav(NOISE * 1e38, subtype="FLOAT"),
    **{f"damaged wav {i}": damaged(wav(NOISE), i) for i in range(8)},
    **{f"damaged flac {i}": damaged(wav(NOISE, format="FLAC"), i) for i in range(8)},
    **{f"damaged mp3 {i}": damaged(wav(NOISE, format="MP3"), i) for i in range(8)},
    **{f"damaged ogg {i}": damaged(wav(NOISE, format="OGG"), i) for i in range(8)},
}


@pytest.mark.filterwarnings("ignore:the reference has")
@pytest.mark.parametrize("kind", REFUSED | HARMLESS)
def test_hostile_audio_is_refused_or_cloned_and_nothing_breaks(app, engine, kind: str) -> None:
    client = TestClient(app)
    asked = {"input": "Yes.", "max_seconds": 0.2, "response_format": "pcm"}
    answer = client.post(
        SPEECH, data=asked, files={"ref_audio": ("me.wav", (REFUSED | HARMLESS)[kind])}
    )
    if kind in REFUSED:
        assert answer.status_code == 400
    assert answer.status_code in (200, 400), answer.content[:300]
    if answer.status_code == 400:
        assert answer.json()["error"]["code"] == "bad_audio"
    until(lambda: idle(engine))
    assert engine.status.alive
    assert engine.status.failures == 0


HEADERS = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"input": ' + b"[" * 100_000,
        b'{"input": "\\ud800"}',
        b'{"input": "\xff\xfe"}',
        b'{"input": "Yes.", "seed": 1e400}',
        b'{"input": "Yes.", "guidance": NaN}',
        b'{"input": "Yes.", "guidance": 1e400}',
        b'{"input": "Yes.", "seed": ' + b"9" * 10_000 + b"}",
        b'{"input": "Yes.", "voice": {"id": null}}',
        b'{"input": "Yes.", "voice": "a\\u0000b"}',
        b'{"input": "Yes.", "ref_audio": ""}',
        b'{"input": "Yes.", "language": "' + b"x" * 10_000 + b'"}',
        b'{"input": "Yes.", "language": "../../x"}',
    ],
)
def test_hostile_json_is_refused(app: Any, body: bytes) -> None:
    answer = TestClient(app).post(SPEECH, content=body, headers=HEADERS)
    assert answer.status_code == 400, answer.content[:300]
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data", "x", "", "multipart/form-data; boundary=\xff"]
)
def test_bodies_of_other_kinds_are_refused(app: Any, kind: str) -> None:
    headers = {"Content-Type": kind.encode("latin-1")}
    for path in (SPEECH, VOICES):
        answer = TestClient(app).post(path, content=b"--x\r\n\r\n", headers=headers)
        assert answer.status_code in (400, 415), answer.content[:300]
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "a/b", "a\\b", "a\0b", "x" * 65, "", " ", "a.b", "ä"]
)
def test_names_cannot_leave_the_directory(app: Any, name: str) -> None:
    client = TestClient(app)
    kept = Path(app.state.service.settings.voices)
    before = sorted(kept.parent.rglob("*"))
    fields = {"name": name, "consent": "I agree."}
    answer = client.post(VOICES, data=fields, files={"audio": ("a.wav", wav(NOISE))})
    assert answer.status_code == 400, answer.content[:300]
    asked = {"input": "Yes.", "voice": name}
    assert client.post(SPEECH, json=asked).status_code == 400
    assert sorted(kept.parent.rglob("*")) == before
