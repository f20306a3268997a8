"""Audio files and references: what is read, written, and refused."""

import io
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import REFERENCE
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_jax.audio import (
    FORMATS,
    check_output,
    encode,
    pcm,
    prepare_reference,
    read_audio,
    resample,
    to_mono,
    wav_stream_header,
    write_audio,
)
from voxtral_jax.errors import AudioError

RATE = 24_000
LIBRISPEECH = Path(__file__).parents[2] / "shared" / "data" / "librispeech"


def speech(seconds: float, rate: int = RATE, level: float = 0.2) -> np.ndarray:
    """Noise as loud as speech, with the swing of syllables."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (level * noise * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time)) / 3).astype(np.float32)


def silence(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.zeros(round(seconds * rate), np.float32)


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


# Reading


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "opus", "mp3"])
def test_what_is_written_is_read(format: str, tmp_path: Path) -> None:
    samples = 0.5 * tone(1.0, RATE)
    path = tmp_path / f"a.{format}"
    write_audio(path, samples, RATE)
    read, rate = read_audio(path)
    assert (rate, read.dtype, read.shape[1]) == (RATE, np.float32, 1)
    assert abs(len(read) - len(samples)) <= 0.1 * RATE
    inner = slice(RATE // 4, RATE // 2)
    assert np.sqrt(np.mean(read[inner] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("format", "closeness"), [("ogg", 0.3), ("opus", 0.2), ("mp3", 0.1)])
def test_lossy_formats_keep_the_spectrum_of_speech(format: str, closeness: float) -> None:
    samples, rate = soundfile.read(REFERENCE / "reference.wav", dtype="float32")
    read, new_rate = soundfile.read(io.BytesIO(encode(samples, rate, format)), dtype="float32")
    assert new_rate == rate
    assert abs(len(read) - len(samples)) <= 0.1 * rate
    ours, theirs = (np.abs(np.fft.rfft(x, 2 * len(samples))) for x in (samples, read))
    # Third-octave-like bands of what carries a voice: 100 Hz to 4 kHz.
    edges = np.geomspace(100, 4000, 16) * 2 * len(samples) / rate
    bands = [slice(round(a), round(b)) for a, b in pairwise(edges)]
    powers = np.array([[np.sum(x[band] ** 2) for band in bands] for x in (ours, theirs)])
    assert np.abs(powers[1] / powers[0] - 1).max() < closeness


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    ("container", "subtype", "error"),
    [
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 1e-6),
        ("WAV", "DOUBLE", 1e-6),
        ("FLAC", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 0.1),
        ("MP3", "MPEG_LAYER_III", 0.1),
    ],
)
def test_every_common_kind_of_file_is_read(
    rate: int, channels: int, container: str, subtype: str, error: float, tmp_path: Path
) -> None:
    if container == "MP3" and channels > 2:
        pytest.skip("MP3 has two channels at most")
    levels = 0.5 / np.arange(1, channels + 1)
    samples = tone(0.3, rate)[:, None] * levels
    path = tmp_path / f"a.{container.lower()}"
    soundfile.write(path, samples, rate, subtype=subtype, format=container)
    read, read_rate = read_audio(path)
    assert (read_rate, read.shape[1], read.dtype) == (rate, channels, np.float32)
    assert abs(len(read) - len(samples)) <= 0.1 * rate
    inner = slice(rate // 10, rate // 5)
    found = np.sqrt(2 * np.mean(np.square(read[inner]), axis=0))
    np.testing.assert_allclose(found, levels, atol=error)
    if error < 0.1:
        np.testing.assert_allclose(read, samples, atol=error)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["wav", "flac", "ogg", "mp3"]), st.data())
def test_no_damage_breaks_the_reader(noise: bytes, format: str, data: st.DataObject) -> None:
    whole = encode(0.5 * tone(0.1, RATE), RATE, format)
    place = data.draw(st.integers(0, min(len(whole), 400)))
    for damaged in (noise, whole[:place], whole[:place] + noise + whole[place + len(noise) :]):
        message = ""
        try:
            assert np.isfinite(read_audio(io.BytesIO(damaged))[0]).all()
        except AudioError as error:
            message = str(error)
        assert message == "" or message.startswith("the audio ")


@pytest.mark.parametrize(("rate", "target"), [(8_000, RATE), (44_100, RATE), (48_000, 16_000)])
def test_resampling_keeps_a_tones_pitch_level_and_length(rate: int, target: int) -> None:
    resampled = resample(0.5 * tone(1.0, rate), rate, target)
    assert resampled.shape == (target,)
    assert resampled.dtype == np.float32
    inner = slice(target // 10, -target // 10)
    np.testing.assert_allclose(resampled[inner], 0.5 * tone(1.0, target)[inner], atol=2e-3)


def test_a_file_object_and_mono_at_another_rate() -> None:
    stereo = np.stack([tone(0.5, 48_000), -0.5 * tone(0.5, 48_000)], axis=1)
    buffer = io.BytesIO()
    soundfile.write(buffer, stereo, 48_000, format="WAV", subtype="FLOAT")
    buffer.seek(0)
    samples, rate = read_audio(buffer)
    mono = resample(to_mono(samples), rate, RATE)
    assert mono.shape == (RATE // 2,)
    inner = slice(1000, -1000)
    np.testing.assert_allclose(mono[inner], 0.25 * tone(0.5, RATE)[inner], atol=1e-3)


def test_long_files_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 8_000, 1, format="FLAC") as sound:
        for _ in range(61):
            sound.write(np.zeros(80_000, np.int16))
    with pytest.raises(AudioError, match=r"long.flac lasts 10\.2 minutes, at most 10 are read"):
        read_audio(path)


def test_too_many_channels_of_samples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.wav"
    frames, channels = 96_000 * 500, 8
    header = bytearray(_wav_header(frames, channels, 96_000))
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + frames * channels * 2)  # sparse: takes no space
    with pytest.raises(AudioError, match=r"wide.wav holds 8 channels .* mix it down to mono"):
        read_audio(path)


def _wav_header(frames: int, channels: int, rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((0, channels), np.int16), rate, format="WAV")
    header = bytearray(buffer.getvalue())
    size = frames * channels * 2
    header[4:8] = (len(header) - 8 + size).to_bytes(4, "little")
    header[-4:] = size.to_bytes(4, "little")
    return bytes(header)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    for name, content, message in (
        ("text.wav", b"no audio at all, just text" * 20, "text.wav cannot be read as audio"),
        ("empty.wav", b"", "empty.wav cannot be read as audio"),
        ("none.wav", _wav_header(0, 1, RATE), "none.wav holds no audio"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AudioError, match=message):
            read_audio(tmp_path / name)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"nan.wav holds samples that are not finite"):
        read_audio(tmp_path / "nan.wav")
    with pytest.raises(AudioError, match=r"gone.wav does not exist"):
        read_audio(tmp_path / "gone.wav")
    with pytest.raises(AudioError, match="is not a file"):
        read_audio(tmp_path)


def test_integers_are_scaled_and_channels_averaged() -> None:
    np.testing.assert_allclose(to_mono(np.array([-32768, 16384], np.int16)), [-1, 0.5])
    np.testing.assert_allclose(to_mono(np.array([0, 128, 192], np.uint8)), [-1, 0, 0.5])
    np.testing.assert_allclose(to_mono(np.array([[1.0, 0.0]])), [0.5])


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, RATE)), "transpose it"),
        (np.zeros((2, 2, 2)), "must be"),
        (np.zeros((5, 0)), "must be"),
        (np.array(["a"]), "must be float or integer"),
        (np.zeros(5, complex), "must be float or integer"),
    ],
)
def test_arrays_that_are_no_audio_are_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        to_mono(samples)


@pytest.mark.parametrize("rate", [0, -1, 3_999, 10**7, 24_000.5, "24000", None, True])
def test_bad_rates_are_refused(rate) -> None:
    for rates in ((rate, RATE), (RATE, rate)):
        with pytest.raises(AudioError, match="the sample rate must be from 4000 to 768000 Hz"):
            resample(silence(0.1), *rates)
    with pytest.raises(AudioError, match="the sample rate"):
        prepare_reference(speech(4), rate)


# References


def loudness(samples: np.ndarray) -> float:
    import pyloudnorm

    return pyloudnorm.Meter(RATE).integrated_loudness(samples.astype(np.float64))


@pytest.mark.parametrize("level", [0.003, 0.1, 1.0])
def test_references_are_trimmed_and_equally_loud(level: float) -> None:
    recording = np.concatenate([silence(2), speech(5, level=level), silence(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reference = prepare_reference(recording, RATE)
    assert reference.dtype == np.float32
    assert 5 <= len(reference) / RATE <= 5.4
    assert loudness(reference) == pytest.approx(-20, abs=0.1)
    np.testing.assert_array_equal(reference, prepare_reference(recording, RATE))


def test_a_prepared_reference_is_left_as_it_is() -> None:
    once = prepare_reference(speech(5), RATE)
    np.testing.assert_allclose(prepare_reference(once, RATE), once, atol=1e-4)


def test_real_speech_makes_a_reference() -> None:
    if not LIBRISPEECH.is_dir():
        pytest.skip("needs ../shared/data/librispeech")
    for path in sorted(LIBRISPEECH.glob("*.flac"))[::40]:
        samples, rate = read_audio(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            reference = prepare_reference(samples, rate)
        peak = np.abs(reference).max()
        assert peak <= 0.8911
        assert loudness(reference) == pytest.approx(-20, abs=0.1) or peak > 0.89
        assert len(reference) <= round(len(samples) * RATE / rate)


def test_any_rate_channels_and_type_come_out_mono() -> None:
    stereo = np.stack([speech(4, 44_100)] * 2, axis=1)
    reference = prepare_reference((stereo * 32767).astype(np.int16), 44_100)
    assert reference.shape == (4 * RATE,)


def test_peaks_stay_under_one_decibel() -> None:
    recording = speech(4, level=0.02)
    recording[:: RATE // 2] = 0.9
    assert np.abs(prepare_reference(recording, RATE)).max() == pytest.approx(0.891, abs=1e-3)


def test_a_constant_offset_is_no_sound() -> None:
    with pytest.raises(AudioError, match="the reference is silent"):
        prepare_reference(np.full(3 * RATE, 0.2, np.float32), RATE)


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (silence(5), "the reference is silent"),
        (speech(0.2), r"lasts 0\.2 s; at least 1 s of sound is needed"),
        (np.concatenate([silence(3), speech(0.5), silence(3)]), r"has 0\.\d s of sound; at least"),
        (silence(0), "empty"),
        (np.full(RATE * 2, np.inf, np.float32), "not finite"),
        (silence(601), r"lasts 10\.0 minutes; cut out 3 to 30 s"),
    ],
)
def test_unusable_references_are_refused(recording: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        prepare_reference(recording, RATE)


def test_short_references_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"has 2\.\d s of sound; 3 s or more keep a voice better"):
        prepare_reference(speech(2.5), RATE)


def test_the_part_that_is_used_must_hold_enough_sound() -> None:
    far = np.concatenate([speech(0.5), silence(100), speech(0.75)])
    with pytest.raises(AudioError, match=r"has 0\.\d s of sound; at least"):
        prepare_reference(far, RATE)


def test_a_reference_that_is_just_too_short_is_not_said_to_be_long_enough() -> None:
    with pytest.raises(AudioError, match=r"lasts 0\.9 s; at least 1 s"):
        prepare_reference(speech(0.97), RATE)


def test_of_long_references_the_part_with_most_sound_is_used() -> None:
    sparse = np.concatenate([np.concatenate([speech(1), silence(2)]) for _ in range(14)])
    dense = np.concatenate([np.concatenate([speech(2.4), silence(0.4)]) for _ in range(11)])
    with pytest.warns(UserWarning, match="its best 30 s are used"):
        reference = prepare_reference(np.concatenate([sparse, dense, sparse]), RATE)
    assert 25 < len(reference) / RATE <= 30
    blocks = np.abs(reference[: len(reference) // 240 * 240].reshape(-1, 240)).max(axis=1)
    assert np.mean(blocks > 1e-3) > 0.8
    # It starts and ends in a pause, a margin away from sound.
    assert (blocks[:4] < 1e-3).all()
    assert (blocks[-4:] < 1e-3).all()


def test_long_references_without_pauses_are_cut() -> None:
    with pytest.warns(UserWarning, match="its best 30 s"):
        assert len(prepare_reference(speech(61), RATE)) == 30 * RATE


# Writing


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rate", [11_025, RATE, 96_000])
def test_every_format_takes_every_rate(format: str, rate: int) -> None:
    data = encode(0.5 * tone(0.5, rate), rate, format.upper())
    if format == "pcm":
        assert len(data) == 2 * round(0.5 * rate)
    else:
        info = soundfile.info(io.BytesIO(data))
        assert info.duration == pytest.approx(0.5, abs=0.1)


def test_minutes_of_vorbis_are_encoded() -> None:
    # libsndfile crashes the process where it is given them at once.
    data = encode(speech(200, 8_000), 8_000, "ogg")
    assert soundfile.info(io.BytesIO(data)).duration == pytest.approx(200)


def test_nothing_is_encoded_to_an_empty_file() -> None:
    for format in FORMATS:
        assert isinstance(encode(silence(0), RATE, format), bytes)


def test_sixteen_bits_are_rounded_and_clipped() -> None:
    samples = np.array([0, 1, -1, 2, -2, 0.6 / 32767, -0.6 / 32767], np.float32)
    expected = [0, 32767, -32767, 32767, -32767, 1, -1]
    assert np.frombuffer(pcm(samples), "<i2").tolist() == expected
    for format in ("wav", "flac"):
        read, _ = soundfile.read(io.BytesIO(encode(samples, RATE, format)), dtype="int16")
        assert read.tolist() == expected


def test_the_stream_header_is_a_wav_of_unknown_length() -> None:
    header = wav_stream_header(RATE)
    assert len(header) == 44
    assert header[4:8] == header[40:44] == b"\xff" * 4
    read, rate = soundfile.read(io.BytesIO(header + pcm(tone(0.5, RATE))), dtype="float32")
    assert rate == RATE
    np.testing.assert_allclose(read[: RATE // 2], tone(0.5, RATE), atol=1e-4)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for path, format, message in (
        (tmp_path / "a.aac", None, "unknown audio format 'aac'; choose from wav, flac, ogg, opus"),
        (tmp_path / "a.wav", "aac", "unknown audio format 'aac'"),
        (tmp_path / "none" / "a.wav", None, "the directory .*none does not exist"),
        (tmp_path, "wav", "is a directory"),
        (tmp_path / ("a" * 252 + ".wav"), None, "cannot write"),
    ):
        with pytest.raises(AudioError, match=message):
            write_audio(path, silence(0.1), RATE, format)
    for samples in (np.array([np.nan], np.float32), np.zeros((2, 2), np.float32)):
        with pytest.raises(AudioError, match=r"must be \[S\] and finite"):
            write_audio(tmp_path / "a.wav", samples, RATE)
    with pytest.raises(AudioError, match="the sample rate"):
        write_audio(tmp_path / "a.wav", silence(0.1), 0)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    with pytest.raises(AudioError, match="finite"):
        write_audio(path, np.array([np.inf], np.float32), RATE)

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(AudioError, match=r"cannot write .*a\.wav.*No space left"):
        write_audio(path, silence(0.1), RATE)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_and_a_pipe_written_to(tmp_path: Path) -> None:
    import os
    import threading

    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    write_audio(path, silence(0.1), RATE)
    assert read_audio(path)[0].shape == (RATE // 10, 1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write_audio, args=(pipe, silence(0.1), RATE, "pcm"))
    writer.start()
    assert pipe.read_bytes() == bytes(RATE // 5)
    writer.join()
    assert pipe.is_fifo()


def test_standard_output_is_a_place_to_write() -> None:
    check_output("-")
    with pytest.raises(AudioError, match="unknown audio format"):
        check_output("-", "aac")
