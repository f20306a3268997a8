"""`train.py dpo`: candidates, pairs, and one epoch of preference tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Annotated, Any

import grain
import jax
from pydantic import Field

from voxtral_jax.buckets import bucket
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.decoder.prompt import LEAST_PROMPT
from voxtral_jax.errors import DataError
from voxtral_jax.parameters import Params, unflatten
from voxtral_jax.sharding import Rules
from voxtral_jax.text import Tokenizer
from voxtral_jax.training.candidates import (
    Candidate,
    Pair,
    Sampling,
    read_pairs,
    speak_candidates,
)
from voxtral_jax.training.checkpoints import note_run, taken
from voxtral_jax.training.data.batches import SpeechBatch
from voxtral_jax.training.data.layout import SpeechSequence, lay_out, one_per_row
from voxtral_jax.training.data.pipeline import Batches, my_rows
from voxtral_jax.training.data.plan import PackingSettings, spoken_text
from voxtral_jax.training.data.shards import CodeSource
from voxtral_jax.training.data.speech import empty_rows
from voxtral_jax.training.distributed import wait_for_all
from voxtral_jax.training.judging import Ranking, load_judge
from voxtral_jax.training.preference import PreferenceBatch, PreferenceLosses, preference_loss
from voxtral_jax.training.settings import (
    CheckpointSettings,
    Count,
    GuardSettings,
    LogSettings,
    MeshSettings,
    OptimizerSettings,
    RunSettings,
    Share,
)
from voxtral_jax.training.sources import source_config, whole_weights
from voxtral_jax.training.speaking import (
    PARTS,
    assemble,
    load_codec,
    model_params,
    prompts_of,
    stage_tokenizer,
)
from voxtral_jax.training.speech import CONSTANTS, check_latent_weights
from voxtral_jax.training.state import Path, gradients_of
from voxtral_jax.training.task import Task

FOLDER = "candidates"
"""Of the candidates' shards, in the run's directory."""


@dataclass(frozen=True, kw_only=True)
class CandidateSettings:
    """What is spoken to prefer among.

    Attributes:
        codes: directory of code shards: their texts are spoken in their speakers' voices.
        prompts: how many of them, or how many of each language, as `{en = 140, ko = 120}`; None is
            all.
        count: candidates for each.
        temperature, top_p: of the semantic code.
        guidance, noise_scale: of the flow; None is the model's own.
    """

    codes: str
    prompts: Count | dict[str, Count] | None = None
    count: Annotated[int, Field(ge=2, le=32)] = 4
    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Share = 0.95
    guidance: float | None = None
    noise_scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class PairData:
    """What a step holds.

    Attributes:
        batch_size: pairs, over all devices.
        row_tokens, row_targets: of a row, for accounts of cost; a run's are its longest pair's.
    """

    batch_size: Count
    row_tokens: Count = 512
    row_targets: Count = 256


@dataclass(frozen=True, kw_only=True)
class DpoSettings:
    """`dpo.toml`.

    Attributes:
        start: model or run to tune; it is the reference as well.
        codec: model or run with the codec.
        tokenizer: directory with `tekken.json`, for models that need one; `start` otherwise.
        judge: `package.module:attribute` of a `voxtral_jax.training.judging.Judge`.
        run: without `steps`, one pass over the pairs, as published: more makes it worse.
        ranking: how scores make winners and losers.
    """

    start: str
    codec: str
    tokenizer: str | None = None
    judge: str
    run: RunSettings
    candidates: CandidateSettings
    ranking: Ranking = Ranking()
    data: PairData
    optimizer: OptimizerSettings
    losses: PreferenceLosses = PreferenceLosses()
    mesh: MeshSettings = MeshSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    logging: LogSettings = LogSettings()
    guard: GuardSettings = GuardSettings()


@dataclass(frozen=True, eq=False)
class PairRows:
    """Pairs as rows of a fixed size.

    Attributes:
        pairs: winner and loser of each prompt.
        ended: whether the model ended each of them itself.
        config: of the model.
        row_tokens, row_targets: of every row.
    """

    pairs: list[tuple[SpeechSequence, SpeechSequence]]
    ended: list[tuple[bool, bool]]
    config: VoxtralConfig
    row_tokens: int
    row_targets: int

    def batch(self, numbers: list[int]) -> PreferenceBatch:
        """These pairs as a batch."""
        sides = [self._side([(n, side) for n in numbers]) for side in (0, 1)]
        return PreferenceBatch(*sides)

    def _side(self, places: list[tuple[int, int]]) -> SpeechBatch:
        rows = one_per_row(
            [self.pairs[n][side] for n, side in places],
            self.config,
            self.row_tokens,
            self.row_targets,
        )
        for row, (n, side) in enumerate(places):
            if not self.ended[n][side]:
                # It was cut: the model did not choose to end there.
                rows.semantic_weights[row, len(self.pairs[n][side].targets) - 1] = 0
        return rows


def pair_rows(pairs: list[Pair], config: VoxtralConfig, tokenizer: Tokenizer) -> PairRows:
    """Lays out all pairs, in rows as long as the longest needs."""

    def sequence(pair: Pair, candidate: Candidate) -> SpeechSequence:
        text = spoken_text(pair.text)
        assert text is not None
        language = pair.language or None
        return lay_out(config, tokenizer, text, pair.voice, candidate.codes, language=language)

    laid = [(sequence(pair, pair.winner), sequence(pair, pair.loser)) for pair in pairs]
    every = [one for both in laid for one in both]
    return PairRows(
        laid,
        [(pair.winner.ended, pair.loser.ended) for pair in pairs],
        config,
        bucket(max(len(one.ids) for one in every), LEAST_PROMPT),
        bucket(max(len(one.targets) for one in every), LEAST_PROMPT),
    )


def _make_pairs(
    settings: DpoSettings, config: VoxtralConfig, tokenizer: Tokenizer
) -> tuple[list[Pair], str]:
    """Speaks what is missing, and reads the pairs of all."""
    folder, how = FilePath(settings.run.out) / FOLDER, settings.candidates
    judge = load_judge(settings.judge)
    if jax.process_index() == 0:
        weights = unflatten(dict(whole_weights(settings.start, config, PARTS)))
        codec = load_codec(settings.codec, config)
        model = assemble(config, weights, codec, tokenizer)
        sampling = Sampling(
            count=how.count,
            temperature=how.temperature,
            top_p=how.top_p,
            guidance=how.guidance,
            noise_scale=how.noise_scale,
            seed=settings.run.seed,
        )
        prompts = prompts_of(CodeSource(how.codes), how.prompts)
        speak_candidates(folder, model, prompts, sampling, judge)
    wait_for_all()
    pairs, total = read_pairs(folder, settings.ranking)
    if len(pairs) < settings.data.batch_size:
        raise DataError(
            f"{len(pairs)} of {total} prompts have candidates that differ by "
            f"ranking.least_margin = {settings.ranking.least_margin}, fewer than data.batch_size = "
            f"{settings.data.batch_size}; speak more prompts or candidates, at a higher temperature"
        )
    return pairs, f"{len(pairs)} pairs of {total} prompts"


def dpo_task(settings: DpoSettings, *, read_data: bool = True) -> Task:
    """Speaks and scores candidates, and puts the stage together.

    Args:
        read_data: False is for accounts of cost: nothing is spoken.

    Raises:
        ConfigError, DataError, CheckpointError: something that it names cannot be used.
    """
    config, data = source_config(settings.start), settings.data
    check_latent_weights(settings.losses.latent_weights, config)
    rows: PairRows | None = None
    notes: tuple[str, ...] = ()
    about = {"stage": "dpo", "params": config.to_dict(), "start": settings.start}
    if read_data:
        tokenizer = stage_tokenizer(config, settings.tokenizer or settings.start)
        out = FilePath(settings.run.out)
        with taken(out):
            if jax.process_index() == 0:
                # Candidates of another model must not be mixed in.
                note_run(out, about)
            pairs, note = _make_pairs(settings, config, tokenizer)
        rows, notes = pair_rows(pairs, config, tokenizer), (note,)

    def init(key: jax.Array) -> Params:
        params = model_params(config, key)
        # The reference is only run, never moved.
        reference = jax.tree.map(lambda leaf: leaf.astype(settings.losses.dtype), params)
        return params | {"reference": reference}

    def trained(path: Path) -> bool:
        return path[0] != "reference" and path[-1] not in CONSTANTS

    def start(rules: Rules) -> Mapping[Path, Any]:
        weights = whole_weights(settings.start, config, PARTS, rules)
        return dict(weights) | {("reference", *path): leaf for path, leaf in weights.items()}

    loss = partial(preference_loss, config, settings.losses)
    return Task(
        config=config,
        init=init,
        start=start,
        trained=trained,
        loss=lambda keep: partial(loss, keep),
        gradients=lambda keep: gradients_of(partial(loss, keep)),
        batch_size=data.batch_size,
        batches=lambda: _batches(rows, settings),
        batches_per_pass=len(rows.pairs) // data.batch_size if rows else 1,
        example=lambda: _example(config, data, rows),
        audio_seconds=lambda batch: float(
            (batch.winners.flow_weights.sum() + batch.losers.flow_weights.sum())
            / config.codec.frame_rate
        ),
        restarted=lambda path: path[0] == "reference",
        about=about,
        notes=notes,
    )


def _batches(rows: PairRows | None, settings: DpoSettings) -> grain.IterDataset[PreferenceBatch]:
    assert rows is not None, "a task made with read_data=False has no data"
    size = settings.data.batch_size
    mine = my_rows(size, (jax.process_index(), jax.process_count()))
    batches = (
        grain.MapDataset.range(len(rows.pairs))
        .shuffle(settings.run.seed % 2**32)
        .repeat()
        .batch(size, drop_remainder=True, batch_fn=list)
        .map(lambda numbers: rows.batch([int(n) for n in numbers[mine]]))
    )
    return Batches(batches, 0)


def _example(config: VoxtralConfig, data: PairData, rows: PairRows | None) -> PreferenceBatch:
    if rows is not None:
        return rows.batch([0] * data.batch_size)
    packing = PackingSettings(row_tokens=data.row_tokens, row_targets=data.row_targets)
    side = empty_rows(config, packing, data.batch_size)
    return PreferenceBatch(side, side)
