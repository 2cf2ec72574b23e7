"""A stack weighs finished heads by what each predicts for folds of train that it was fitted without."""

import hashlib
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls
from sklearn.linear_model import Ridge

import head.training.stack as stacks
from featcache.base.errors import InvalidSettings, Mismatch
from featcache.base.jobs import Workers
from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import EVAL_VIEW, folds_of_train, split_data
from head.data.several import SeveralInputs
from head.data.vectors import read_vectors
from head.evaluation.evaluate import Evaluation, _to_fit_all, evaluate
from head.evaluation.score import score_run
from head.evaluation.summary import HeadSummary
from head.models.kinds import input_of
from head.runs.find import find_runs_of
from head.runs.members import find_member_runs
from head.runs.run import Run, read_run
from head.settings import settings_of
from head.training.forecasts.forecast import forecast
from head.training.job import TrainingJob
from head.training.train import check_start, train
from tests.helpers.stacks import MEAN, MEMBERS, RIDGE, STACK, fit, job_of
from tests.helpers.tiny import SPLITS


@pytest.fixture(scope="module")
def home(cache: FeatureCache, member_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three heads on both splits, their stack and their mean."""
    folder = Path(shutil.copytree(member_runs, tmp_path_factory.mktemp("stacks") / "runs"))
    for settings in (STACK, replace(STACK, head="mean")):
        for split in SPLITS:
            fit(cache, folder, settings, split)
    return folder


def run_of(home: Path, name: str, split: str = "1") -> Run:
    return read_run(home / "tiny" / name / f"split-{split}")


def held_out_by_hand(cache: FeatureCache, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Predictions for train by ridge regressions without each image's fold, and its scores."""
    settings, found, truth = run.train_settings, [], []
    source, data = input_of(cache, settings), split_data(cache, "1", settings)
    for kept, held in folds_of_train(cache, data, 0):
        vectors = read_vectors(cache, kept, source, seed=0)
        mean = vectors.scores.mean()
        alpha = run.result.hyperparameters["alpha"]
        model = Ridge(alpha, fit_intercept=False).fit(vectors.x, vectors.scores - mean)
        x = (source.read(cache, held.rows, EVAL_VIEW).flatten(1).double().numpy() - vectors.mean) / vectors.deviation
        found.append(x @ model.coef_ + mean)
        truth.append(held.scores)
    return np.concatenate(found), np.concatenate(truth)


def test_weights_are_non_negative_least_squares_on_predictions_without_each_images_fold(
    cache: FeatureCache, home: Path, tmp_path: Path
) -> None:
    two = replace(STACK, members=MEMBERS[:2])
    run = fit(cache, home, two)
    columns, truth = zip(*(held_out_by_hand(cache, run_of(home, name)) for name in MEMBERS[:2]), strict=True)
    predictions = np.column_stack(columns)
    wanted = nnls(predictions - predictions.mean(axis=0), truth[0] - truth[0].mean())[0]
    assert run.result.hyperparameters == pytest.approx(dict(zip(MEMBERS, wanted, strict=False)), abs=1e-5)
    assert run.result.document["intercept"] == pytest.approx(truth[0].mean() - predictions.mean(axis=0) @ wanted)
    assert not list(run.folder.glob("checkpoint*"))


@pytest.mark.parametrize("name", ["stack", "mean"])
def test_it_scores_by_the_weighted_sum_of_what_its_members_score(cache: FeatureCache, home: Path, name: str) -> None:
    run = run_of(home, f"{name},member={'+'.join(MEMBERS)}")
    weights = run.result.hyperparameters
    if name == "mean":
        assert list(weights.values()) == pytest.approx([1 / 3] * 3)
    assert run.config.document["members"] == {one: run_of(home, one).result.head_sha256 for one in MEMBERS}
    for part in ("test", "val"):
        each = {one: score_run(run_of(home, one), cache, part=part).prediction for one in MEMBERS}
        wanted = sum(weights[one] * each[one] for one in MEMBERS) + run.result.document["intercept"]
        found = score_run(run, cache, part=part)
        np.testing.assert_allclose(found.prediction, wanted, atol=1e-6)
    assert found.metrics.rho == pytest.approx(run.result.val_rho)


def test_it_is_a_row_beside_its_members(cache: FeatureCache, home: Path) -> None:
    found = evaluate(cache, home)
    names = {one.name for one in found.summaries}
    assert not found.errors and names >= {*MEMBERS, STACK.default_name(), replace(STACK, head="mean").default_name()}
    before = [shlex.split(one) for one in _to_fit_all(cache, [stack_of(found)], find_runs_of(cache, home), home)]
    assert [one[one.index("--head") + 1] if "--head" in one else "paper" for one in before] == [
        *("ridge", "ridge", "paper", "stack"),
    ]
    assert all(one.splits == SPLITS for one in found.summaries if one.name in MEMBERS or "+paper" in one.name)


def stack_of(found: Evaluation) -> HeadSummary:
    return next(one for one in found.summaries if one.name == STACK.default_name())


def test_what_is_missing_is_named_with_what_trains_it(cache: FeatureCache, home: Path, tmp_path: Path) -> None:
    fit(cache, tmp_path, RIDGE, "2")
    fit(cache, tmp_path, MEAN)
    with pytest.raises(InvalidSettings) as caught:
        check_start(job_of(cache, tmp_path, replace(STACK, members=("ridge", "svr", "ridge,pooling=mean"))))
    text = str(caught.value)
    assert f"{tmp_path}/tiny/ridge/split-1: no run there" in text
    assert f"amnet train-head --cache {cache.path} --split 1 --head ridge --runs {tmp_path}" in text
    assert f"{tmp_path}/tiny/svr/split-1: no run there" in text
    there = re.escape(f"{tmp_path}/tiny")
    with pytest.raises(InvalidSettings, match=rf"\n{there} has on split 1 these runs: ridge,pooling=mean\.$"):
        check_start(job_of(cache, tmp_path, replace(STACK, members=("svr", "ridge,pooling=mean"))))
    with pytest.raises(InvalidSettings, match="--head stack takes two heads or more: --member NAME --member NAME"):
        check_start(job_of(cache, tmp_path, replace(STACK, members=("ridge,pooling=mean",))))
    with pytest.raises(
        InvalidSettings, match="paper.*trained with seed 0, and this is of seed 1; train it with --seed 1"
    ):
        check_start(job_of(cache, home, replace(STACK, seed=1)))
    with pytest.raises(InvalidSettings, match="it is a stack itself; name its members"):
        check_start(job_of(cache, home, replace(STACK, members=("ridge", STACK.default_name()))))
    with pytest.raises(InvalidSettings, match="trained with select_on val; use the same here"):
        check_start(job_of(cache, home, replace(STACK, select_on="test")))
    assert not (tmp_path / "tiny" / "stack,member=ridge").exists()


def test_members_are_of_its_seed_unless_they_name_one(cache: FeatureCache, home: Path) -> None:
    fit(cache, home, replace(RIDGE, seed=1))
    of_one = job_of(cache, home, replace(STACK, members=MEMBERS[:2], seed=1))
    assert [run.seed for run in of_one.member_runs] == [1, 0]  # the other would be the same with any seed
    mixed = job_of(cache, home, replace(STACK, members=("ridge", "ridge,seed=1")))
    assert [run.seed for run in mixed.member_runs] == [0, 1]


def test_it_is_refused_where_members_are_trained_again(cache: FeatureCache, tmp_path: Path) -> None:
    for settings in (RIDGE, MEAN):
        fit(cache, tmp_path, settings)
    mean = replace(STACK, head="mean", members=MEMBERS[:2])
    fit(cache, tmp_path, mean)
    folder = tmp_path / "tiny" / "ridge" / "split-1"
    other = (folder / "head.safetensors").read_bytes() + b"other"
    (folder / "head.safetensors").write_bytes(other)
    config = json.loads((folder / "config.json").read_text())
    config["result"]["head_sha256"] = hashlib.sha256(other).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Mismatch, match="members|ridge: .* there, .* asked for"):
        fit(cache, tmp_path, mean)


