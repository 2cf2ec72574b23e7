"""A head on all images: its runs on the splits chose what it is fitted with, and say how well such a head does."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from featcache.base.errors import (
    BadInput,
    CorruptFile,
    FeatcacheError,
    InvalidSettings,
    collected,
    counted,
    list_problems,
)
from featcache.base.progress import OnProgress, Progress, silent
from head.calibration.calibration import mean_calibration
from head.data.batches import Choice, SplitData, full_data
from head.evaluation.metrics import rank
from head.evaluation.score import Scored, score_run
from head.evaluation.summary import HeadSummary, without_seed
from head.models.kinds import kind_for
from head.runs.config import NEAR_CEILING, Document, Estimate
from head.runs.find import commands_to_train, train_command
from head.runs.head_file import load_head
from head.runs.history import HISTORY_NAME, read_history
from head.runs.ratings import difference, digests_once
from head.runs.run import CONFIG_NAME, Run, read_run
from head.training.fitted import Unseen
from head.training.job import TrainingJob


def data_of_all(job: TrainingJob, runs: Sequence[Run]) -> SplitData:
    """Return all images of a job's cache, to be fitted with what runs on its splits chose.

    That is the median of their best epochs or, of a baseline, the candidate of the highest mean rho over them, among
    equals the one of the lowest mean MSE, then the first.
    """
    how = f"{counted(len(runs), 'run')} on {_splits(runs)}"
    each = f"each on {' or '.join(dict.fromkeys(run.config.selected_on for run in runs))}"
    if job.of_others:
        weights = np.mean([_weights(run) for run in runs], axis=0)
        chosen = f"{how}, by the means of their weights ({each})"
        return full_data(job.cache, Choice(1, weights=tuple(weights.tolist())), chosen)
    baseline = kind_for(job.settings).baseline
    if baseline is None:
        choice = Choice(_median([run.result.best_epoch or 1 for run in runs]))
        return full_data(job.cache, choice, f"{how}, by the median of their best epochs, {choice.epochs} ({each})")
    candidates = list(zip(*_histories(runs), strict=True))  # for each its line in the history of every run
    means = [{key: float(np.mean([line[key] for line in one])) for key in ("val_rho", "val_mse")} for one in candidates]
    best = max(range(len(means)), key=lambda place: rank(means[place]))
    epochs = _median([int(line["epochs"]) for line in candidates[best]]) if baseline.by_epochs else 1
    of_epochs = f", at the median of its best epochs, {epochs}" if baseline.by_epochs else ""
    chosen = f"{how}, by the candidate of their highest mean rho, number {best + 1} of {len(means)}{of_epochs} ({each})"
    return full_data(job.cache, Choice(epochs, best + 1), chosen)


def choice_of(data: SplitData, runs: Sequence[Run]) -> Document:
    """Return as a JSON object what was chosen, and by how many runs, of which splits and seeds."""
    seeds = sorted({run.seed for run in runs})
    splits = list(dict.fromkeys(run.split for run in runs))
    chosen = asdict(data.chosen) if data.chosen else {}
    weights = list(chosen.pop("weights", ()))
    return {**chosen, **({"weights": weights} if weights else {}), "runs": len(runs), "splits": splits, "seeds": seeds}


def runs_on_splits(job: TrainingJob) -> list[Run]:
    """Return the finished runs of a job's head on the splits, of whatever seed, beside the folder of its own run.

    They have its settings but the seed, its features and views, and belong to its cache by `difference`. Raises
    `InvalidSettings` if there are none, or if one has not finished, with the commands that train them.
    """
    own = job.folder.parent
    others = sorted(own.parent.iterdir()) if own.parent.is_dir() else []
    homes = [own, *(home for home in others if home != own and without_seed(home.name) == without_seed(own.name))]
    folders = [home / f"split-{split}" for split in job.cache.splits for home in homes]
    digests = digests_once(job.cache)
    found: dict[tuple[str, int], Run] = {}
    problems, of_other_data, unfinished = list[str](), list[Run](), list[Run]()
    for run in map(read_run, [folder for folder in folders if (folder / CONFIG_NAME).is_file()]):
        if reason := _other_head(run, job):
            problems.append(f"{run.folder}: {reason}")
        elif reason := difference(run, job.cache, digests):
            problems.append(f"{run.folder}: {reason}")
            of_other_data.append(run)
        elif not run.finished:
            problems.append(f"{run.folder}: its training has not finished")
            unfinished.append(run)
        else:
            found.setdefault((run.split, run.seed), run)
    if unfinished or not found:
        runs = job.folder.parents[3 if job.cache.target else 2]
        commands = commands_to_train(job.cache, unfinished, runs)
        commands += commands_to_train(job.cache, of_other_data, runs, resume=False)
        if not commands:
            commands = [train_command(job.cache, "all", job.settings, name=job.name, runs=runs)]
        raise InvalidSettings(_refusal(job, problems, commands))
    return list(found.values())


def estimate_of(
    runs: Sequence[Run], job: TrainingJob, on_progress: OnProgress = silent
) -> tuple[Estimate, list[Scored]]:
    """Return what the runs on the splits reach on their test parts; of those that have none, why.

    The results themselves stand beside it. Raises what `score_run` raises of damaged runs.
    """
    tested = [run for run in runs if "test" in job.cache.splits[run.split]]

    def score(place: int) -> Scored:
        found = score_run(replace(tested[place], weights=job.weights), job.cache)
        on_progress(Progress("estimate", place + 1, len(tested), "runs on splits scored"))
        return found

    scored, errors = collected(score, range(len(tested)))
    for error in errors:
        if not isinstance(error, BadInput):
            raise error
    problem = _unscored([run for run in runs if run not in tested], errors)
    if not scored:
        return Estimate(problem=problem), []
    found = HeadSummary(job.name, tuple(scored)).as_json()
    rho, low, high, mse = (found[key] for key in ("rho_mean", "rho_low", "rho_high", "mse_mean"))
    counts = {"splits": found["splits"], "seeds": found["seeds"], "images": found["n"]}
    shares: dict[str, Any] = {key: found.get(key) for key in NEAR_CEILING}
    whole = Estimate(rho, low, high, mse, **counts, optimistic=found["optimistic"], problem=problem, **shares)
    return whole, scored


def unseen_by(runs: Sequence[Run], scored: Sequence[Scored]) -> Unseen:
    """Return what a head on all images takes over from its runs on the splits, and their results on test parts.

    Its calibration is the mean of theirs, none if one of them has none. Its residuals are those of each image that was
    scored, by the first run that did.
    """
    first = dict[str, float]()
    for one in scored:
        for name, residual in zip(one.names, np.abs(one.prediction - one.truth).tolist(), strict=True):
            first.setdefault(name, residual)
    residuals = np.array(list(first.values()))
    asked = runs[0].settings["calibrate"]
    if asked == "none":
        return Unseen(residuals=residuals)
    calibrations = [load_head(run).calibration for run in runs]
    known = [one for one in calibrations if one is not None]
    if len(known) < len(runs):
        problem = f"{len(runs) - len(known)} of its {counted(len(runs), 'run')} on the splits could not be calibrated"
        return Unseen(None, residuals, {"calibration": {"kind": "none", "problem": problem}})
    return Unseen(mean_calibration(known), residuals, {"calibration": {"kind": asked}})


def _other_head(run: Run, job: TrainingJob) -> str:
    """Return why a run is not one of a job's head, '' if it is."""
    if {**run.settings, "seed": None} != {**job.settings.as_json(), "seed": None}:
        return "it is of other settings"
    there = (run.config.fingerprint, run.config.input, run.config.document.get("views"))
    here = (job.cache.fingerprint, job.input.as_json(), job.cache.views)
    return "" if there == here else "it was trained on other features or views"


