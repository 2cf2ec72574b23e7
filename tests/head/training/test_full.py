"""A head on all images is fitted with what its runs on the splits chose, and has no test score of its own."""

import json
import shlex
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from sklearn.linear_model import Ridge

from featcache.base.errors import BadInput, CorruptFile, InvalidSettings, Mismatch
from featcache.base.progress import Progress
from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.manifest import read_manifest, write_manifest
from head.data.batches import parts_of, split_data
from head.data.vectors import read_vectors
from head.evaluation.evaluate import evaluate
from head.models.kinds import input_of
from head.prediction.predictor import Predictor
from head.runs.head_file import load_head
from head.runs.history import read_history
from head.runs.ratings import difference
from head.runs.run import Run, read_run
from head.settings import TrainSettings
from head.show.page.facts import run_facts
from head.training.full import data_of_all, runs_on_splits
from head.training.gradients.trainer import Trainer
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.command_line import amnet, told
from tests.helpers.processes import run_forked
from tests.helpers.tiny import IMAGES, SPLITS, TINY_TRAIN

RIDGE = TrainSettings(head="ridge")


@pytest.fixture
def own(tiny_cache: Path) -> FeatureCache:
    """The tiny cache, opened for each test."""
    return open_cache(tiny_cache)


def fit(cache: FeatureCache, runs: Path, settings: TrainSettings, split: str = "full", name: str = "") -> Run:
    name = name or settings.default_name()
    return train(TrainingJob(cache, split, settings, runs / cache.name / name / f"split-{split}", name))


@pytest.fixture
def ridge(own: FeatureCache, tmp_path: Path) -> Path:
    """A home of runs with ridge on both splits, with two seeds on the first."""
    for split in SPLITS:
        fit(own, tmp_path / "runs", RIDGE, split)
    fit(own, tmp_path / "runs", replace(RIDGE, seed=1), "1")
    return tmp_path / "runs"


def means_of_scores(cache: FeatureCache) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for parts in cache.splits.values():
        for part in parts.values():
            for row, score in zip(part.rows.tolist(), part.scores.tolist(), strict=True):
                found.setdefault(row, []).append(score)
    return {row: mean(scores) for row, scores in sorted(found.items())}


def test_all_images_are_each_there_once_with_the_mean_of_their_scores(own: FeatureCache) -> None:
    del own.splits["2"]["test"]
    wanted = means_of_scores(own)
    found = parts_of(own, "full")["train"]
    assert found.rows.tolist() == list(wanted)
    np.testing.assert_allclose(found.scores, list(wanted.values()), rtol=1e-12)
    own.splits["2"] = {"train": own.splits["1"]["train"]}
    same = parts_of(own, "full")["train"]
    truth = {r: s for part in own.splits["1"].values() for r, s in zip(part.rows, part.scores, strict=True)}
    assert dict(zip(same.rows, same.scores, strict=True)) == truth  # to the last bit


def test_a_split_of_the_cache_that_is_named_full_is_that_split(own: FeatureCache, tmp_path: Path) -> None:
    own.splits["full"] = own.splits["1"]
    assert parts_of(own, "full") is own.splits["1"]
    assert not fit(own, tmp_path / "runs", RIDGE).on_all_images


def test_a_split_named_full_is_told(tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_cache, tmp_path / "cache" / "own")
    manifest = read_manifest(tiny_cache)
    splits = {**manifest.ratings[""], "full": manifest.ratings[""]["1"]}
    write_manifest(tmp_path / "cache" / "own", replace(manifest, ratings={"": splits}))
    told = amnet("train-head", "--split", "full", "--head", "ridge").stderr
    assert "warning: runs/own/ridge/split-full: of the cache's own split full, not of all images" in told
    assert "split-full" not in amnet("score-cache").stderr


