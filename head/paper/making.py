"""The paper's tables on one dataset, made: features extracted, heads trained, all scored on the same images."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from featcache.backbones.families.descriptor_networks import parts_of_name
from featcache.base.commands import command
from featcache.base.errors import FeatcacheError, InvalidSettings, collected
from featcache.base.jobs import Workers
from featcache.base.progress import OnProgress, silent
from featcache.datasets.dataset import Dataset
from featcache.extraction.extract import extract
from featcache.extraction.log import ExtractReport
from featcache.settings import ExtractSettings
from featcache.store.cache import FeatureCache, open_cache
from head.evaluation.compare import compare
from head.evaluation.people import human_consistency
from head.evaluation.score import Scored, score_run, write_scores
from head.evaluation.summary import HeadSummary
from head.grid import Point
from head.paper.systems import OF_PAPER, REFERENCE, System, features_of, systems_of
from head.paper.table import PaperTable, Row
from head.runs.run import Run
from head.training.jobs import jobs_of, train_all

ALL_ROWS = "all"
_ALONE = Workers()


@dataclass(frozen=True)
class Making:
    """How a table is made: rows are names of `systems_of`; backbone is AMNet's, with augs crops an image.

    Without rows they are those that train no network; 'all' alone is all.

    weights gives 'random' or a file for a network by its name, '' for all that are not named. eval_view is that of
    every cache, None for each one's own.
    """

    backbone: str = OF_PAPER
    rows: tuple[str, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    eval_view: str | None = None
    augs: int = 10
    split: str = "all"
    seed: int = 0
    device: str = "auto"

    def systems(self, dataset: str) -> dict[str, System]:
        """Return the rows that are asked for; raise `InvalidSettings` for others, and for weights of no network."""
        known = systems_of(dataset, self.backbone, seed=self.seed)
        rows = tuple(known) if self.rows == (ALL_ROWS,) else self.rows
        if unknown := [row for row in rows if row not in known]:
            raise InvalidSettings(f"--rows {','.join(unknown)}: no such row; there are {', '.join(known)}")
        networks = list(dict.fromkeys(self._network(name) for name in features_of(self.backbone)))
        if unknown := [name for name in self.weights if name and name not in networks]:
            raise InvalidSettings(
                f"{command('--weights', f'{unknown[0]}=...')}: the networks are {', '.join(networks)}"
            )
        return {name: system for name, system in known.items() if name in rows or not (rows or system.slow)}

    def extraction(self, features: str) -> ExtractSettings:
        """Return the extraction of one cache."""
        found = features_of(self.backbone)[features]
        weights = self.weights_of(features)
        return found.settings(weights=weights, eval_view=self.eval_view, augs=self.augs, device=self.device)

    def weights_of(self, features: str) -> str:
        """Return where the weights of a cache's network come from."""
        return self.weights.get(self._network(features), self.weights.get("", "imagenet"))

    def _network(self, features: str) -> str:
        return parts_of_name(features_of(self.backbone)[features].backbone).network


class Made(NamedTuple):
    """A table for each rating of a dataset, and what the extraction of each cache has to say."""

    tables: list[PaperTable]
    extracted: list[ExtractReport]


def paper_tables(
    dataset: Dataset,
    how: Making,
    *,
    caches: Path,
    runs: Path,
    workers: Workers = _ALONE,
    on_progress: OnProgress = silent,
) -> Made:
    """Make what is missing of the caches and runs of a dataset's rows; return a table for each of its ratings.

    Caches are caches/DATASET-NAME, runs runs/DATASET-NAME/ROW/split-K; what is there is not made again. Raises what
    `extract` and `jobs_of` raise; errors of single runs are collected.
    """
    started, systems = time.monotonic(), how.systems(dataset.name)
    opened, extracted = {}, []
    for name in dict.fromkeys(system.features for system in systems.values()):
        folder = caches / f"{dataset.name}-{name}"
        extracted.append(extract(dataset, how.extraction(name), folder, workers=workers, on_progress=on_progress))
        opened[name] = open_cache(folder)
    tables, seconds = [], time.monotonic() - started
    for target in next(iter(opened.values())).targets or (None,):
        begun = time.monotonic()
        of_target = {name: cache.of_target(target) for name, cache in opened.items()}
        results, errors = _results(systems, of_target, how, runs, workers, on_progress)
        rows, notes = _compared(systems, results, how)
        name = f"{dataset.name}, {target}" if target else dataset.name
        splits = dict.fromkeys(one.run.split for summary in results.values() for one in summary.scored)
        people = human_consistency(next(iter(of_target.values())), splits)
        tables.append(PaperTable(name, rows, errors, notes, people, seconds, time.monotonic() - begun))
    return Made(tables, extracted)


def _results(
    systems: Mapping[str, System],
    caches: Mapping[str, FeatureCache],
    how: Making,
    runs: Path,
    workers: Workers,
    on_progress: OnProgress,
) -> tuple[dict[str, HeadSummary], list[FeatcacheError]]:
    """Train and score every system on its cache; return the results by row, and errors of single runs."""
    jobs = [
        job
        for name, system in systems.items()
        for job in jobs_of(
            caches[system.features], [Point(name, system.settings)], how.split, runs=runs, device=how.device
        )
    ]
    trained = train_all(jobs, workers, on_progress=on_progress)

    def scored(run: Run) -> Scored:
        result = score_run(run, caches[systems[run.name].features])
        write_scores(result)
        return result

    results, errors = collected(scored, trained.runs)
    by_row = {name: tuple(one for one in results if one.run.name == name) for name in systems}
    return {name: HeadSummary(name, of) for name, of in by_row.items() if of}, [*trained.errors, *errors]


def _compared(
    systems: Mapping[str, System], results: Mapping[str, HeadSummary], how: Making
) -> tuple[list[Row], list[str]]:
    """Return the rows, compared with AMNet's where that is among them and was tested on the same images; and notes."""
    reference, notes, comparable = results.get(REFERENCE), list[str](), dict[str, HeadSummary]()
    for name, summary in results.items():
        if reference and _tested(summary) != _tested(reference):
            notes.append(
                f"{name}: tested on other images than {REFERENCE}, so not compared with it: its cache saw other "
                "look-alikes or left out other images; give the dataset splits of its own"
            )
        else:
            comparable[name] = summary
    found = compare(list(comparable.values()), against=REFERENCE) if reference else []
    comparison = {one.name: one for one in found}
    rows = [
        Row(name, systems[name], how.weights_of(systems[name].features), summary, comparison.get(name))
        for name, summary in results.items()
    ]
    return rows, notes


def _tested(summary: HeadSummary) -> Sequence[tuple[str, frozenset[str]]]:
    """Return each split with the images that a row was tested on."""
    return sorted((one.run.split, frozenset(one.names)) for one in summary.scored)
