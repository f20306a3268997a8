"""Runs that are killed, stopped, shared by two hosts, or only planned."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import small
from compiling import QUICK

from voxtral_jax.adapter import add_adapters
from voxtral_jax.errors import CheckpointError, ConfigError, TrainingError
from voxtral_jax.training import stages
from voxtral_jax.training.checkpoints import taken
from voxtral_jax.training.distributed import Cluster, find_cluster
from voxtral_jax.training.settings import build_settings, load_settings
from voxtral_jax.training.speech import SpeechLosses
from voxtral_jax.training.stages.codec_settings import CodecSettings, check_together

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
PATIENCE = 180
"""Seconds after which a process is taken to hang."""


def toml(table: dict, prefix: str = "") -> str:
    """A table as TOML."""
    lines = [f"{k} = {json.dumps(v)}" for k, v in table.items() if not isinstance(v, dict)]
    text = "\n".join(([f"[{prefix}]"] if prefix else []) + lines) + "\n"
    for name, value in table.items():
        if isinstance(value, dict):
            text += toml(value, f"{prefix}.{name}" if prefix else name)
    return text


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec configuration, its data, and a cache of programs for the processes to share."""
    root = tmp_path_factory.mktemp("runs")
    small.small_config().save(root / "params.json")
    manifest = small.write_recordings(root / "audio")
    table = small.codec_table(root / "params.json", manifest, root / "unused", 12)
    del table["data"]["validation"]
    table["checkpoints"] = {"every_steps": 2}
    (root / "codec.toml").write_text(toml(table))
    return root / "codec.toml"