def test_the_candidate_of_the_highest_mean_rho_is_fitted_to_all_images(own: FeatureCache, ridge: Path) -> None:
    run = fit(own, ridge, RIDGE)
    folders = ("ridge/split-1", "ridge,seed=1/split-1", "ridge/split-2")
    histories = [read_history(ridge / "tiny" / folder) for folder in folders]
    means = [
        (
            mean(history[place]["val_rho"] for history in histories),
            -mean(history[place]["val_mse"] for history in histories),
        )
        for place in range(13)
    ]
    best = means.index(max(means))
    alpha = histories[0][best]["alpha"]
    assert run.result.hyperparameters == {"alpha": alpha}
    wanted = means_of_scores(own)
    part = Part(np.array(list(wanted)), np.array(list(wanted.values())))
    vectors = read_vectors(own, part, input_of(own, RIDGE), seed=0)
    y = (vectors.scores - vectors.scores.mean()) / vectors.scores.std()
    by_hand = Ridge(alpha, fit_intercept=False).fit(vectors.x, y).coef_
    np.testing.assert_allclose(load_head(run).module.weight, by_hand, atol=1e-9)
    assert len(load_head(run).train_images) == IMAGES == run.config.train_images
    assert run.result.val_rho is None
    assert run.config.selected_on == (
        f"3 runs on splits 1 and 2, by the candidate of their highest mean rho, number {best + 1} of 13 "
        "(each on the val part)"
    )
    assert run.config.document["choice"] == {
        "candidate": best + 1, "epochs": 1, "runs": 3, "splits": ["1", "2"], "seeds": [0, 1],
    }  # fmt: skip


def test_the_estimate_is_the_mean_of_the_runs_on_the_splits(own: FeatureCache, ridge: Path) -> None:
    found = fit(own, ridge, RIDGE).result.estimate
    summary = evaluate(own, ridge).summaries[0].as_json()
    assert found is not None
    assert (found.rho, found.low, found.high, found.mse, found.images) == tuple(
        summary[key] for key in ("rho_mean", "rho_low", "rho_high", "mse_mean", "n")
    )
    assert (found.splits, found.seeds, found.problem) == (2, 2, "")


@pytest.mark.parametrize("settings", [replace(TINY_TRAIN, epochs=4), replace(TINY_TRAIN, epochs=3, attention=False)])
def test_a_network_is_trained_for_the_median_of_the_best_epochs(
    own: FeatureCache, tmp_path: Path, settings: TrainSettings
) -> None:
    runs = [fit(own, tmp_path, settings, split, "net") for split in SPLITS]
    run = fit(own, tmp_path, settings, name="net")
    epochs = int(median([one.result.best_epoch or 0 for one in runs]) + 0.5)
    assert run.result.best_epoch == run.result.epochs == epochs
    assert f"by the median of their best epochs, {epochs} (each on the val part)" in run.config.selected_on
    assert "val_rho" not in read_history(run.folder)[0]
    train_part = parts_of(own, "full")["train"]
    by_hand = replace(split_data(own, "1", settings), train=train_part)
    job = TrainingJob(own, "1", settings, tmp_path / "by-hand", "by-hand")
    device, silent = torch.device("cpu"), lambda report: None
    trainer = Trainer(job, by_hand, device=device, on_progress=silent, on_history=silent)
    for epoch in range(1, epochs + 1):
        trainer.train_epoch(epoch)
    for name, tensor in load_head(run).module.state_dict().items():
        assert torch.equal(tensor, trainer.model.state_dict()[name]), name


def test_a_perceptron_is_fitted_for_the_median_epoch_of_its_candidate(own: FeatureCache, tmp_path: Path) -> None:
    settings = TrainSettings(head="mlp", epochs=3, patience=2)
    histories = [read_history(fit(own, tmp_path, settings, split).folder) for split in SPLITS]
    result = fit(own, tmp_path, settings).result
    lines = [history[(result.best_epoch or 0) - 1] for history in histories]
    assert result.hyperparameters is not None
    assert result.hyperparameters["epochs"] == int(median(line["epochs"] for line in lines) + 0.5)


KILLED = """
import os, signal, sys
import head.training.gradients.trainer
from cli import main

head.training.gradients.checkpoint.CHECKPOINT_SECONDS = -1  # after every epoch

def killed_at_two(progress):
    if progress.unit == "epochs" and progress.done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

import contextlib, commandline.heads
commandline.heads.progress_bar = lambda: contextlib.nullcontext(killed_at_two)
main(sys.argv[1:])
"""


