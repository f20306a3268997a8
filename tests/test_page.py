"""The page to try voices, in headless Chromium, on a real server with the small model."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from serving import live

import voxtral_jax as vx
from voxtral_jax import Model
from voxtral_jax.serving.engine import Engine
from voxtral_jax.serving.settings import EngineSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api")
app_module = pytest.importorskip("voxtral_jax.serving.http.app")
settings_module = pytest.importorskip("voxtral_jax.serving.http.settings")
av = pytest.importorskip("av")
expect = playwright.expect

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: the packages chromium of Debian, playwright of PyPI"
)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    # A microphone that beeps, and nobody asks whether the page may listen.
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]
READER = Path(vx.__file__).parent / "assets" / "reader.flac"
TEXT = "Hello there."
LONG = "\n\n".join(f"This is part {i} of a long text." for i in range(30))
DONE = re.compile("Done: [0-9.]+ s")
PATIENCE = 60_000
"""Milliseconds, on a machine that does other things as well."""


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[Engine]:
    settings = EngineSettings(
        slots=1, chunk_frames=(2,), longest_text=1000, longest_prompt=192, longest_part=10.0
    )
    with Engine(model, settings) as engine:
        yield engine


def serve(engine: Engine, **settings: Any) -> Iterator[str]:
    """A server in a thread, without the watermark; yields its address."""
    app = app_module.create_app(engine, settings_module.ServerSettings(watermark=False, **settings))
    with live(app) as (url, _):
        yield f"{url}/"


@pytest.fixture(scope="module")
def address(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serve(engine, voices=tmp_path_factory.mktemp("voices"))


@pytest.fixture(scope="module")
def locked(engine: Engine) -> Iterator[str]:
    yield from serve(engine, api_key="open sesame")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complains of; a test takes out what it provoked."""
    return []


@pytest.fixture
def blank(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    """An empty tab."""
    context = browser.new_context(viewport={"width": 1100, "height": 780})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    yield page
    context.close()
    assert complaints == []


@pytest.fixture
def page(blank: Page, address: str) -> Page:
    """The page, with the voices that the server knows."""
    blank.goto(address)
    expect(blank.locator("#voice option[value=de_male]")).to_have_count(1)
    return blank


def speak(page: Page, text: str = TEXT) -> None:
    page.get_by_label("Text").fill(text)
    page.get_by_role("button", name="Speak").click()


def download(page: Page) -> np.ndarray:
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download").click()
    samples, rate = soundfile.read(waiting.value.path())
    assert waiting.value.suggested_filename == "speech.wav"
    assert rate == 24_000
    return samples


def colours(page: Page, canvas: str) -> int:
    """How many different colours a canvas shows."""
    return page.evaluate(
        """(id) => {
            const canvas = document.getElementById(id);
            const { width, height } = canvas;
            const copy = new OffscreenCanvas(width, height).getContext("2d");
            copy.drawImage(canvas, 0, 0);
            const { data } = copy.getImageData(0, 0, width, height);
            return new Set(new Uint32Array(data.buffer)).size;
        }""",
        canvas,
    )


def use_recording(page: Page) -> None:
    page.get_by_label("Recording").check()
    page.get_by_label("Choose a file").set_input_files(READER)
    expect(page.locator("#reference-name")).to_have_text("reader.flac")


@pytest.mark.parametrize(("seed", "reason"), [(0, "length"), (2, "stop")])
def test_what_is_downloaded_is_what_the_engine_says(
    page: Page, engine: Engine, seed: int, reason: str
) -> None:
    theirs = engine.speak(TEXT, voice="de_male", seed=seed, guidance=1.5, noise_scale=0.5).result()
    assert theirs.finish_reason == reason
    page.get_by_label("Preset voice").select_option("de_male")
    page.get_by_text("More").click()
    page.get_by_label("Seed").fill(f"{seed}")
    page.get_by_label("Guidance").fill("1.5")
    page.get_by_label("Noise").fill("0.5")
    speak(page)
    ending = ", cut at the longest it may take" if reason == "length" else ""
    expect(page.get_by_role("status")).to_have_text(f"Done: {theirs.seconds:.1f} s{ending}")
    expect(page.locator("#seconds")).to_have_text(f"{theirs.seconds:.1f} s")
    samples = np.clip(theirs.samples, -1, 1)
    np.testing.assert_allclose(download(page), samples, atol=2 / 32768)
    expect(page.locator("#first-audio")).to_have_text(re.compile(r"^[0-9.]+ s$"))
    expect(page.locator("#factor")).to_have_text(re.compile(r"^[0-9.]+$"))


def test_waveform_and_spectrogram_are_drawn(page: Page) -> None:
    assert colours(page, "spectrogram") == 1
    assert colours(page, "waveform") == 2  # nothing, and the line in the middle
    speak(page)
    expect(page.get_by_role("status")).to_have_text(DONE)
    assert colours(page, "spectrogram") > 50
    assert colours(page, "waveform") > 2


def test_stop_frees_the_slot_and_keeps_what_was_said(page: Page, engine: Engine) -> None:
    page.get_by_label("Text").fill(LONG)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("status")).to_have_text("Speaking")
    expect(page.locator("#seconds")).to_have_text(re.compile(r"^([3-9]|\d\d+)\.\d s$"))
    assert engine.status.busy == 1
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Stopped")
    while engine.status.busy:
        time.sleep(0.01)
    assert len(download(page)) > 3 * 24_000
    page.get_by_role("button", name="Play again").click()
    expect(page.get_by_role("status")).to_have_text("Playing")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status")).to_have_text("Stopped")


