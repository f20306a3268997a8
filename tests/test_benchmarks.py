"""What benchmarks claim: floors from the published sizes, missed targets, and failed steps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from voxtral_jax import VoxtralConfig
from voxtral_jax.flow import Sampler

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from parts import Cost, Sizes, part_costs  # noqa: E402
from run_gpu import SIZES, TABLE, TESTS, Step, lines, run_step, run_tests, save  # noqa: E402

OUT = "import sys; from pathlib import Path; out = Path(sys.argv[sys.argv.index('--out') + 1])\n"
"""How a script of these tests knows where its JSON goes."""
CHILD = (
    "import os, subprocess, tempfile\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
    "folder = Path(tempfile.mkdtemp())\n"
    "(folder / 'checkpoint').write_bytes(bytes(1000))\n"
    "told = Path(__file__).with_suffix('.told')\n"
    "told.write_text(f'{os.getpid()} {child.pid} {folder}')\n"
    "print('waiting', flush=True)\n"
    "child.wait()\n"
)
"""Starts a process, writes a file and waits; tells the ids of both and where the file lies."""


def script(folder: Path, text: str) -> Step:
    """A step of our own."""
    path = folder / "step.py"
    path.write_text(OUT + text)
    return Step(str(path))


def runs(process: int) -> bool:
    """Whether it does; a dead one that nobody asked for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(what: Callable[[], object], seconds: float = 30) -> None:
    """Until it holds."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def left(told: Path) -> list[str]:
    """What is left of `CHILD`."""
    *processes, folder = told.read_text().split()
    found = [process for process in processes if runs(int(process))]
    return found + ([folder] if Path(folder).exists() else [])


def test_a_frame_of_the_released_model_reads_what_the_architecture_says() -> None:
    config = VoxtralConfig.load(SIZES)
    costs = part_costs(config, Sampler(steps=7), 1, 0, Sizes(weight=2, cache=2))
    assert costs["decode step"].bytes == pytest.approx(6.05e9, rel=0.01)
    assert costs["flow"].bytes == pytest.approx(7 * 0.70e9, rel=0.03)
    assert sum(costs.values(), Cost()).bytes == pytest.approx(11e9, rel=0.01)


def test_a_batch_reads_the_weights_once_and_its_caches_each() -> None:
    config = VoxtralConfig.load(SIZES)
    one, many = (
        part_costs(config, Sampler(), batch, 100, Sizes(weight=1, cache=2)) for batch in (1, 32)
    )
    # Keys and values of 100 tokens: docs/serving.md has 104 KiB each.
    more = many["decode step"].bytes - one["decode step"].bytes
    assert more == pytest.approx(31 * 100 * 104 * 2**10, rel=1e-6)
    assert many["flow"].bytes == one["flow"].bytes
    for name, cost in many.items():
        assert cost.operations == pytest.approx(32 * one[name].operations)


def test_what_was_not_measured_is_not_claimed() -> None:
    rows = lines({})[2:]
    assert len(rows) == len(TABLE)
    assert all("not measured" in row for row in rows)


def test_a_missed_target_says_so() -> None:
    measured = {"stream": {"closed_loop": {"1": {"real_time_factor": 0.5}}}}
    assert "0.5 (missed) | 0.055" in lines(measured)[2]
    measured["stream"]["closed_loop"]["1"]["real_time_factor"] = 0.05
    assert "0.05 | 0.055" in lines(measured)[2]


def test_a_step_runs_the_repository_even_where_it_is_not_installed(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    uninstalled = (
        "sys.meta_path = [one for one in sys.meta_path if 'editable' not in one.__module__]\n"
        "sys.path = [one for one in sys.path if 'site-packages' not in one]\n"
        "from importlib.util import find_spec; import json\n"
        "out.write_text(json.dumps({'file': find_spec('voxtral_jax').origin}))\n"
    )
    measured = run_step(script(tmp_path, uninstalled), SIZES)
    assert measured == {"file": str(ROOT / "voxtral_jax" / "__init__.py")}


def test_paths_that_were_given_stay(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    text = "import json; out.write_text(json.dumps({'paths': sys.path}))"
    assert str(tmp_path / "site") in run_step(script(tmp_path, text), SIZES)["paths"]


def test_a_step_that_runs_out_of_time_leaves_nothing(tmp_path) -> None:
    step = script(tmp_path, CHILD)
    measured = run_step(step, SIZES, seconds=5)
    assert measured == {"failed": "took more than 5 s\nwaiting"}
    assert not left(Path(step.script).with_suffix(".told"))


def test_a_stopped_call_leaves_nothing(tmp_path) -> None:
    """A caller knows the process of the call only."""
    step = script(tmp_path, CHILD)
    told = Path(step.script).with_suffix(".told")
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        f"import run_gpu; run_gpu.STEPS['decode'] = run_gpu.Step({step.script!r})\n"
        "run_gpu.main()"
    )
    out = str(tmp_path / "out.json")
    call = subprocess.Popen([sys.executable, "-c", program, "--only", "decode", "--out", out])
    wait_for(lambda: told.exists() and told.read_text())
    call.send_signal(signal.SIGTERM)
    assert call.wait(30)
    assert not left(told)


def test_a_step_that_fails_says_why(tmp_path) -> None:
    assert run_step(script(tmp_path, "sys.exit('no room')"), SIZES) == {
        "failed": "status 1\nno room"
    }
    killed = script(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert run_step(killed, SIZES) == {"failed": "status -9"}
    assert "step.json" in run_step(script(tmp_path, ""), SIZES)["failed"]


def test_failing_tests_are_a_failed_step(tmp_path) -> None:
    file = tmp_path / "test_wrong.py"
    marked = "import pytest\n@pytest.mark.gpu\ndef test_wrong():\n    assert {}\n"
    file.write_text(marked.format("1 == 2"))
    assert "1 failed" in run_tests(file)["failed"]
    file.write_text(marked.format("1 == 1"))
    assert run_tests(file)["end"].startswith("1 passed")
    file.write_text("def test_of_no_gpu():\n    pass\n")
    assert "status 5" in run_tests(file)["failed"]


def test_one_file_has_all_tests_of_gpus() -> None:
    mark = "mark." + "gpu"
    files = [path for path in TESTS.parent.glob("**/*.py") if mark in path.read_text("utf-8")]
    files.remove(Path(__file__))
    assert files == [TESTS]


def test_what_was_measured_is_saved_with_its_device(tmp_path) -> None:
    out = tmp_path / "gpu.json"
    save({"failed": {"decode": "no room"}}, out)
    assert json.loads(out.read_text())["device"] == "unknown"
    save({"failed": {"decode": "no room"}, "codec": {"device": "a chip"}}, out)
    assert json.loads(out.read_text())["device"] == "a chip"
    assert os.listdir(tmp_path) == ["gpu.json"]
