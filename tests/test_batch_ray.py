"""Batch jobs and the server on Ray: a worker is killed, nothing is lost or done twice."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from voxtral_jax.errors import ConfigError
from voxtral_jax.serving.batch.records import JOURNALS, MERGED, read_results

# Before ray is imported: it reports to its makers otherwise.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="needs voxtral-jax[ray]")
pytest.importorskip("ray.data", reason="needs voxtral-jax[ray]")

PROGRAM = "from voxtral_jax.cli import voxtral; voxtral()"
ENOUGH = 600
COUNT = 24
PORT = 8713


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster on this machine."""
    context = ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()


def journals(out: Path) -> list[Path]:
    return [file for file in (out / JOURNALS).glob("*.jsonl") if file.name != MERGED]


def test_a_killed_worker_is_replaced_and_nothing_is_lost_or_done_twice(
    cluster: str, tmp_path: Path, reference: Path
) -> None:
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    lines: list[dict[str, Any]] = [
        {"text": f"This is number {number}.", "voice": "de_male", "max_seconds": 0.6}
        for number in range(COUNT)
    ]
    lines[5] = {"text": "This is too short.", "ref": str(tmp_path / "short.wav")}
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 24_000)
    jobs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ("--out", out, "--model", reference, "--slots", 4, "--ray", cluster)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "batch", str(jobs), *map(str, options)],
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + ENOUGH
    while sum(result.file is not None for result in read_results(out).values()) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "nothing is spoken"
        time.sleep(0.01)
    # A journal's name tells whose it is.
    (journal,) = journals(out)
    worker = int(journal.name.split("-")[-2])
    os.kill(worker, signal.SIGKILL)
    files = {r.file for r in read_results(out).values() if r.file is not None}
    before = {file: (out / file).stat().st_mtime_ns for file in files}
    assert len(before) < COUNT - 1, "too quick to be killed"
    _, said = process.communicate(timeout=ENOUGH)
    assert process.returncode == 1, said
    assert f"{COUNT - 1}/{COUNT}, 1 failed" in said
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["name"] for line in results] == [f"{line:06}" for line in range(1, COUNT + 1)]
    assert [line["line"] for line in results if line["error"]] == [6]
    spoken = {line["file"] for line in results if line["file"]}
    assert spoken == {file.name for file in out.glob("*.wav")}
    assert len(spoken) == COUNT - 1
    assert before == {file: (out / file).stat().st_mtime_ns for file in before}
    assert not [*out.rglob("*.tmp-*")]
    assert not journals(out), "they are folded into one"


def test_the_server_runs_on_ray_serve(cluster: str, reference: Path) -> None:
    serve = pytest.importorskip("ray.serve", reason="needs voxtral-jax[ray]")
    pytest.importorskip("fastapi", reason="needs voxtral-jax[serve]")
    from voxtral_jax.serving.ray_serve import application

    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    arguments = {"model": str(reference), "gpus": 0, "slots": 4, "watermark": False}

    def speak(seed: int) -> np.ndarray:
        asked = {"model": "voxtral", "input": "Hi.", "voice": "de_male", "response_format": "wav"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORT}/v1/audio/speech",
            json.dumps(asked | {"seed": seed}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=ENOUGH) as answer:
            samples, rate = soundfile.read(io.BytesIO(answer.read()))
        assert rate == 24_000
        return samples

    try:
        serve.run(application(arguments | {"most_replicas": 1}), name="test", route_prefix="/")
        first, again, other = speak(3), speak(3), speak(4)
    finally:
        serve.shutdown()
    assert len(first) > 0
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_configuration_in_deploy_fits_the_application() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="needs voxtral-jax[ray]")
    pytest.importorskip("fastapi", reason="needs voxtral-jax[serve]")
    yaml = pytest.importorskip("yaml")
    from voxtral_jax.serving.ray_serve import application

    file = Path(__file__).parents[1] / "deploy" / "ray_serve.yaml"
    (described,) = schema.ServeDeploySchema.model_validate(
        yaml.safe_load(file.read_text())
    ).applications
    assert described.import_path == "voxtral_jax.serving.ray_serve:application"
    application(described.args)
    with pytest.raises(ConfigError, match="slots: Input should be greater than or equal to 1"):
        application(described.args | {"slots": 0})
    with pytest.raises(ConfigError, match="gpu: Unexpected keyword argument"):
        application(described.args | {"gpu": 1})