@pytest.fixture
def here(tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with cache/tiny."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(tiny_cache, tmp_path / "cache" / "tiny")
    return tmp_path


def test_a_killed_one_ends_as_if_it_had_not_been(here: Path) -> None:
    options = ["train-head", "--name", "net", "--epochs", "6", "--hidden-size", "7", "--batch-size", "11"]
    options += ["--attention", "off", "--lr", "0.001", "--precision", "fp32"]
    amnet(*options, "--split", "all")
    for split in SPLITS:  # as if all had been best at the last
        path = Path(f"runs/tiny/net/split-{split}/config.json")
        config = json.loads(path.read_text())
        config["result"]["best_epoch"] = 6
        path.write_text(json.dumps(config))
    shutil.copytree("runs", "other")
    assert run_forked(KILLED, *options, "--split", "full").returncode == -signal.SIGKILL
    folder = Path("runs/tiny/net/split-full")
    assert (folder / "checkpoint").is_file()
    assert not read_run(folder).finished
    amnet(*options, "--split", "full")
    amnet(*options, "--split", "full", "--runs", "other")
    names = ("config.json", "head.safetensors", "history.csv")
    again = Path("other/tiny/net/split-full")
    assert [(folder / name).read_bytes() for name in names] == [(again / name).read_bytes() for name in names]
    assert len(read_history(folder)) == 6
    before = (folder / "head.safetensors").stat().st_mtime_ns
    amnet(*options, "--split", "full")
    assert (folder / "head.safetensors").stat().st_mtime_ns == before


def test_without_runs_on_the_splits_the_command_that_trains_them_is_told(here: Path) -> None:
    options = ["--head", "ridge", "--pooling", "mean", "--layer", "layer3", "--name", "mine", "--seed", "3"]
    refused = amnet("train-head", "--split", "full", *options, status=2).stderr
    assert (
        "a head is fitted to all images with what its finished runs on the splits chose, and there are none" in refused
    )
    words = refused.rpartition("Train them with: amnet ")[2].split()
    assert words[:5] == ["train-head", "--cache", str(here / "cache" / "tiny"), "--split", "all"]
    assert not Path("runs").exists()
    amnet(*words)
    assert len(amnet("train-head", "--split", "full", *options).stdout.splitlines()) == 1


def test_runs_that_do_not_count_are_told_with_why(own: FeatureCache, ridge: Path) -> None:
    path = ridge / "tiny" / "ridge" / "split-2" / "config.json"
    config = json.loads(path.read_text())
    del config["result"]
    path.write_text(json.dumps(config))
    with pytest.raises(InvalidSettings, match=r"split-2: its training has not finished\n"):
        fit(own, ridge, RIDGE)
    path.write_text(json.dumps({**config, "settings": {**config["settings"], "pooling": "mean"}}))
    part = own.splits["1"]["train"]
    own.splits["1"]["train"] = Part(part.rows, 1 - part.scores)
    with pytest.raises(InvalidSettings) as caught:
        fit(own, ridge, RIDGE)
    assert [line.partition(": ")[2] for line in str(caught.value).splitlines()[1:4]] == [
        "it was trained or selected on other scores of these images",
        "it was trained or selected on other scores of these images",
        "it is of other settings",
    ]
    assert not (ridge / "tiny" / "ridge" / "split-full").exists()


def test_all_images_stand_alone(here: Path) -> None:
    refused = amnet("train-head", "--split", "1,full", "--head", "ridge", status=2).stderr
    assert "--split full, for all images, stands alone" in refused


def test_one_split_has_no_interval_and_no_test_part_no_estimate(own: FeatureCache, tmp_path: Path) -> None:
    fit(own, tmp_path / "one", RIDGE, "1")
    one = fit(own, tmp_path / "one", RIDGE)
    assert "no interval, of 1 split" in one.estimate
    for parts in own.splits.values():
        del parts["test"]
    for split in SPLITS:
        fit(own, tmp_path / "none", RIDGE, split)
    none = fit(own, tmp_path / "none", RIDGE)
    assert none.estimate.endswith(
        "no cross-validated estimate: not scored: 2 runs on splits 1 and 2, without a test part"
    )


def test_what_was_chosen_on_test_is_called_optimistic(own: FeatureCache, tmp_path: Path) -> None:
    settings = replace(RIDGE, select_on="test")
    for split in SPLITS:
        fit(own, tmp_path, settings, split)
    run = fit(own, tmp_path, settings)
    assert "optimistic" in run.estimate
    assert "(each on the test part itself (optimistic))" in run.config.selected_on


def test_absent_images_are_left_out_and_counted(torn_cache: Path, tmp_path: Path) -> None:
    cache = open_cache(torn_cache)
    for split in SPLITS:
        fit(cache, tmp_path, RIDGE, split)
    run = fit(cache, tmp_path, RIDGE)
    assert (run.config.train_images, run.config.absent_images) == (IMAGES - 2, 2)


def test_a_support_vector_machine_is_fitted_to_all_images(own: FeatureCache, tmp_path: Path) -> None:
    settings = TrainSettings(head="svr", pooling="mean")
    histories = [read_history(fit(own, tmp_path, settings, split).folder) for split in SPLITS]
    run = fit(own, tmp_path, settings)
    means = [mean(line["val_rho"] for line in lines) for lines in zip(*histories, strict=True)]
    line = histories[0][(run.result.best_epoch or 0) - 1]
    assert means[(run.result.best_epoch or 0) - 1] == max(means)
    assert run.result.hyperparameters == {key: line[key] for key in run.result.hyperparameters or {}}
    assert len(load_head(run).train_images) == IMAGES


def test_what_cannot_be_estimated_leaves_the_head_that_is_there(own: FeatureCache, ridge: Path) -> None:
    run = fit(own, ridge, RIDGE)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    (ridge / "tiny" / "ridge" / "split-1" / "head.safetensors").write_bytes(b"damaged")
    with pytest.raises(CorruptFile, match=r"split-1/head\.safetensors"):
        train(TrainingJob(own, "full", RIDGE, run.folder, "ridge", resume=False))
    assert {name: (run.folder / name).read_bytes() for name in before} == before


def test_scoring_the_runs_on_the_splits_is_reported_and_not_repeated(own: FeatureCache, ridge: Path) -> None:
    reports: list[Progress] = []
    job = TrainingJob(own, "full", RIDGE, ridge / "tiny" / "ridge" / "split-full", "ridge")
    train(job, reports.append)
    scored = [(report.done, report.total) for report in reports if report.stage == "estimate"]
    assert scored == [(1, 3), (2, 3), (3, 3)]
    reports.clear()
    train(job, reports.append)  # it is finished
    assert reports == []


# the commands that are printed


def unfinished(folder: str) -> None:
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text())
    del config["result"]
    path.write_text(json.dumps(config))


