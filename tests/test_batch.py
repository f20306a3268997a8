"""Batch jobs: lists are checked before anything starts, and a run outlives its own death."""

import io
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from voxtral_jax import make_voice, synthesize
from voxtral_jax.cli import voxtral
from voxtral_jax.errors import JobError
from voxtral_jax.files import replacing
from voxtral_jax.serving.batch.interruption import terminated_as_interrupted
from voxtral_jax.serving.batch.jobs import Job
from voxtral_jax.serving.batch.output import left_to_do, taken
from voxtral_jax.serving.batch.reading import read_jobs
from voxtral_jax.serving.batch.records import (
    JOURNALS,
    Journal,
    Result,
    merge,
    read_results,
    write_results,
)
from voxtral_jax.serving.batch.running import ModelFiles
from voxtral_jax.serving.batch.voices import Voices
from voxtral_jax.watermark import embed

VOICES = ("neutral_female", "de_male")
PROGRAM = "from voxtral_jax.cli import voxtral; voxtral()"
COMMAND = (sys.executable, "-c", PROGRAM, "batch")
ENOUGH = 300
"""Seconds after which a test gives up waiting for a process."""


def read(source: Path | str, stdin: str = "", **defaults: Any) -> list[Job]:
    return read_jobs(
        Path(source), defaults=defaults, voices=VOICES, model="m", stdin=io.StringIO(stdin)
    )