def _refusal(job: TrainingJob, problems: Sequence[str], commands: Sequence[str]) -> str:
    title = f"{job.folder}: a head is fitted to all images with what its finished runs on the splits chose"
    way_out = "\n".join(f"Train them with: {one}" for one in commands)
    return list_problems(f"{title}:", problems, way_out) if problems else f"{title}, and there are none. {way_out}"


def _histories(runs: Sequence[Run]) -> list[list[dict[str, float]]]:
    """Return the history of each run, a line for each candidate; raise `CorruptFile` unless they are of the same."""
    histories = [read_history(run.folder) for run in runs]
    grids = [[_hyperparameters(line) for line in history] for history in histories]
    for run, grid in zip(runs, grids, strict=True):
        if not grid or grid != grids[0]:
            raise CorruptFile(f"{run.folder / HISTORY_NAME}: of other candidates; train it again with --no-resume")
    return histories


def _hyperparameters(line: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in line.items() if not key.startswith(("epoch", "val_"))}


def _weights(run: Run) -> list[float]:
    """Return the weights of a stack's members, in their order, and its intercept."""
    found = run.result.hyperparameters or {}
    return [*(found[name] for name in run.train_settings.members), float(run.result.document["intercept"])]


def _unscored(untested: Sequence[Run], errors: Sequence[FeatcacheError]) -> str:
    """Return why runs on the splits have no score, in words that name no folder, as a head may be given away."""
    lack = [f"{counted(len(untested), 'run')} on {_splits(untested)}, without a test part"] if untested else []
    bad = "whose test parts have no features, or images that were trained on"
    reasons = [*lack, *([f"{len(errors)} {bad}"] if errors else [])]
    return f"not scored: {', and '.join(reasons)}" if reasons else ""


def _median(numbers: Sequence[int]) -> int:
    return int(statistics.median(numbers) + 0.5)


def _splits(runs: Sequence[Run]) -> str:
    splits = list(dict.fromkeys(run.split for run in runs))
    if len(splits) == 1:
        return f"split {splits[0]}"
    numbers = [int(split) for split in splits if split.isdecimal()]
    if len(splits) > 2 and numbers == list(range(numbers[0], numbers[0] + len(splits)) if numbers else []):
        return f"splits {splits[0]} to {splits[-1]}"
    return f"splits {', '.join(splits[:-1])} and {splits[-1]}"