def commands_in(text: str, title: str) -> list[list[str]]:
    """Return the words of each command behind a title, without 'amnet'."""
    lines = [line.partition(f"{title}: amnet ")[2] for line in text.splitlines()]
    return [shlex.split(line) for line in lines if line]


def test_each_unfinished_run_has_the_command_that_finishes_it(here: Path) -> None:
    amnet("train-head", "--split", "all", "--head", "ridge", "--seed", "0,1,2")
    for folder in ("ridge,seed=1/split-2", "ridge,seed=2/split-1", "ridge,seed=2/split-2"):
        unfinished(f"runs/tiny/{folder}")
    refused = amnet("train-head", "--split", "full", "--head", "ridge", status=2).stderr
    commands = commands_in(refused, "Train them with")
    start = ["train-head", "--cache", str(here / "cache" / "tiny"), "--split"]
    assert commands == [
        [*start, "all", "--head", "ridge", "--seed", "2"],
        [*start, "2", "--head", "ridge", "--seed", "1"],
    ]
    for command in commands:
        amnet(*command)
    amnet("train-head", "--split", "full", "--head", "ridge")
    assert read_run("runs/tiny/ridge/split-full").config.document["choice"]["seeds"] == [0, 1, 2]


def test_runs_of_other_data_have_a_command_that_starts_them_over(here: Path) -> None:
    options = ("--head", "ridge", "--name", "mine")
    amnet("train-head", "--split", "all", *options)
    manifest = read_manifest(here / "cache" / "tiny")
    splits = {
        split: {name: Part(part.rows, 1 - part.scores) for name, part in parts.items()}
        for split, parts in manifest.ratings[""].items()
    }
    write_manifest(here / "cache" / "tiny", replace(manifest, ratings={"": splits}))
    refused = amnet("train-head", "--split", "full", *options, status=2).stderr
    (command,) = commands_in(refused, "Train them with")
    assert command[-3:] == ["--name", "mine", "--no-resume"]
    amnet(*command)
    amnet("train-head", "--split", "full", *options)


