"""What is told of a loop."""

import pytest

from voxtral_jax import progress


def test_a_log_has_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two minutes of work: each item takes 12 s.
    now = iter(range(0, 1_000, 12))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    assert list(progress.followed("abcdefghij", "letters read", 10)) == list("abcdefghij")
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(",")[0] for line in err.splitlines()] == [
        "letters read: 2/10",
        "letters read: 5/10",
        "letters read: 8/10",
    ]


def test_what_ends_within_a_moment_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.followed([1, 2], "numbers read", 2)) == [1, 2]
    assert capsys.readouterr() == ("", "")
