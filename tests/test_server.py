"""The server as clients see it: speech in every format and way, voices, conversations."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from serving import ENDLESS, SETTINGS, idle, live, samples_of, until

import voxtral_jax as vx
from voxtral_jax import Model
from voxtral_jax.serving.engine import Engine
from voxtral_jax.voice import Voice
from voxtral_jax.watermark import embed

for package in ("av", "fastapi_offline", "httpx2", "prometheus_client", "python_multipart"):
    pytest.importorskip(package, reason="needs voxtral-jax[serve]")

import av  # noqa: E402
import httpx2  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from voxtral_jax.serving.http.app import create_app  # noqa: E402
from voxtral_jax.serving.http.conversation import PATH, SERVICE_RESTART  # noqa: E402
from voxtral_jax.serving.http.encoding import CODINGS  # noqa: E402
from voxtral_jax.serving.http.sentences import Sentence, Sentences  # noqa: E402
from voxtral_jax.serving.http.settings import ServerSettings  # noqa: E402

SPEECH, VOICES = "/v1/audio/speech", "/v1/audio/voices"
TEXT = "Hello there."
SHORT = {"max_seconds": 0.8, "seed": 3}
CONSENT = "I am the speaker, and I agree."


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[Engine]:
    with Engine(model, SETTINGS) as engine:
        yield engine


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("voices")


@pytest.fixture(scope="module")
def client(engine: Engine, voices: Path) -> Iterator[TestClient]:
    with TestClient(create_app(engine, ServerSettings(voices=voices, watermark=False))) as client:
        yield client


@pytest.fixture(scope="module")
def spoken(model: Model) -> vx.Speech:
    return vx.synthesize(model, TEXT, **SHORT)


def same(audio: bytes, speech: vx.Speech) -> None:
    """Raw PCM holds the speech, within a step of 16 bits and what sums in another order differ."""
    np.testing.assert_allclose(samples_of(audio), np.clip(speech.samples, -1, 1), atol=1e-4)


def ask(client: TestClient, **fields: object) -> httpx2.Response:
    return client.post(SPEECH, json={"input": TEXT, **SHORT, **fields})


def decode(audio: bytes) -> tuple[np.ndarray, int]:
    with av.open(io.BytesIO(audio)) as file:
        frames = [frame.to_ndarray() for frame in file.decode(audio=0)]
        return np.concatenate(frames, axis=1)[0], file.streams.audio[0].rate


@pytest.mark.parametrize("format", CODINGS)
def test_a_file_of_each_format_holds_the_speech(client, spoken, format: str) -> None:
    answer = ask(client, response_format=format)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == CODINGS[format].media_type
    assert answer.headers["x-finish-reason"] == spoken.finish_reason
    assert answer.headers["x-sample-rate"] == "24000"
    assert float(answer.headers["x-audio-seconds"]) == pytest.approx(spoken.seconds)
    if format == "pcm":
        same(answer.content, spoken)
        return
    samples, rate = decode(answer.content)
    # Encoders that lose some also add some at both ends.
    assert len(samples) / rate == pytest.approx(spoken.seconds, abs=0.1)
    if format in ("wav", "flac"):
        same(samples.tobytes(), spoken)


@pytest.mark.parametrize("format", CODINGS)
def test_a_stream_of_each_format_holds_the_same(client, format: str) -> None:
    whole = ask(client, response_format=format)
    with client.stream(
        "POST", SPEECH, json={"input": TEXT, **SHORT, "response_format": format, "stream": True}
    ) as answer:
        assert "content-length" not in answer.headers
        streamed = b"".join(answer.iter_raw())
    if format == "pcm":
        assert streamed == whole.content
    else:
        ours, theirs = decode(streamed)[0], decode(whole.content)[0]
        if format in ("wav", "flac"):
            np.testing.assert_array_equal(ours, theirs)
        assert abs(len(ours) - len(theirs)) < 0.1 * 48_000


def test_events_bring_audio_and_at_last_the_usage(client, spoken, model: Model) -> None:
    answer = ask(client, response_format="pcm", stream_format="sse")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(one.split("data: ")[1]) for one in answer.text.strip().split("\n\n")]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert len(deltas) > 1
    audio = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    assert audio == ask(client, response_format="pcm").content
    assert done["type"] == "speech.audio.done"
    assert done["finish_reason"] == spoken.finish_reason
    usage = done["usage"]
    assert usage["input_tokens"] == len(model.tokenizer.encode(TEXT, None))
    assert usage["output_tokens"] == len(spoken.codes)
    assert usage["total_tokens"] == usage["output_tokens"] + usage["input_tokens"]


def test_options_reach_the_engine(client, model: Model) -> None:
    options = {
        "seed": 5,
        "guidance": 2.0,
        "noise_scale": 0.5,
        "temperature": 0.8,
        "top_p": 0.9,
        "language": "de",
    }
    answer = ask(client, response_format="pcm", voice={"id": "de_male"}, **options)
    wanted = vx.synthesize(model, TEXT, voice="de_male", max_seconds=0.8, **options)
    same(answer.content, wanted)


def test_a_recording_is_cloned_however_it_comes(client, model: Model, reference: Path) -> None:
    file = (reference / "reference.wav").read_bytes()
    with pytest.warns(UserWarning, match="3 s"):
        wanted = vx.synthesize(model, TEXT, ref=reference / "reference.wav", **SHORT)
    uri = "data:audio/wav;base64," + base64.b64encode(file).decode()
    by_uri = ask(client, response_format="pcm", ref_audio=uri)
    by_form = client.post(
        SPEECH,
        data={"input": TEXT, "response_format": "pcm", **SHORT},
        files={"ref_audio": ("me.wav", file)},
    )
    for answer in (by_uri, by_form):
        assert answer.status_code == 200, answer.text
        same(answer.content, wanted)


def test_voices_are_kept_spoken_with_and_deleted(client, model, voices, reference) -> None:
    def add(name: str, **more: str) -> httpx2.Response:
        file = (reference / "reference.wav").read_bytes()
        fields = {"name": name, "consent": CONSENT, "language": "en", **more}
        return client.post(VOICES, data=fields, files={"audio": ("a.wav", file)})

    before = client.get(VOICES).json()["voices"]
    assert {voice["name"]: voice["preset"] for voice in before} == dict.fromkeys(model.voices, True)
    made = add("Me-2")
    assert made.status_code == 201, made.text
    assert made.json()["language"] == "en"
    assert made.json() in client.get(VOICES).json()["voices"]
    kept = Voice.load(voices / "Me-2.safetensors")
    assert kept.about.consent == CONSENT
    assert [file.name for file in voices.iterdir()] == ["Me-2.safetensors"]

    answer = ask(client, response_format="pcm", voice="Me-2")
    same(answer.content, vx.synthesize(model, TEXT, voice=kept, **SHORT))

    for name, status in (("Me-2", 409), ("de_male", 409), ("../x", 400), ("", 400)):
        assert add(name).status_code == status
    assert add("you", consent=" ").status_code == 400
    assert client.post(VOICES, data={"name": "you"}).json()["error"]["param"] == "audio"
    assert client.delete(f"{VOICES}/de_male").status_code == 403
    assert client.delete(f"{VOICES}/nobody").status_code == 404
    assert client.delete(f"{VOICES}/..%2FMe-2").status_code == 404
    assert client.delete(f"{VOICES}/Me-2").json() == {"name": "Me-2", "deleted": True}
    assert client.get(VOICES).json()["voices"] == before
    assert ask(client, voice="Me-2").status_code == 400


def test_a_server_without_a_directory_keeps_no_voices(engine, reference) -> None:
    client = TestClient(create_app(engine))
    answer = client.post(
        VOICES,
        data={"name": "me", "consent": CONSENT},
        files={"audio": (reference / "reference.wav").read_bytes()},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "voices_off")


def test_it_says_what_it_is_and_how_it_does(client, model: Model) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").status_code == 200
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["voxtral"]
    ask(client)
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }
    assert found["voxtral_requests_total"] >= 1
    assert found["voxtral_first_audio_seconds_count"] >= 1
    assert found["voxtral_real_time_factor_count"] >= 1
    assert found["voxtral_frames_total"] >= 1
    assert (found["voxtral_slots"], found["voxtral_slots_busy"]) == (8, 0)


def test_the_page_and_the_api_page_need_no_other_host(client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert client.get("/page/page.js").status_code == 200
    docs = client.get("/docs").text
    assert "swagger-ui-bundle.js" in docs
    assert "https://" not in docs
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths[SPEECH]["post"]["requestBody"]["content"]) == {
        "application/json",
        "multipart/form-data",
    }
    assert "422" not in str(paths)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"voice": "alloy"}, "voice", "unknown voice 'alloy'"),
        ({"voice": "../de_male"}, "voice", "unknown voice"),
        ({"voice": "de_male", "ref_audio": "data:,"}, None, "not both"),
        ({"ref_audio": "https://example.org/me.wav"}, None, "fetches no references"),
        ({"ref_audio": "file:///etc/passwd"}, "ref_audio", "must be an upload, a data URI"),
        ({"ref_audio": "data:audio/wav;base64,!!"}, "ref_audio", "no base64"),
        ({"speed": 1.5}, "speed", "must be 1.0"),
        ({"instructions": "Whisper."}, "instructions", "takes none"),
        ({"response_format": "mp4"}, "response_format", "should be 'mp3'"),
        ({"input": ""}, "input", "at least 1 character"),
        ({"input": "..."}, "input", "nothing to speak"),
        ({"input": "x" * 20_000}, "input", "10000 are allowed"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": "3"}, "seed", "valid integer"),
        ({"guidance": 1e9}, None, "guidance must be from"),
        ({"steps": 3}, None, "steps, not 3"),
        ({"max_second": 3}, "max_second", "not permitted"),
    ],
)
def test_mistakes_are_named(client, fields, param, message) -> None:
    answer = ask(client, **fields)
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert message in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["code"]


def test_a_model_without_encoder_says_that_it_cannot_clone(model, reference) -> None:
    codec = {key: value for key, value in model.params["codec"].items() if key != "input_proj"}
    deaf = replace(model, params={**model.params, "codec": codec})
    assert not deaf.can_clone
    with Engine(deaf, SETTINGS) as engine, TestClient(create_app(engine)) as client:
        answer = client.post(SPEECH, data={"input": TEXT}, files={"ref_audio": b"never looked at"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "cannot_clone")
        assert "encoder" in answer.json()["error"]["message"]


def test_all_audio_is_marked_unless_that_is_turned_off(engine: Engine, spoken) -> None:
    marked = replace(spoken, samples=embed(spoken.samples, spoken.sample_rate))
    client = TestClient(create_app(engine))
    for stream in (True, False):
        same(ask(client, response_format="pcm", stream=stream).content, marked)
    with client.websocket_connect(PATH) as socket:
        for message in (
            {"type": "options", **SHORT},
            {"type": "text", "text": TEXT},
            {"type": "end"},
        ):
            socket.send_json(message)
        audio = b""
        while (message := socket.receive())["type"] != "websocket.close":
            audio += message.get("bytes") or b""
    same(audio, marked)


def test_sentences_are_cut_as_they_end() -> None:
    sentences = Sentences()
    text = "Dr. Smith came at 9.30. He said: hello! 🙂 And then? Nothing"
    found = [one.text for letter in text for one in sentences.push(letter)]
    assert found == ["Dr. Smith came at 9.30.", "He said: hello!", "🙂 And then?"]
    assert [one.text for one in sentences.flush()] == ["Nothing"]
    assert sentences.flush() == []


def test_short_sentences_are_in_the_language_of_the_others() -> None:
    sentences = Sentences()
    text = "Comment allez-vous aujourd'hui ? Très bien. Et moi aussi, je vous remercie. Merci !"
    found = [one for word in text.split() for one in sentences.push(f"{word} ")]
    found += sentences.flush()
    assert [one.text for one in found][1::2] == ["Très bien.", "Merci !"]
    assert {one.language for one in found} == {"fr"}
    sentences.forget()
    assert [one.language for one in sentences.push("Good morning. And now")] == ["en"]


def test_a_conversation_speaks_sentence_by_sentence(client, model: Model) -> None:
    texts = ["Hello there.", "How are you?"]
    with client.websocket_connect(PATH) as socket:
        ready = socket.receive_json()
        assert (ready["sample_rate"], ready["format"]) == (24_000, "pcm_s16le")
        socket.send_json({"type": "options", "voice": "de_male", **SHORT})
        for piece in ("Hello th", "ere. How ", "are you?"):
            socket.send_json({"type": "text", "text": piece})
        socket.send_json({"type": "end"})
        for number, text in enumerate(texts, 1):
            assert socket.receive_json() == {"type": "sentence", "number": number, "text": text}
            audio = b""
            while "bytes" in (message := socket.receive()):
                audio += message["bytes"]
            done = json.loads(message["text"])
            assert done["type"] == "sentence.done"
            wanted = vx.synthesize(model, text, voice="de_male", **SHORT)
            assert (done["number"], done["finish_reason"]) == (number, wanted.finish_reason)
            same(audio, wanted)
        assert socket.receive_json() == {"type": "done"}
        assert socket.receive()["type"] == "websocket.close"


def test_a_conversation_can_be_interrupted(client, engine: Engine) -> None:
    with client.websocket_connect(PATH) as socket:
        socket.receive_json()
        socket.send_json({"type": "text", "text": f"{ENDLESS} Never said. Nor this"})
        assert socket.receive_json()["type"] == "sentence"
        assert socket.receive_bytes()
        socket.send_json({"type": "cancel"})
        while "bytes" in (message := socket.receive()):
            pass
        assert json.loads(message["text"]) == {"type": "cancelled"}
        until(lambda: idle(engine))
        socket.send_json({"type": "options", **SHORT})
        socket.send_json({"type": "text", "text": "Yes?"})
        socket.send_json({"type": "flush"})
        assert socket.receive_json()["text"] == "Yes?"
        assert socket.receive_bytes()


def test_mistakes_do_not_end_a_conversation(client) -> None:
    with client.websocket_connect(PATH) as socket:
        socket.receive_json()
        for message in ("[", "{}", '{"type": "sing"}', '{"type": "options", "voice": "nobody"}'):
            socket.send_text(message)
            assert socket.receive_json()["error"]["type"] == "invalid_request_error"
        socket.send_bytes(b"\0")
        assert "text frames" in socket.receive_json()["error"]["message"]
        socket.send_json({"type": "text", "text": "word " * 3000})
        assert socket.receive_json()["error"]["code"] == "too_much_text"
        socket.send_json({"type": "end"})
        assert socket.receive_json() == {"type": "done"}


def test_what_is_being_cut_when_the_server_ends_is_spoken(engine: Engine, monkeypatch) -> None:
    begun, go_on, push = threading.Event(), threading.Event(), Sentences.push

    def slowly(sentences: Sentences, text: str) -> list[Sentence]:
        begun.set()
        assert go_on.wait(60)
        return push(sentences, text)

    monkeypatch.setattr(Sentences, "push", slowly)
    app = create_app(engine)
    with TestClient(app).websocket_connect(PATH) as socket:
        assert socket.receive_json()["type"] == "ready"
        socket.send_json({"type": "options", **SHORT})
        socket.send_json({"type": "text", "text": "Hello there. And"})
        assert begun.wait(60)
        (conversation,) = app.state.service.conversations
        socket.portal.call(conversation.finish)
        socket.portal.call(asyncio.sleep, 0.1)  # it is told now, and waits
        go_on.set()
        assert socket.receive_json()["text"] == "Hello there."
        while (message := socket.receive())["type"] != "websocket.close":
            pass
        assert message["code"] == SERVICE_RESTART


def test_leaving_a_conversation_frees_its_slot(client, engine: Engine) -> None:
    with client.websocket_connect(PATH) as socket:
        socket.receive_json()
        socket.send_json({"type": "text", "text": ENDLESS})
        socket.send_json({"type": "end"})
        socket.receive_json()
        socket.receive_bytes()
    until(lambda: idle(engine))


def test_the_openai_client_is_understood(engine: Engine, spoken: vx.Speech, tmp_path) -> None:
    openai = pytest.importorskip("openai", reason="needs the package openai")
    app = create_app(engine, ServerSettings(api_key="secret", watermark=False))
    with live(app) as (url, _), openai.OpenAI(base_url=f"{url}/v1", api_key="secret") as client:
        request = {"model": "tts-1", "voice": "neutral_female", "input": TEXT, "extra_body": SHORT}
        whole = client.audio.speech.create(**request, response_format="pcm")
        assert whole.response.headers["x-finish-reason"] == spoken.finish_reason
        same(whole.content, spoken)
        with client.audio.speech.with_streaming_response.create(
            **{**request, "extra_body": {**SHORT, "stream": True}}, response_format="wav"
        ) as response:
            response.stream_to_file(tmp_path / "a.wav")
        assert (tmp_path / "a.wav").read_bytes()[44:] == whole.content
        assert [one.id for one in client.models.list()] == ["voxtral"]
        with pytest.raises(openai.BadRequestError, match="unknown voice 'alloy'"):
            client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="guess").models.list()


def test_64_clients_in_8_slots_each_hear_what_one_alone_hears(engine: Engine, model) -> None:
    texts = ["One.", "Two three.", "Four five six.", "Seven eight nine ten."]
    options = [{"seed": i % 5, "max_seconds": 0.24 + 0.16 * (i % 3)} for i in range(64)]

    async def all_at_once(url: str) -> list[httpx2.Response]:
        limits = httpx2.Limits(max_connections=64)
        async with httpx2.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
            bodies = [
                {
                    "input": texts[i % 4],
                    "response_format": "pcm",
                    "stream": i % 2 == 0,
                    **options[i],
                }
                for i in range(64)
            ]
            return await asyncio.gather(*(client.post(SPEECH, json=body) for body in bodies))

    with live(create_app(engine, ServerSettings(watermark=False))) as (url, _):
        answers = asyncio.run(all_at_once(url))
    alone = {}
    for i, answer in enumerate(answers):
        assert answer.status_code == 200
        key = texts[i % 4], *options[i].values()
        if key not in alone:
            alone[key] = vx.synthesize(model, key[0], **options[i])
        same(answer.content, alone[key])
    assert idle(engine)