def test_score_cache_offers_to_finish_its_runs_first(here: Path) -> None:
    amnet("train-head", "--split", "all", "--head", "ridge", "--seed", "0,1")
    unfinished("runs/tiny/ridge,seed=1/split-2")
    for split in ("all", "1"):
        told = amnet("score-cache", "--split", split).stdout
        (first,) = commands_in(told, "first, to finish it on the splits")
        (second,) = commands_in(told, "the best, fitted to all images")
        assert first[-5:] == ["2", "--head", "ridge", "--seed", "1"]
        assert second[3:] == ["--split", "full", "--head", "ridge"]
    document = json.loads(amnet("score-cache", "--json").stdout)
    assert [shlex.split(line)[1:] for line in document["to_fit_all"]] == [first, second]
    amnet(*first)
    amnet(*second)
    assert json.loads(amnet("score-cache", "--json").stdout)["to_fit_all"] == []


# whose ratings it is of


def test_it_is_of_other_data_where_an_image_is_gone(own: FeatureCache, ridge: Path) -> None:
    run = fit(own, ridge, RIDGE)
    assert difference(run, own) == ""
    for parts in own.splits.values():
        for name, part in parts.items():
            parts[name] = Part(part.rows[part.rows != 0], part.scores[part.rows != 0])
    assert difference(run, own) == "1 image that it was trained on is not there now"


def test_one_score_that_changed_is_told(own: FeatureCache, ridge: Path) -> None:
    run = fit(own, ridge, RIDGE)
    part = own.splits["2"]["test"]
    own.splits["2"]["test"] = Part(part.rows, np.concatenate([[part.scores[0] + 0.25], part.scores[1:]]))
    assert difference(run, own) == "1 image that it was trained on had other scores then"
    found = evaluate(own, ridge)
    assert f"{run.folder}: {difference(run, own)}; left out" in found.warnings()


def test_images_that_were_added_leave_it_good_and_are_not_taken_for_trained(own: FeatureCache, ridge: Path) -> None:
    added = own.splits["1"]["test"].rows[0]
    for parts in own.splits.values():
        for name, part in list(parts.items()):
            parts[name] = Part(part.rows[part.rows != added], part.scores[part.rows != added])
    shutil.rmtree(ridge)
    for split in SPLITS:
        fit(own, ridge, RIDGE, split)
    run = fit(own, ridge, RIDGE)
    test = own.splits["1"]["test"]
    own.splits["1"]["test"] = Part(np.append(test.rows, added), np.append(test.scores, 0.5))
    assert difference(run, own) == ""
    with pytest.raises(Mismatch, match=r"it was trained on 40 images, of 41 that are there now\n.*--no-resume"):
        fit(own, ridge, RIDGE)


def test_other_runs_on_the_splits_are_told_when_it_is_asked_for_again(own: FeatureCache, ridge: Path) -> None:
    fit(own, ridge, RIDGE)
    fit(own, ridge, replace(RIDGE, seed=1), "2")
    with pytest.raises(Mismatch, match=r"runs: 3 there, 4 asked for\n"):
        fit(own, ridge, RIDGE)


def test_images_of_one_score_cannot_be_trained_on(own: FeatureCache, ridge: Path) -> None:
    job = TrainingJob(own, "full", RIDGE, ridge / "tiny" / "ridge" / "split-full", "ridge")
    runs = runs_on_splits(job)
    for parts in own.splits.values():
        for name, part in parts.items():
            parts[name] = Part(part.rows, np.zeros(len(part.rows)))
    with pytest.raises(BadInput, match="the train part of split full has 41 images, all of the score 0"):
        data_of_all(job, runs)


# everywhere else


def test_score_cache_leaves_it_out_and_names_it_for_use(here: Path) -> None:
    amnet("train-head", "--split", "all", "--head", "ridge")
    *_, making, using = amnet("score-cache").stdout.splitlines()
    prefix = "the best, fitted to all images: amnet "
    assert making == f"{prefix}train-head --cache {here / 'cache' / 'tiny'} --split full --head ridge"
    assert using == "best by validation: amnet predict --run runs/tiny/ridge IMAGES/"
    trained = amnet(*making.removeprefix(prefix).split())
    assert "so it has no test score of its own; cross-validated test rho 0." in trained.stdout
    scored = amnet("score-cache")
    assert scored.stdout.splitlines()[-2:] == [
        "", "best by validation: amnet predict --run runs/tiny/ridge/split-full IMAGES/",
    ]  # fmt: skip
    left_out = "trained on all images: no test score of its own"
    assert told(scored).splitlines() == [f"runs/tiny/ridge/split-full: {left_out}; left out"]
    document = json.loads(amnet("score-cache", "--json").stdout)
    assert [run["split"] for run in document["runs"]] == ["1", "2"]
    assert document["left_out"] == [{"run": "runs/tiny/ridge/split-full", "reason": left_out}]
    assert not Path("runs/tiny/ridge/split-full/scores.json").exists()
    assert (
        "runs on all images have no test score of their own" in amnet("score-cache", "--split", "full", status=2).stderr
    )
    shown = amnet("report", "--images", "3")
    assert "split-full: trained on all images" in shown.stderr
    figures = amnet("figures", "--out", "figures")
    assert "split-full: trained on all images" in figures.stderr