def test_a_damaged_head_of_a_member_is_listed_with_the_command_that_mends_it(
    cache: FeatureCache, tiny_runs: Path, tmp_path: Path
) -> None:
    runs = shutil.copytree(tiny_runs, tmp_path / "runs")
    (runs / "tiny" / "plain" / "split-1" / "head.safetensors").unlink()
    settings = settings_of(head="mean", members=("paper", "plain"))
    with pytest.raises(InvalidSettings, match=r"plain/split-1/head.safetensors: missing or damaged\n.*--no-resume"):
        find_member_runs(cache, "1", settings, runs / "tiny")


def test_a_killed_stack_goes_on_where_it_was(
    cache: FeatureCache, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, real, name = list[Path](), stacks.fit_baseline, "another"
    two = replace(STACK, members=MEMBERS[:2])
    whole = fit(cache, home, two)

    def killed(job: TrainingJob, *given: object, **how: object) -> object:
        fits.append(job.folder)
        if len(fits) == 4:
            raise KeyboardInterrupt
        return real(job, *given, **how)

    monkeypatch.setattr(stacks, "fit_baseline", killed)
    with pytest.raises(KeyboardInterrupt):
        train(job_of(cache, home, two, name=name))
    run = train(job_of(cache, home, two, name=name))
    assert len(fits) == 10 + 1 and run.result.head_sha256 == whole.result.head_sha256
    assert not list(run.folder.glob("checkpoint*"))


def test_without_a_val_part_each_fold_is_judged_by_weights_of_the_others(cache: FeatureCache, tmp_path: Path) -> None:
    cache = open_cache(cache.path)
    for parts in cache.splits.values():
        parts.pop("val")
    for settings in (RIDGE, MEAN):
        run = fit(cache, tmp_path, settings)
    found = fit(cache, tmp_path, replace(STACK, members=MEMBERS[:2]))
    assert found.config.selected_on == run.config.selected_on == "5-fold cross-validation within train"
    assert found.result.val_images == 23


def test_on_all_images_it_has_the_means_of_its_weights_on_the_splits(cache: FeatureCache, home: Path) -> None:
    two = replace(STACK, members=MEMBERS[:2])
    runs = [fit(cache, home, two, split) for split in SPLITS]
    with pytest.raises(InvalidSettings, match="--split full --head ridge"):
        fit(cache, home, two, "full")
    for settings in (RIDGE, MEAN):
        fit(cache, home, settings, "full")
    run = fit(cache, home, two, "full")
    for name in two.members:
        wanted = np.mean([one.result.hyperparameters[name] for one in runs])
        assert run.result.hyperparameters[name] == pytest.approx(wanted)
    assert run.on_all_images and run.result.estimate.rho is not None
    assert fit(cache, home, two, "full").result == run.result  # finished


def test_what_is_read_is_there_once(cache: FeatureCache, home: Path) -> None:
    same = job_of(cache, home, replace(STACK, members=("ridge", "ridge,seed=1", "paper")))
    found = same.input
    assert isinstance(found, SeveralInputs) and len(found.inputs) == 2
    read = found.read(cache, np.array([3, 5]), EVAL_VIEW)
    place = found.slices(cache.recipe)[1]
    wanted = found.inputs[1].read(cache, np.array([3, 5]), EVAL_VIEW)
    np.testing.assert_array_equal(read[:, 0, place].reshape(wanted.shape), wanted)


def test_a_dry_run_says_how_often_members_are_fitted(cache: FeatureCache, home: Path) -> None:
    jobs = [
        job_of(cache, home, replace(STACK, head=head, members=MEMBERS[:2]), name=head) for head in ("stack", "mean")
    ]
    stack, mean = forecast(jobs, Workers()).as_text().split("\n\n")
    assert stack == "stack: 1 run\ntakes    2 heads, each fitted 5 times more a run, which is not timed"
    assert mean == "mean: 1 run\ntakes    2 heads, as they are"
    assert not jobs[0].folder.exists()