def write(file: Path, *lines: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_line_says_what_to_speak_and_how(tmp_path: Path, reference: Path) -> None:
    (tmp_path / "me.wav").write_bytes((reference / "reference.wav").read_bytes())
    first, second = read(
        write(
            tmp_path / "jobs.jsonl",
            {"text": "Hi.", "ref": "me.wav", "seed": 7, "format": "flac", "name": "a/b"},
            {"text": "Ho.", "guidance": 2, "temperature": 0.5, "max_seconds": 3, "language": "de"},
        ),
        voice="de_male",
    )
    assert (first.ref, first.voice) == (str(tmp_path / "me.wav"), None)
    assert (first.seed, first.file) == (7, "a/b.flac")
    assert (second.voice, second.file) == ("de_male", "000002.wav")
    assert (second.guidance, second.temperature, second.max_seconds) == (2, 0.5, 3)
    assert second.language == "de"


def test_lists_of_every_kind_say_the_same(tmp_path: Path) -> None:
    lines = [
        {"text": 'Hi, "you",\nthere.', "name": "one", "seed": 3},
        {"text": "Grüße\u2028aus Köln.", "name": "two"},
    ]
    jobs = read(write(tmp_path / "jobs.jsonl", *lines))
    piped = read("-", "\n" + "\n\n".join(json.dumps(line) for line in lines))
    (tmp_path / "jobs.csv").write_text(
        '\ufefftext,name,seed\n"Hi, ""you"",\nthere.",one,3\nGrüße\u2028aus Köln.,two,\n'
    )
    table = read(tmp_path / "jobs.csv")
    for others in (piped, table):
        assert [job.digest for job in others] == [job.digest for job in jobs]
    assert [job.line for job in table] == [3, 4]
    folder = tmp_path / "texts"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "two.txt").write_text("Grüße\u2028aus Köln.")
    (folder / "one.txt").write_text("Hi.")
    assert [(job.name, job.text) for job in read(folder)] == [
        ("in/two", "Grüße\u2028aus Köln."),
        ("one", "Hi."),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({}, "text: Field required"),
        ({"text": "..."}, "nothing to speak"),
        ({"text": 5}, "text: Input should be a valid string"),
        ({"text": "Hi.", "voise": "x"}, "unknown field 'voise'; there are text, name, format"),
        ({"text": "Hi.", "voice": "x"}, "unknown voice 'x'; the model's presets are: de_male, neu"),
        ({"text": "Hi.", "voice": "x.safetensors"}, "x.safetensors does not exist"),
        ({"text": "Hi.", "voice": "de_male", "ref": "jobs.jsonl"}, "keep one of them"),
        ({"text": "Hi.", "ref": "absent.wav"}, "absent.wav does not exist"),
        ({"text": "Hi.", "ref": "jobs.jsonl"}, "cannot be read as audio"),
        ({"text": "Hi.", "seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"text": "Hi.", "format": "xyz"}, "unknown audio format 'xyz'; choose from wav"),
        ({"text": "Hi.", "guidance": float("nan")}, "guidance must be from"),
        ({"text": "Hi.", "max_seconds": 0}, "max_seconds must be from"),
        ({"text": "Hi.", "name": "../up"}, "does not stay in the output directory"),
        ({"text": "Hi.", "name": "/etc/x"}, "does not stay in the output directory"),
        ({"text": "Hi.", "name": ".journal/x"}, "does not stay in the output directory"),
        ({"text": "Hi.", "name": "a\\b"}, "has the character '\\\\'; leave it out"),
        ({"text": "Hi.", "name": "ü" * 101}, "has 202 bytes, at most 200"),
        ({"text": "Hi.", "name": "FIRST"}, "its file 'FIRST.wav' is that of line 1; give it"),
        ({"text": "Hi.", "name": "first.wav/x"}, "is that of line 1; give it another name"),
        ({"text": "Hi.", "name": "results.jsonl/x"}, "is the list of results; give it another"),
    ],
)
def test_faulty_lines_are_named_before_anything_starts(tmp_path: Path, line, message) -> None:
    jobs = write(tmp_path / "jobs.jsonl", {"text": "Hi.", "name": "first"}, line)
    with pytest.raises(JobError) as raised:
        read(jobs)
    first, second = str(raised.value).splitlines()
    assert first == f"{jobs}: 1 line cannot be spoken"
    assert second.startswith("  line 2: ")
    assert message in second


def test_all_faulty_lines_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text("{\n[]\n" + '{"text": ""}\n' * 10)
    with pytest.raises(JobError) as raised:
        read(jobs)
    lines = str(raised.value).splitlines()
    assert lines[0].endswith("12 lines cannot be spoken")
    assert lines[1].startswith("  line 1: not JSON: Expecting")
    assert lines[2].startswith("  line 2: not an object")
    assert (len(lines), lines[-1]) == (12, "  and 2 more")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("jobs.jsonl", b"\n", "holds no jobs"),
        ("jobs.jsonl", b"\xff", "cannot be read as UTF-8 text"),
        ("jobs.toml", b"", "jobs are a .jsonl or .csv file"),
        ("jobs.csv", b"words\nHi.\n", "must name columns, one of them 'text'"),
        ("jobs.csv", b"text\nHi, you.\n", "line 2: more cells than columns"),
        ("jobs.csv", b'text\n"Hi.\n', "after line 1: not CSV"),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path: Path, name, content, message) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JobError, match=message):
        read(tmp_path / name)
    with pytest.raises(JobError, match="does not exist"):
        read(tmp_path / f"absent-{name}".replace(".toml", ".csv"))


def test_the_digest_follows_everything_the_audio_depends_on(tmp_path: Path, reference) -> None:
    ref = tmp_path / "me.wav"
    ref.write_bytes((reference / "reference.wav").read_bytes())
    line = {"text": "Hi.", "ref": "me.wav", "name": "x"}

    def digest(**change: Any) -> str:
        return read(write(tmp_path / "jobs.jsonl", line | change))[0].digest

    same = digest()
    ref.rename(tmp_path / "moved.wav")
    assert digest(ref="moved.wav") == same
    soundfile.write(ref, soundfile.read(tmp_path / "moved.wav")[0] * 0.9, 24_000)
    changed = [
        digest(**fields)
        for fields in (
            {},
            {"text": "Ho."},
            {"seed": 1},
            {"guidance": 1},
            {"noise_scale": 1},
            {"name": "y"},
        )
    ]
    assert len({same, *changed}) == 7