def start(config: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """`python train.py codec` on one CPU device."""
    plain = os.environ | {"XLA_FLAGS": QUICK}
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", "codec", "--config", config, *overrides],
        env=plain | {"XDG_CACHE_HOME": str(config.parent / "cache")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out
    return out


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Waits until the run has logged a step."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        log = out / "metrics.jsonl"
        if log.exists() and len(log.read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run ended or hung before step {step}")


def losses(out: Path) -> dict[int, float]:
    return {int(line["step"]): line["loss"] for line in small.read_metrics(out)}


@pytest.fixture(scope="module")
def whole(config: Path) -> dict[int, float]:
    """Losses of a run that nothing disturbed."""
    out = config.parent / "whole"
    finish(start(config, f"run.out={out}"))
    return losses(out)


def test_a_killed_run_continues_as_if_nothing_had_happened(config: Path, whole) -> None:
    out = config.parent / "killed"
    process = start(config, f"run.out={out}")
    wait_for_step(process, out, 7)
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    told = finish(start(config, f"run.out={out}"))
    assert re.search(r"continuing .* at step [2-9] of 12", told) or "at step 10" in told
    assert losses(out).keys() == set(range(1, 13))
    np.testing.assert_allclose(
        list(losses(out).values()), [whole[i] for i in losses(out)], rtol=1e-5
    )
    assert not list(out.glob("checkpoints/*tmp*"))


def test_a_run_that_is_asked_to_stop_saves_and_ends_well(config: Path, whole) -> None:
    out = config.parent / "stopped"
    process = start(config, f"run.out={out}", "checkpoints.every_steps=1000")
    wait_for_step(process, out, 3)
    with pytest.raises(CheckpointError, match="another process trains in"), taken(out):
        pass
    process.send_signal(signal.SIGTERM)
    told = finish(process)
    assert "asked to stop" in told
    with taken(out):
        pass
    saved = max(losses(out))
    assert (out / "checkpoints" / str(saved)).is_dir()
    np.testing.assert_allclose(losses(out)[saved], whole[saved], rtol=1e-5)


def test_two_hosts_learn_what_one_learns(config: Path, whole) -> None:
    out = config.parent / "hosts"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = [
        start(
            config,
            f"run.out={out}",
            "run.steps=3",
            "mesh.data=2",
            COORDINATOR_ADDRESS=address,
            NUM_PROCESSES="2",
            PROCESS_ID=str(index),
            JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
        )
        for index in range(2)
    ]
    for host in hosts:
        finish(host)
    np.testing.assert_allclose(list(losses(out).values()), [whole[i] for i in (1, 2, 3)], rtol=1e-4)


@pytest.mark.parametrize(
    ("environment", "cluster"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_ID": "0"}, Cluster(None, 4, 2)),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, None),
        (
            {
                "COORDINATOR_ADDRESS": "train-0.train",
                "NUM_PROCESSES": "8",
                "JOB_COMPLETION_INDEX": "3",
                "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            },
            Cluster("train-0.train:8476", 8, 3),
        ),
        (
            {"COORDINATOR_ADDRESS": "a:1", "NUM_PROCESSES": "2", "PROCESS_ID": "1"},
            Cluster("a:1", 2, 1),
        ),
        ({"COORDINATOR_ADDRESS": "a:1", "NUM_PROCESSES": "1", "PROCESS_ID": "0"}, None),
    ],
)
def test_the_environment_tells_the_cluster(environment, cluster) -> None:
    assert find_cluster(environment) == cluster


@pytest.mark.parametrize(
    "environment",
    [
        {"COORDINATOR_ADDRESS": "a:1"},
        {"COORDINATOR_ADDRESS": "a:1", "NUM_PROCESSES": "2", "PROCESS_ID": "2"},
        {"COORDINATOR_ADDRESS": "a:1", "NUM_PROCESSES": "two", "PROCESS_ID": "0"},
    ],
)
def test_half_a_cluster_is_refused(environment) -> None:
    with pytest.raises(TrainingError):
        find_cluster(environment)


def test_a_dry_run_plans_the_4b_model_on_a_cluster() -> None:
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "train.py", "speech", "--dry-run"),
            *("--config", CONFIGS / "voxtral-4b/speech.toml"),
            *("mesh.data=4", "mesh.fsdp=8", "mesh.tensor=2"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "data=4 x fsdp=8 x tensor=2" in done.stdout
    assert "3,448,123,392 trained, 402,654,720 frozen" in done.stdout
    found = re.search(r"averages ([\d.]+) GiB, gradients ([\d.]+) GiB", done.stdout)
    assert found is not None
    state, gradients = map(float, found.groups())
    # Weights and two moments are three times the gradients; what cannot be split lies everywhere.
    share = 4 * 3_448_123_392 / 16 / 2**30
    assert share <= gradients < 1.1 * share
    assert 3 * share <= state < 1.2 * (3 * share + 4 * 402_654_720 / 16 / 2**30)


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("*/*.toml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_configuration_that_ships_is_valid(path: Path) -> None:
    stage = {"lora": "speech", "encoder": "codec", "decoder": "codec"}.get(path.stem, path.stem)
    load_settings(stages.SETTINGS[stage], path, [])


def test_overrides_replace_values(config: Path) -> None:
    settings = load_settings(
        CodecSettings, config, ["run.steps=7", "run.out=some where", "losses.stft_windows=[64, 32]"]
    )
    assert settings.run.steps == 7
    assert settings.run.out == "some where"
    assert settings.losses.stft_windows == (64, 32)


def test_one_setting_of_the_discriminators_leaves_the_others(config: Path) -> None:
    override = "discriminators.optimizer.learning_rate=1e-3"
    plain, faster = (load_settings(CodecSettings, config, x) for x in ([], [override]))
    ours = plain.discriminators.optimizer
    assert faster.discriminators.optimizer == replace(ours, learning_rate=1e-3)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("run.stepz=7", r"run\.stepz"),
        ("run.steps=-1", r"run\.steps"),
        ("optimizer.learning_rate=fast", r"optimizer\.learning_rate"),
        ("optimizer.schedule=spiral", r"optimizer\.schedule"),
        ("discriminators.windows=[2]", r"discriminators\.windows"),
        ("losses.stft_windows=[]", r"losses\.stft_windows"),
        ("quantizer.noise_share=2", r"quantizer\.noise_share"),
        ("nonsense", "nonsense"),
        ("params.deep.key=1", "params"),
    ],
)
def test_mistakes_in_settings_are_named(config: Path, override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_settings(CodecSettings, config, [override])


@pytest.mark.parametrize(
    ("name", "value"), [("dtype", "bf16"), ("flow_draws", 0)], ids=["dtype", "flow_draws"]
)
def test_losses_of_speech_that_cannot_be_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        build_settings(SpeechLosses, {name: value}, "a test")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["discriminators.optimizer.accumulate=2"], "takes no accumulate"),
        (["discriminators.optimizer.average_decay=0.9"], "no average_decay"),
        (["quantizer.acoustic_share=0.8", "quantizer.noise_share=0.3"], "add up to 1 at most"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(config: Path, overrides, named: str) -> None:
    settings = load_settings(CodecSettings, config, overrides)
    with pytest.raises(ConfigError, match=named):
        check_together(settings, small.small_config().codec)


def test_a_pattern_that_is_no_expression_is_named() -> None:
    with pytest.raises(ConfigError, match=r"lora\.pattern 'layers\.\(' is no regular expression"):
        add_adapters({}, "layers.(", 1, jax.random.key(0))


def test_a_configuration_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_settings(CodecSettings, tmp_path / "no.toml", [])
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(ConfigError, match="TOML"):
        load_settings(CodecSettings, tmp_path / "bad.toml", [])