def test_the_servers_refusal_is_shown(page: Page, complaints: list[str]) -> None:
    speak(page, "x" * 1001)
    expect(page.get_by_text("1,001 characters")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("1000")
    expect(page.get_by_role("status")).to_have_text("Failed")
    assert "400" in complaints.pop()
    speak(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_role("status")).to_have_text(DONE)


def test_a_reference_speaks_only_with_consent(page: Page, engine: Engine) -> None:
    use_recording(page)
    speak(page)
    expect(page.get_by_role("alert")).to_contain_text("consent")
    expect(page.get_by_role("status")).to_have_text("Ready")
    page.get_by_label("This is my own voice").check()
    speak(page)
    expect(page.get_by_role("status")).to_have_text(DONE)
    theirs = engine.speak(TEXT, ref=READER).result()
    np.testing.assert_allclose(download(page), np.clip(theirs.samples, -1, 1), atol=2 / 32768)


def test_a_dropped_recording_is_kept_as_a_voice_and_deleted(page: Page) -> None:
    page.get_by_label("Recording").check()
    page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], "dropped.flac"));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer }));
        }""",
        base64.b64encode(READER.read_bytes()).decode(),
    )
    expect(page.locator("#reference-name")).to_have_text("dropped.flac")
    page.get_by_label("This is my own voice").check()
    page.get_by_text("Keep it as a voice").click()
    page.get_by_label("Name").fill("reader")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Preset voice")).to_have_value("reader")
    speak(page)
    expect(page.get_by_role("status")).to_have_text(DONE)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#voice option[value=reader]")).to_have_count(0)


def test_a_recording_of_a_phone_is_decoded_by_the_browser(page: Page) -> None:
    samples, rate = soundfile.read(READER, dtype="float32")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as target:
        track = target.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for packet in [*track.encode(frame), *track.encode(None)]:
            target.mux(packet)
    page.get_by_label("Recording").check()
    choose = page.get_by_label("Choose a file")
    choose.set_input_files({"name": "me.txt", "mimeType": "text/plain", "buffer": b"not sound"})
    expect(page.get_by_role("alert")).to_contain_text("me.txt holds no sound")
    choose.set_input_files({"name": "me.m4a", "mimeType": "audio/mp4", "buffer": file.getvalue()})
    expect(page.locator("#reference-name")).to_have_text("me.m4a")
    expect(page.get_by_role("alert")).to_have_count(0)
    length = "() => document.getElementById('reference-audio').duration"
    seconds = page.wait_for_function(length).json_value()
    assert seconds == pytest.approx(len(samples) / rate, abs=0.1)
    page.get_by_label("This is my own voice").check()
    speak(page)
    expect(page.get_by_role("status")).to_have_text(DONE)


def test_the_microphone_is_recorded(page: Page) -> None:
    page.get_by_label("Recording").check()
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#recorded")).not_to_have_text("0.0 s")
    page.get_by_role("button", name="Stop recording").click()
    expect(page.get_by_role("alert")).to_contain_text("record 3 s or more")
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#recorded")).to_have_text(re.compile(r"^([4-9]|\d\d)\.\d s$"))
    assert page.get_by_label("Microphone level").evaluate("(meter) => meter.value") > 0
    page.get_by_role("button", name="Stop recording").click()
    expect(page.locator("#reference-name")).to_have_text("recording.wav")
    page.get_by_label("This is my own voice").check()
    with page.expect_request("**/v1/audio/speech") as waiting:
        speak(page)
    asked = json.loads(waiting.value.post_data or "")
    head, data = asked["ref_audio"].split(",")
    assert head == "data:audio/wav;base64"
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert len(samples) >= 3 * rate
    assert np.abs(samples).max() > 0.01
    expect(page.get_by_role("status")).to_have_text(DONE)


def test_a_server_with_a_key_is_asked_with_it(
    blank: Page, locked: str, complaints: list[str]
) -> None:
    blank.goto(locked)
    expect(blank.get_by_role("alert")).to_contain_text("API key")
    blank.get_by_label("API key").fill("open sesame")
    blank.keyboard.press("Enter")
    expect(blank.locator("#voice option[value=de_male]")).to_have_count(1)
    expect(blank.get_by_label("API key")).to_be_hidden()
    speak(blank)
    expect(blank.get_by_role("status")).to_have_text(DONE)
    assert "401" in complaints.pop()


def test_the_page_fits_a_narrow_screen(page: Page) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    page.get_by_label("Recording").check()
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_spectra_equal_numpys(page: Page) -> None:
    signal = np.random.default_rng(0).normal(size=64).astype(np.float32)
    ours = page.evaluate(
        """async (signal) => {
            const { Fft } = await import("/page/fft.js");
            const power = new Float32Array(33);
            new Fft(64).power(Float32Array.from(signal), power);
            return [...power];
        }""",
        signal.tolist(),
    )
    np.testing.assert_allclose(ours, np.abs(np.fft.rfft(signal)) ** 2, rtol=1e-4, atol=1e-4)


def test_a_tone_lies_in_its_band_however_long_it_lasts(page: Page) -> None:
    """Ten minutes: the columns have been halved six times."""
    columns, hop, bands = page.evaluate(
        """async () => {
            const { Analysis, BANDS } = await import("/page/analysis.js");
            const analysis = new Analysis(24000);
            const tone = (_, i) => Math.sin((2 * Math.PI * i) / 24);
            const second = Float32Array.from({ length: 24000 }, tone);
            for (let i = 0; i < 600; i++) analysis.push(second);
            const loudest = Array.from({ length: analysis.columns }, (_, column) => {
                const levels = analysis.levels.subarray(column * BANDS, (column + 1) * BANDS);
                return levels.indexOf(Math.max(...levels));
            });
            return [analysis.columns, analysis.hop, [...new Set(loudest)]];
        }"""
    )
    assert 0 <= 600 * 24_000 - columns * hop < hop
    mel = 2595 * np.log10(1 + 1000 / 700)
    assert bands == [round(mel / (2595 * np.log10(1 + 12_000 / 700)) * 81) - 1]


def test_events_are_whole_however_they_are_cut(page: Page) -> None:
    events = page.evaluate(
        """async () => {
            const { eventsOf } = await import("/page/events.js");
            const text = 'event: a\\ndata: {"n": 1}\\n\\nevent: b\\ndata: {"text": "größer"}\\n\\n';
            const bytes = new TextEncoder().encode(text);
            const stream = new ReadableStream({
                start(controller) {
                    for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
                    controller.close();
                },
            });
            const events = [];
            for await (const event of eventsOf(stream)) events.push(event);
            return events;
        }"""
    )
    assert events == [{"n": 1}, {"text": "größer"}]