def test_models_are_told_apart_by_their_weights(tmp_path: Path, reference: Path) -> None:
    weights = (reference / "consolidated.safetensors").read_bytes()
    other = (np.frombuffer(weights, np.uint8) ^ 1).tobytes()
    copies = []
    for name, content in (("a", weights), ("b", weights), ("c", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "consolidated.safetensors").write_bytes(content)
        copies.append(ModelFiles(model=str(tmp_path / name)).identity())
    assert copies[0] == copies[1] != copies[2]


def done(job: Job, out: Path) -> Result:
    (out / job.file).write_bytes(b"audio")
    return Result(name=job.name, digest=job.digest, file=job.file, finish_reason="stop")


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    lines = [{"text": "word " * length, "name": f"job{length}"} for length in (2, 9, 1, 5)]
    return read(write(tmp_path / "jobs.jsonl", *lines))


def test_long_texts_come_first(jobs: list[Job], tmp_path: Path) -> None:
    with taken(tmp_path / "out", resume=False):
        left = left_to_do(tmp_path / "out", jobs)
    assert [job.name for job in left] == ["job9", "job5", "job2", "job1"]


def test_what_is_done_is_known_whatever_was_cut_off(jobs: list[Job], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with taken(out, resume=False):
        first, second = Journal(out), Journal(out)
        first.add(done(jobs[0], out))
        second.add(Result(name=jobs[0].name, digest=jobs[0].digest, error="died"))
        second.add(Result(name=jobs[1].name, digest=jobs[1].digest, error="no"))
        second.add(done(jobs[2], out))
    # A line that a kill cut off; the writer's next one starts on a line of its own.
    torn = next(file for file in (out / JOURNALS).glob("*.jsonl") if "no" in file.read_text())
    torn.write_bytes(torn.read_bytes()[:-20])
    second.add(done(jobs[3], out))
    with taken(out, resume=True):
        left = [job.name for job in left_to_do(out, jobs)]
        assert left == ["job9", "job1"]
        (out / jobs[3].file).unlink()
        left = [job.name for job in left_to_do(out, jobs)]
        assert left == ["job9", "job5", "job1"]
        assert set(merge(out)) == {"job2", "job9", "job5"}


def test_a_changed_line_is_done_again_and_its_old_audio_goes(jobs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with taken(out, resume=False):
        journal = Journal(out)
        for job in jobs:
            journal.add(done(job, out))
        changed = replace(jobs[0], digest="another")
        assert left_to_do(out, [changed, *jobs[1:]]) == [changed]
        assert not (out / changed.file).exists()
        Journal(out).add(done(changed, out))
        assert left_to_do(out, [changed, *jobs[1:]]) == []
        # Back again: what the file holds now counts, not what it once held.
        assert left_to_do(out, jobs) == [jobs[0]]


def test_results_are_listed_in_the_order_of_the_jobs(jobs: list[Job], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with taken(out, resume=False):
        journal = Journal(out)
        for job in reversed(jobs):
            journal.add(done(job, out))
        write_results(out, jobs, read_results(out))
        lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        assert [line["name"] for line in lines] == [job.name for job in jobs]
        assert [line["line"] for line in lines] == [1, 2, 3, 4]
        (out / jobs[2].file).unlink()
        with pytest.raises(JobError, match=r"line 3 was spoken, but .* must see that directory"):
            write_results(out, jobs, read_results(out))


def test_a_directory_is_taken_once_and_only_if_it_is_empty(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    at_work = pytest.raises(JobError, match="another run is at work in")
    with taken(out, resume=False), at_work, taken(out, resume=True):
        pass
    with pytest.raises(JobError, match="is not empty: --resume does"), taken(out, resume=False):
        pass
    with replacing(out / "x.wav") as partial:
        partial.touch()
    partial.touch()  # as if it had been killed
    (out / f"folder{partial.suffix}").mkdir()  # jobs may have such a name
    with taken(out, resume=True):
        assert not [file for file in out.rglob("*.tmp-*") if file.is_file()]
        assert [*out.glob("folder.tmp-*")]
    below_a_file = out / JOURNALS / "lock" / "x"
    with pytest.raises(JobError, match="cannot be written"), taken(below_a_file, resume=True):
        pass


def call(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The command within this process: exit code, and what it said."""
    code = 0
    try:
        voxtral(["batch", *map(str, arguments)])
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, said = capfd.readouterr()
    assert out == ""
    return code, said


def audio(out: Path) -> dict[str, tuple[int, bytes]]:
    """File -> when it was written, and its bytes; of all there is beside journals and results."""
    return {
        str(file.relative_to(out)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in out.rglob("*")
        if file.is_file() and JOURNALS not in file.parts and file.name != "results.jsonl"
    }


def results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def lines(tmp_path: Path, reference: Path) -> list[dict[str, Any]]:
    """Short jobs in three voices and two formats."""
    (tmp_path / "me.wav").write_bytes((reference / "reference.wav").read_bytes())
    speakers: list[dict[str, Any]] = [{"voice": "de_male"}, {"ref": "me.wav"}, {}]
    return [
        {"text": f"This is number {number}.", "seed": number, **speakers[number % 3]}
        | {"name": f"part{number % 2}/{number}", "format": ("wav", "flac")[number % 2]}
        | {"max_seconds": 0.5 + 0.1 * (number % 4)}
        for number in range(24)
    ]


def test_a_list_becomes_files_and_a_second_run_does_only_what_changed(
    capfd, model, lines, tmp_path: Path, reference: Path
) -> None:
    out, jobs = tmp_path / "out", write(tmp_path / "jobs.jsonl", *lines[:6])
    command = (jobs, "--out", out, "--model", reference, "--slots", 4)
    code, said = call(capfd, *command)
    assert code == 0, said
    assert f"{out / 'results.jsonl'}: 6/6" in said
    listed = results(out)
    assert [line["file"] for line in listed] == [
        f"{line['name']}.{line['format']}" for line in lines[:6]
    ]
    made = audio(out)
    assert sorted(made) == sorted(line["file"] for line in listed)
    ref = make_voice(model, tmp_path / "me.wav")
    for number, voice in ((0, "de_male"), (1, ref)):
        ours = synthesize(
            model, lines[number]["text"], voice=voice, seed=number, max_seconds=0.5 + 0.1 * number
        )
        samples, rate = soundfile.read(out / listed[number]["file"])
        assert (rate, listed[number]["finish_reason"]) == (24_000, ours.finish_reason)
        assert listed[number]["seconds"] == pytest.approx(ours.seconds, abs=1e-3)
        marked = embed(ours.samples, rate)
        np.testing.assert_allclose(samples, np.clip(marked, -1, 1), atol=1e-4)

    code, said = call(capfd, *command)
    assert (code, audio(out)) == (2, made)
    assert f"error: {out} is not empty: --resume does what is missing" in said
    code, said = call(capfd, *command, "--resume")
    assert (code, audio(out), results(out)) == (0, made, listed)

    (out / listed[2]["file"]).unlink()
    write(jobs, lines[0] | {"seed": 99}, *lines[1:7])
    code, said = call(capfd, *command, "--resume")
    assert code == 0, said
    now = audio(out)
    assert [line["name"] for line in results(out)] == [line["name"] for line in lines[:7]]
    assert {file for file in now if now[file] != made.get(file)} == {
        f"{lines[number]['name']}.wav" for number in (0, 2, 6)
    }
    assert now["part0/2.wav"][1] == made["part0/2.wav"][1]

    write(jobs, lines[1])
    assert call(capfd, *command, "--resume", "--no-watermark")[0] == 0
    samples, _ = soundfile.read(out / listed[1]["file"])
    np.testing.assert_allclose(samples, np.clip(ours.samples, -1, 1), atol=1e-4)


def test_what_cannot_be_spoken_is_told_and_tried_again(
    capfd, monkeypatch, tmp_path: Path, reference: Path
) -> None:
    out, ref = tmp_path / "out", tmp_path / "ref.wav"
    soundfile.write(ref, np.zeros(48_000), 24_000)
    lines = [{"text": "Hello.", "ref": str(ref)}, {"text": "Hello.", "voice": "de_male"}]
    command = ("-", "--out", out, "--model", reference, "--slots", 4, "--max-seconds", 0.5)

    def again(*more: str) -> tuple[int, str]:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return call(capfd, *command, *more)

    code, said = again()
    assert code == 1
    assert "1/2, 1 failed" in said
    assert "the same command with --resume tries them again" in said
    failed, spoken = results(out)
    assert (failed["file"], failed["seconds"], failed["finish_reason"]) == (None, 0, None)
    assert "silent" in failed["error"]
    assert (spoken["name"], spoken["error"]) == ("000002", None)
    before = audio(out)
    assert list(before) == ["000002.wav"]
    ref.write_bytes((reference / "reference.wav").read_bytes())
    assert again("--resume")[0] == 0
    after = audio(out)
    assert (len(after), after["000002.wav"]) == (2, before["000002.wav"])


def test_a_run_goes_on_wherever_it_was_stopped(capfd, lines, tmp_path: Path, reference) -> None:
    # Long enough to be stopped in the midst of it: random weights end as soon as a text lets them.
    more = " And it goes on, with a good deal to say." * 5
    lines = [line | {"text": line["text"] + more, "max_seconds": 4.0} for line in lines[:12]]
    out, jobs = tmp_path / "out", write(tmp_path / "jobs.jsonl", *lines)
    command = (jobs, "--out", out, "--resume", "--model", reference, "--slots", 2)
    before: dict[str, tuple[int, bytes]] = {}
    for number in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            # A background job inherits that SIGINT is ignored, and so would what it starts.
            ["env", "--default-signal=INT", *COMMAND, *map(str, command)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        until = time.monotonic() + ENOUGH
        while len(done_in(out)) < len(before) + 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "nothing is spoken"
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=ENOUGH)
        now, known = audio(out), done_in(out)
        assert len(known) < len(lines), "too quick to be stopped"
        assert not (out / "results.jsonl").exists()
        assert {file: now[file] for file in before} == before
        assert known <= set(now)
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130
            assert f"interrupted with {len(known)} of 12 done; the same command with --res" in said
            assert known == set(now), "what was being spoken leaves nothing behind"
        before = {file: now[file] for file in known}
    code, said = call(capfd, *command)
    assert code == 0, said
    after = audio(out)
    assert {file: after[file] for file in before} == before
    assert [line["name"] for line in results(out)] == [line["name"] for line in lines]
    assert sorted(after) == sorted(line["file"] for line in results(out))
    for line in results(out):
        assert soundfile.info(out / line["file"]).duration == pytest.approx(line["seconds"])


def test_a_scheduler_that_ends_a_run_is_a_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def done_in(out: Path) -> set[str]:
    """Files that the journals know."""
    return {result.file for result in read_results(out).values() if result.file is not None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.jsonl",), "error: absent.jsonl does not exist"),
        (("-", "--workers", "2"), "error: --workers and --gpus are for --ray"),
        (("-", "--voice", "a", "--ref", "b"), "error: give --voice or --ref, not both"),
        (("-", "--model", "absent"), "error: no model at 'absent'"),
        (("-", "--voice", "nobody"), "line 1: unknown voice 'nobody'"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    capfd, monkeypatch, tmp_path: Path, reference, arguments, message
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"text": "Hello."}'))
    code, said = call(capfd, "--out", tmp_path / "out", "--model", reference, *arguments)
    assert code == 2
    assert message in said
    assert not (tmp_path / "out").exists()


def test_a_voice_is_made_once_for_all_copies_of_a_recording(model, tmp_path, reference) -> None:
    lines = []
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes((reference / "reference.wav").read_bytes())
        lines.append({"text": "Hi.", "ref": name})
    samples, rate = soundfile.read(tmp_path / "a.wav")
    soundfile.write(tmp_path / "c.wav", samples[::-1], rate)
    jobs = read(write(tmp_path / "jobs.jsonl", *lines, {"text": "Hi.", "ref": "c.wav"}))
    voices = Voices(model, most=1)
    with ThreadPoolExecutor(4) as pool:
        first, second = pool.map(voices.of, jobs[:2])
    assert first is second
    assert voices.of(jobs[2]) is not first
    assert voices.of(jobs[0]) is not first, "only the latest is kept"
