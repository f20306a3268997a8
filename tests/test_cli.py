"""The command line, run as a user runs it."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxtral_jax import synthesize
from voxtral_jax.cli import main, voxtral

ROOT = Path(__file__).parents[1]
SHORT = ("--max-seconds", "1")


def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(ROOT / "infer.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, input=stdin.encode(), timeout=300)


def test_it_speaks_into_a_file_and_sums_up(model, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "hello.flac"
    arguments = ("--model", reference, "--text", "Hello there.", "--seed", 5, "--out", out, *SHORT)
    done = run(*arguments, "--ref", reference / "reference.wav")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
    summary = done.stderr.decode().splitlines()[-1]
    assert summary.startswith(f"{out}: 0.96 s of audio, first audio after ")
    assert "real-time factor" in summary
    assert "warning: the reference has 2.0 s" in done.stderr.decode()
    samples, rate = soundfile.read(out)
    with pytest.warns(UserWarning, match="3 s"):
        ours = synthesize(
            model, "Hello there.", ref=reference / "reference.wav", seed=5, max_seconds=1
        )
    assert rate == 24_000
    np.testing.assert_allclose(samples, np.clip(ours.samples, -1, 1), atol=1e-4)


def call(capfdbinary, *arguments: object) -> tuple[int, bytes, str]:
    """The command line within this process."""
    code = 0
    try:
        main(map(str, arguments))
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capfdbinary.readouterr()
    return code, out, err.decode()


def test_a_stream_to_stdout_is_what_a_file_would_hold(capfdbinary, reference: Path) -> None:
    common = ("--model", reference, "--text", "Hello there.", "--out", "-", *SHORT)
    code, streamed, _ = call(capfdbinary, *common, "--stream", "--format", "pcm")
    assert code == 0
    code, whole, _ = call(capfdbinary, *common, "--format", "pcm")
    assert code == 0
    ours, theirs = (np.frombuffer(data, "<i2").astype(int) for data in (streamed, whole))
    assert len(ours) == len(theirs)
    assert np.abs(ours - theirs).max() <= 1
    code, wav, _ = call(capfdbinary, *common, "--stream")
    assert wav[:4] == b"RIFF"
    assert wav[44:] == streamed
    code, wav, _ = call(capfdbinary, *common)
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="int16")
    assert (len(samples), rate) == (len(theirs), 24_000)


def test_a_stream_is_played_as_it_comes(capfdbinary, monkeypatch, reference, tmp_path) -> None:
    heard = tmp_path / "heard.wav"
    player = tmp_path / "aplay"
    player.write_text(f'#!/bin/sh\ncat > "{heard}"\n')
    player.chmod(0o755)
    common = ("--model", reference, "--text", "Hello there.", *SHORT)
    _, streamed, _ = call(capfdbinary, *common, "--stream", "--out", "-")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr("voxtral_jax.audio.writing.PLAYERS", (["aplay", "-q", "-"],))
    code, out, err = call(capfdbinary, *common, "--stream")
    assert code == 0
    assert out == b""
    assert heard.read_bytes() == streamed
    assert "player: 0.96 s of audio" in err
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    code, _, err = call(capfdbinary, *common, "--stream")
    assert code == 2
    assert "no audio player found; install one of" in err


def test_text_comes_from_a_file_or_stdin(reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    done = run(
        "--model", reference, "--text-file", "-", "--out", out, *SHORT, stdin="Grüße aus Köln."
    )
    assert done.returncode == 0, done.stderr.decode()
    assert soundfile.info(out).frames == 12 * 1920


def test_voices_are_listed(capfdbinary, reference: Path) -> None:
    code, out, _ = call(capfdbinary, "--model", reference, "--list-voices")
    assert code == 0
    german, neutral = out.decode().splitlines()
    assert german.split()[:3] == ["de_male", "de", "male"]
    assert neutral.split()[:3] == ["neutral_female", "-", "female"]


def test_a_cloned_voice_is_saved_and_used_again(capfdbinary, reference, tmp_path: Path) -> None:
    voice, first, second = (tmp_path / n for n in ("me.safetensors", "1.wav", "2.wav"))
    common = ("--model", reference, "--text", "Hello.", *SHORT)
    ref = ("--ref", reference / "reference.wav", "--save-voice", voice)
    assert call(capfdbinary, *common, *ref, "--out", first)[0] == 0
    assert call(capfdbinary, *common, "--voice", voice, "--out", second)[0] == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--text", "Hi.", "--voice", "nobody"), "error: unknown voice 'nobody'"),
        (("--text", "Hi.", "--ref", "absent.wav"), "error: absent.wav does not exist"),
        (("--text", ""), "error: there is nothing to speak"),
        ((), "error: give what to say with --text or with --text-file"),
        (("--text", "a", "--text-file", "b"), "error: give what to say with --text or"),
        (("--text-file", "absent.txt"), "error: cannot read absent.txt"),
        (("--text", "Hi.", "--out", "a.xyz"), "error: 'a.xyz': unknown audio format 'xyz'"),
        (("--text", "Hi.", "--out", "nowhere/a.wav"), "the directory nowhere does not exist"),
        (("--text", "Hi.", "--stream", "--out", "a.wav"), "error: --stream plays or writes to"),
        (("--text", "Hi.", "--save-voice", "v.safetensors"), "error: --save-voice needs --ref"),
        (("--text", "Hi.", "--steps", "0"), "error: steps must be from 1"),
        (("--text", "Hi.", "--voice", "x", "--ref", "y"), "error: give --voice or --ref"),
    ],
)
def test_mistakes_are_one_line_on_stderr(capfdbinary, reference, arguments, message) -> None:
    code, out, err = call(capfdbinary, "--model", reference, *arguments)
    assert code == 2
    assert out == b""
    assert message in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2


def test_help_and_import_do_not_load_jax() -> None:
    program = "import sys; import voxtral_jax, voxtral_jax.cli; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT)
    assert done.stdout.strip() == b"False"
    done = run("--help")
    assert done.returncode == 0
    for option in ("--text", "--ref", "--voice", "--stream", "--guidance", "--format"):
        assert option in done.stdout.decode()


def test_the_console_script_has_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        voxtral(["--help"])
    assert not ended.value.code
    said = capsys.readouterr().out
    for command in ("speak", "serve", "batch", "detect"):
        assert command in said