def test_each_of_several_targets_has_one_of_its_own(here: Path) -> None:
    manifest = read_manifest(here / "cache" / "tiny")
    write_manifest(
        here / "cache" / "tiny", replace(manifest, ratings=dict.fromkeys(("beauty", "fame"), manifest.ratings[""]))
    )
    refused = amnet("train-head", "--split", "full", "--head", "ridge", "--target", "fame", status=2).stderr
    assert "--split all --target fame --head ridge\n" in refused
    amnet("train-head", "--split", "all", "--head", "ridge", "--target", "beauty")
    amnet("train-head", "--split", "full", "--head", "ridge", "--target", "beauty")
    assert read_run("runs/tiny/beauty/ridge/split-full").on_all_images
    amnet("train-head", "--split", "full", "--head", "ridge", status=2)


def test_predict_uses_it_alone_and_says_what_is_known_of_it(
    here: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("all", "full"):
        amnet("train-head", "--split", split, "--head", "ridge")
    photo = tiny_dataset / "images" / "00.jpg"
    mean_of_splits = json.loads(amnet("predict", "--run", "runs/tiny/ridge", photo, "--json").stdout)[0]
    singles = [
        json.loads(amnet("predict", "--run", f"runs/tiny/ridge/split-{split}", photo, "--json").stdout)[0]["score"]
        for split in SPLITS
    ]
    assert mean_of_splits["score"] == pytest.approx(mean(singles), abs=1e-9)
    whole = amnet("predict", "--run", "runs/tiny/ridge/split-full", photo, "--json")
    found = json.loads(whole.stdout)[0]
    assert (found["in_training"], found["deviation"]) == (True, None)
    assert found["score"] not in (mean_of_splits["score"], *singles)
    run = read_run("runs/tiny/ridge/split-full")
    assert told(whole).splitlines()[0] == f"{run.folder}: {run.estimate}"
    shutil.copytree(run.folder, "alone/ridge/split-full")
    shutil.copytree(run.folder, "alone/ridge,seed=1/split-full")
    assert [one.run.split for one in Predictor.load("alone").members] == ["full"]  # a copy, where there are no others
    facts = run_facts(run)
    assert (facts["trained_on"], facts["estimate"]) == ("all images", run.estimate)


def test_an_export_tells_the_estimate_and_that_it_has_no_score(here: Path) -> None:
    for split in ("all", "full"):
        amnet("train-head", "--split", split, "--head", "ridge")
    amnet("export-head", "--run", "runs/tiny/ridge/split-full", "--out", "exported", "--no-model")
    card = ModelCard(Path("exported/README.md").read_text())
    exported = read_run("exported")
    estimate = exported.result.estimate
    assert estimate is not None
    assert exported.on_all_images
    assert "# ridge, trained on tiny, all images\n" in card.text
    assert f"| trained on | {IMAGES} images of tiny, all images |" in card.text
    assert "This head was trained on all images, so it has no test score of its own." in card.text
    reached = f"reached a mean Spearman's rho of {estimate.rho:.3f}, 95% interval {estimate.low:.3f} to "
    assert f"cross-validated over 2 splits, 22 images in all, one view each, {reached}" in card.text
    assert card.data.eval_results[0].metric_value == estimate.rho
    assert card.data.eval_results[0].dataset_name == "tiny, cross-validated over 2 splits"
    assert str(here) not in Path("exported/config.json").read_text()


@pytest.mark.parametrize("estimate", [3, {"rho": "high"}, {"splits": "many"}, {"problem": 1}])
def test_an_estimate_that_is_none_is_damage(own: FeatureCache, ridge: Path, estimate: object) -> None:
    run = fit(own, ridge, RIDGE)
    config = json.loads((run.folder / "config.json").read_text())
    config["result"]["estimate"] = estimate
    (run.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CorruptFile, match="its estimate"):
        read_run(run.folder)
