"""Baselines against closed forms and scikit-learn's own predictions, and as runs: scored, predicted with, repeated."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR, LinearSVR
from threadpoolctl import threadpool_limits

from cli import main
from featcache.base.errors import BadInput, InvalidSettings
from featcache.base.progress import Progress
from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import split_data
from head.data.vectors import draw_views, read_vectors
from head.evaluation.metrics import mean_squared_error, rank, spearman
from head.evaluation.score import score_run
from head.models.baselines import (
    RIDGE_ALPHAS,
    LinearHead,
    LinearShape,
    PerceptronHead,
    PerceptronShape,
)
from head.models.kernels import KernelHead, KernelShape
from head.models.kinds import KINDS, input_of
from head.models.svr import KERNEL
from head.prediction.predictor import Predictor
from head.runs.head_file import load_head
from head.runs.history import read_history
from head.runs.run import Run, read_run, run_folders
from head.settings import TrainSettings
from head.training.fitted import Trained
from head.training.job import TrainingJob
from head.training.train import train

BASELINES = ("linear", "ridge", "lsvr", "svr", "mlp")
Array = NDArray[np.float64]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread: the matrices are tiny, and two threads wait for each other on a busy machine."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def cache(tiny_cache: Path) -> FeatureCache:
    return open_cache(tiny_cache)


def settings_for(head: str, **more: object) -> TrainSettings:
    return TrainSettings(**{"head": head, "epochs": 4, "patience": 2, **more})  # type: ignore[arg-type]


def fit(cache: FeatureCache, folder: Path, settings: TrainSettings, **more: object) -> Run:
    return train(TrainingJob(cache, "1", settings, folder, "baseline"), **more)  # type: ignore[arg-type]


def training_vectors(cache: FeatureCache, settings: TrainSettings) -> tuple[Array, Array]:
    """Return what a baseline is fitted on, as it was stored, and the scores."""
    vectors = read_vectors(cache, split_data(cache, "1", settings).train, input_of(cache, settings), seed=settings.seed)
    return vectors.x * vectors.deviation + vectors.mean, vectors.scores


def pooled(cache: FeatureCache, settings: TrainSettings, rows: NDArray[np.int64]) -> Array:
    return input_of(cache, settings).read(cache, rows, 0).flatten(1).double().numpy()


# what is fitted


def scikit_learns(head: str, chosen: dict[str, float], seed: int) -> Any:
    """Return the estimator of scikit-learn that has the chosen hyperparameters, unfitted."""
    if head == "svr":
        return SVR(C=chosen["C"], epsilon=chosen["epsilon"], gamma=chosen["gamma"])
    if head == "mlp":
        return MLPRegressor(
            hidden_layer_sizes=(chosen["hidden_size"],),
            alpha=chosen["alpha"],
            batch_size=32,
            random_state=np.random.RandomState(seed),
        )
    if head == "lsvr":
        shorter = FunctionTransformer(lambda z: z / np.sqrt(z.shape[1]))
        return make_pipeline(shorter, LinearSVR(epsilon=1e-6, C=1, dual=True, max_iter=10**6, random_state=0))
    return LinearRegression() if head == "linear" else Ridge(chosen["alpha"])


@pytest.mark.parametrize("pooling", ["mean", "mean+deviation"])
@pytest.mark.parametrize("head", BASELINES)
def test_predictions_are_those_of_scikit_learn(cache: FeatureCache, tmp_path: Path, head: str, pooling: str) -> None:
    settings = settings_for(head, pooling=pooling, seed=3)
    run = fit(cache, tmp_path, settings)
    x, scores = training_vectors(cache, settings)
    scaler, model = StandardScaler(), scikit_learns(head, run.result.hyperparameters, settings.seed)
    z, y = scaler.fit_transform(x), (scores - scores.mean()) / scores.std()
    if isinstance(model, MLPRegressor):
        for _ in range(run.result.hyperparameters["epochs"]):
            model.partial_fit(z, y)
    else:
        model.fit(z, y)
    unseen = scaler.transform(pooled(cache, settings, cache.splits["1"]["test"].rows))
    expected = model.predict(unseen) * scores.std() + scores.mean()
    np.testing.assert_allclose(score_run(run, cache).prediction, expected, rtol=0, atol=1e-6)


def test_ridge_is_the_closed_form(cache: FeatureCache, tmp_path: Path) -> None:
    settings = settings_for("ridge")
    run = fit(cache, tmp_path, settings)
    x, scores = training_vectors(cache, settings)
    z, y = (x - x.mean(0)) / x.std(0), scores - scores.mean()
    alpha = run.result.hyperparameters["alpha"]
    weight = np.linalg.solve(z.T @ z + alpha * np.eye(z.shape[1]), z.T @ y)
    unseen = (pooled(cache, settings, cache.splits["1"]["test"].rows) - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(score_run(run, cache).prediction, unseen @ weight + scores.mean(), atol=1e-9)


def test_linear_fits_fewer_vectors_than_channels_exactly_with_the_smallest_weights(
    cache: FeatureCache, tmp_path: Path
) -> None:
    settings = settings_for("linear")
    head = load_head(fit(cache, tmp_path, settings))
    x, scores = training_vectors(cache, settings)
    assert len(x) == 46 < x.shape[1] == 512
    fitted = head.predict(torch.from_numpy(x).unsqueeze(1))[0].numpy()
    np.testing.assert_allclose(fitted, scores, atol=1e-9)
    z = (x - x.mean(0)) / x.std(0)
    weight = np.linalg.pinv(z, rcond=1e-9) @ ((scores - scores.mean()) / scores.std())
    np.testing.assert_allclose(head.module.weight, weight, atol=1e-9)


def test_the_kernel_head_is_a_sum_of_gaussians_around_its_support_vectors() -> None:
    rng = np.random.default_rng(0)
    support, x, weight = rng.normal(size=(5, 3)).astype("f4"), rng.normal(size=(7, 3)), rng.normal(size=5)
    head = KernelHead(KernelShape(channels=3, vectors=5))
    head.standardise.mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    head.standardise.deviation.copy_(torch.tensor([2.0, 0.5, 1.0]))
    head.support.copy_(torch.from_numpy(support))
    head.weight.copy_(torch.from_numpy(weight))
    head.intercept.fill_(0.25)
    head.gamma.fill_(0.125)
    expected = [
        0.25
        + sum(w * np.exp(-0.125 * (((v - s) / [2, 0.5, 1]) ** 2).sum()) for w, s in zip(weight, support, strict=True))
        for v in x
    ]
    output = head(torch.from_numpy(x).unsqueeze(1))
    np.testing.assert_allclose(output.score, expected, atol=1e-12)


@pytest.mark.parametrize(
    "head",
    [
        LinearHead(LinearShape(channels=11)),
        KernelHead(KernelShape(channels=11, vectors=5)),
        PerceptronHead(PerceptronShape(channels=11, hidden_size=3)),
    ],
)
def test_a_baseline_looks_once_and_has_no_map(head: torch.nn.Module) -> None:
    score, step_scores, maps = head(torch.zeros(7, 1, 11))[:3]
    assert (score.shape, step_scores.shape, maps.shape) == ((7,), (7, 1), (7, 1, 0))
    assert torch.equal(step_scores[:, 0], score)


def test_a_channel_that_never_varies_is_only_centred(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = FeatureCache.read_pooled

    def dead(*arguments: object) -> NDArray[np.float32]:
        vectors = read(*arguments)  # type: ignore[arg-type]
        vectors[:, :, 5] = 0.3
        return vectors

    monkeypatch.setattr(FeatureCache, "read_pooled", dead)
    settings = settings_for("ridge", pooling="mean")
    head = load_head(fit(cache, tmp_path, settings)).module
    assert head.standardise.deviation[5] == 1
    assert head.weight[5] == 0


# what is chosen


def rho_of_each_alpha(cache: FeatureCache, settings: TrainSettings, part: Part) -> list[float]:
    x, scores = training_vectors(cache, settings)
    y = (scores - scores.mean()) / scores.std()
    models = [make_pipeline(StandardScaler(), Ridge(alpha)).fit(x, y) for alpha in RIDGE_ALPHAS]
    return [spearman(model.predict(pooled(cache, settings, part.rows)), part.scores) for model in models]


@pytest.fixture
def opposed(cache: FeatureCache) -> FeatureCache:
    """A cache of drawn scores, of which another penalty does best on val than on test."""
    rng = np.random.default_rng(3)
    for name, rows in zip(("train", "val", "test"), np.split(rng.permutation(41), [13, 27]), strict=True):
        cache.splits["1"][name] = Part(rows, rng.normal(size=len(rows)))
    return cache


@pytest.mark.parametrize("part", ["val", "test"])
def test_the_candidate_of_highest_rho_on_the_selection_part_is_kept(
    opposed: FeatureCache, tmp_path: Path, part: str
) -> None:
    settings = settings_for("ridge", select_on=part)
    rhos = {name: rho_of_each_alpha(opposed, settings, opposed.splits["1"][name]) for name in ("val", "test")}
    assert np.argmax(rhos["val"]) != np.argmax(rhos["test"])
    run = fit(opposed, tmp_path, settings)
    result = run.result.document
    assert result["val_rho"] == pytest.approx(max(rhos[part]), abs=1e-9)
    chosen = RIDGE_ALPHAS.index(result["hyperparameters"]["alpha"])
    assert rhos[part][chosen] == pytest.approx(max(rhos[part]), abs=1e-9)
    assert result["best_epoch"] == chosen + 1
    assert ("optimistic" in run.config.selected_on) == (part == "test")


@pytest.mark.parametrize("head", BASELINES)
def test_scores_of_the_test_part_change_nothing(cache: FeatureCache, tmp_path: Path, head: str) -> None:
    settings = settings_for(head)
    before = fit(cache, tmp_path / "a", settings)
    test = cache.splits["1"]["test"]
    cache.splits["1"]["test"] = Part(test.rows, np.random.default_rng(0).normal(size=len(test.rows)))
    assert fit(cache, tmp_path / "b", settings).result == before.result


def test_a_tenth_of_train_selects_where_there_is_no_val_part(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("head.data.batches.FEWEST_TO_SELECT", 2)
    del cache.splits["1"]["val"]
    run = fit(cache, tmp_path, settings_for("ridge"))
    assert run.config.selected_on == "a held-out 10% of train"
    assert run.result.fitted_images == 21 == len(load_head(run).train_images)


@pytest.mark.parametrize(
    ("a", "b", "better"),
    [
        ((0.5, 0.2), (0.4, 0.1), True),
        ((0.5, 0.1), (0.5, 0.2), True),
        ((0.5, 0.2), (0.5, 0.2), False),
        ((float("nan"), 0.1), (-0.9, 0.2), False),
        ((-0.9, 0.2), (float("nan"), 0.1), True),
        ((float("nan"), 0.1), (float("nan"), 0.2), True),
    ],
)
def test_rho_decides_then_mse_and_an_undefined_rho_is_the_lowest(
    a: tuple[float, float], b: tuple[float, float], better: bool
) -> None:
    lines = [dict(zip(("val_rho", "val_mse"), pair, strict=True)) for pair in (a, b)]
    assert (rank(lines[0]) > rank(lines[1])) == better


@pytest.mark.parametrize(
    ("head", "names", "candidates"),
    [
        ("linear", [], 1),
        ("ridge", ["alpha"], 13),
        ("banded-ridge", ["alpha layer3"], 13),
        ("lsvr", [], 1),
        ("svr", ["C", "epsilon", "gamma"], 40),
        ("mlp", ["hidden_size", "alpha", "epochs"], 8),
    ],
)
def test_history_has_a_line_for_each_candidate(
    cache: FeatureCache, tmp_path: Path, head: str, names: list[str], candidates: int
) -> None:
    seen: list[Progress] = []
    run = fit(cache, tmp_path, settings_for(head), on_progress=seen.append)
    history, result = read_history(tmp_path), run.result.document
    assert [list(line) for line in history] == [
        ["epoch", "val_rho", "val_mse", "val_prediction_sd", *names]
    ] * candidates
    assert [line["epoch"] for line in history] == list(range(1, candidates + 1))
    assert [(progress.done, progress.total) for progress in seen] == [(k + 1, candidates) for k in range(candidates)]
    assert (result["epochs"], list(result["hyperparameters"])) == (candidates, names)
    best = history[result["best_epoch"] - 1]
    assert {name: best[name] for name in names} == result["hyperparameters"]
    assert best["val_rho"] == result["val_rho"] == max(line["val_rho"] for line in history)
    scored = score_run(run, cache, part="val")
    assert scored.metrics.rho == pytest.approx(best["val_rho"], abs=1e-12)
    assert mean_squared_error(scored.prediction, scored.truth) == pytest.approx(best["val_mse"], abs=1e-12)
    assert len({line["val_rho"] for line in history}) > 1 or candidates == 1


@pytest.mark.parametrize("head", ["ridge", "svr", "mlp"])
def test_a_baseline_learns_what_can_be_learnt(cache: FeatureCache, tmp_path: Path, head: str) -> None:
    metrics = score_run(fit(cache, tmp_path, settings_for(head, epochs=15, patience=15)), cache).metrics
    assert metrics.rho_low > 0.4
    assert metrics.mse < metrics.truth_sd**2


# which views


def test_every_augmented_view_is_seen_once_where_there_is_room() -> None:
    kept, seen = draw_views(5, views=4, most=15, leave_out=False, seed=0)
    assert kept.tolist() == [0, 1, 2, 3, 4]
    assert np.sort(seen, axis=1).tolist() == [[1, 2, 3]] * 5


def test_so_many_views_of_each_image_are_drawn_as_fit() -> None:
    _, seen = draw_views(700, views=11, most=2800, leave_out=False, seed=0)
    assert seen.shape == (700, 4)
    assert all(len(set(row)) == 4 for row in seen.tolist())
    assert np.bincount(seen.reshape(-1), minlength=11)[1:].min() > 220  # 280 each, all views alike
    again, other = (draw_views(700, views=11, most=2800, leave_out=False, seed=seed)[1] for seed in (0, 1))
    assert np.array_equal(seen, again)
    assert not np.array_equal(seen, other)


@pytest.mark.parametrize(("views", "expected"), [(1, {0}), (2, {1})])
def test_view_0_is_seen_only_where_there_is_no_other(views: int, expected: set[int]) -> None:
    assert set(draw_views(5, views=views, most=100, leave_out=True, seed=0)[1].reshape(-1)) == expected


def test_images_are_left_out_only_where_they_may_be() -> None:
    kept, seen = draw_views(50, views=4, most=7, leave_out=True, seed=0)
    assert (len(set(kept.tolist())), seen.shape) == (7, (7, 1))
    assert kept.tolist() == sorted(kept)
    assert kept.tolist() != draw_views(50, views=4, most=7, leave_out=True, seed=1)[0].tolist()
    assert draw_views(50, views=4, most=7, leave_out=False, seed=0)[1].shape == (50, 1)


def test_vectors_are_the_pooled_views_that_were_drawn(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for("ridge", pooling="mean", seed=7)
    part, source = cache.splits["1"]["train"], input_of(cache, settings)
    monkeypatch.setattr("head.data.vectors._BATCH", 5)
    vectors = read_vectors(cache, part, source, seed=7)
    _, seen = draw_views(len(part.rows), views=3, most=10**6, leave_out=False, seed=7)
    expected = np.concatenate([cache.read_pooled([row, row], seen[i])[:, 0] for i, row in enumerate(part.rows)])
    np.testing.assert_allclose(vectors.as_stored(np.arange(46)), expected, atol=1e-7)
    assert np.array_equal(vectors.scores, np.repeat(part.scores, 2))
    np.testing.assert_allclose(vectors.x.mean(axis=0), 0, atol=1e-12)
    assert (vectors.images, vectors.views_each) == (23, 2)


def test_numbers_in_memory_are_bounded_by_fewer_views(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for("ridge", pooling="mean")
    part, source = cache.splits["1"]["train"], input_of(cache, settings)
    monkeypatch.setattr("head.data.vectors.MOST_NUMBERS", 45 * 256)
    assert read_vectors(cache, part, source, seed=0).x.shape == (23, 256)
    monkeypatch.setattr("head.data.vectors.MOST_NUMBERS", 1)
    assert read_vectors(cache, part, source, seed=0).x.shape == (23, 256)


def test_support_vectors_are_fitted_on_a_stated_sample_of_many_images(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "svr", replace(KINDS["svr"], baseline=replace(KERNEL, most_vectors=19)))
    seen: list[Progress] = []
    run = fit(cache, tmp_path, settings_for("svr"), on_progress=seen.append)
    assert seen[-1].note.endswith("fitted on 19 of 23 images, drawn by the seed")
    assert (run.result.fitted_images, run.result.document["fitted_views_each"]) == (19, 1)
    head = load_head(run)
    assert head.module.shape.vectors <= 19
    assert len(head.train_images) == 23  # all had their say in which images may be scored


# runs of baselines


@pytest.mark.parametrize("head", BASELINES)
def test_the_same_settings_give_the_same_bytes_killed_or_not(cache: FeatureCache, tmp_path: Path, head: str) -> None:
    settings = settings_for(head)

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    whole = fit(cache, tmp_path / "a", settings)
    with pytest.raises(KeyboardInterrupt):
        fit(cache, tmp_path / "b", settings, on_progress=interrupt)
    assert not read_run(tmp_path / "b").finished
    assert fit(cache, tmp_path / "b", settings).result == whole.result
    for name in ("head.safetensors", "history.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert fit(cache, tmp_path / "a", settings, on_progress=interrupt) == whole  # it is there, nothing is fitted


def test_an_interrupt_ends_a_perceptron_which_scikit_learn_would_go_on_with(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MLPRegressor, "_backprop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(cache, tmp_path, settings_for("mlp"))


def test_the_seed_of_a_perceptron_is_in_its_weights(cache: FeatureCache, tmp_path: Path) -> None:
    a, b = (fit(cache, tmp_path / str(seed), settings_for("mlp", seed=seed)) for seed in (0, 2**40))
    assert a.result.head_sha256 != b.result.head_sha256


@pytest.mark.parametrize("head", BASELINES)
def test_a_baseline_on_all_layers_of_an_uint8_cache_predicts_from_files_what_the_cache_gives(
    layered_cache: Path, torn_dataset: Path, tmp_path: Path, head: str
) -> None:
    cache = open_cache(layered_cache)
    run = fit(cache, tmp_path, settings_for(head, layers=("all",)))
    assert run.config.input == {"layers": ["layer2", "layer3"], "pooling": "mean+deviation"}
    assert run.config.absent_images == 2
    assert run.result.fitted_images == 22
    scored = score_run(run, cache)
    assert (scored.absent, len(scored.prediction)) == (1, 10)
    found = Predictor.load(tmp_path).predict([torn_dataset / "images" / name for name in scored.names])
    np.testing.assert_allclose([image.score for image in found], scored.prediction, atol=1e-3)
    assert load_head(run).module.standardise.mean.shape == (2 * (128 + 256),)


def test_layers_are_read_in_the_order_they_are_named(layered_cache: Path) -> None:
    cache = open_cache(layered_cache)
    order = input_of(cache, settings_for("ridge", layers=("layer3", "layer2"), pooling="mean"))
    expected = [cache.read_pooled([1], 0, layer)[0, 0] for layer in ("layer3", "layer2")]
    assert np.array_equal(order.read(cache, np.array([1]), 0)[0, 0].numpy(), np.concatenate(expected))
    assert input_of(cache, settings_for("ridge")).layers == ("layer3",)


@pytest.mark.parametrize("head", BASELINES)
def test_a_baseline_is_not_scored_on_its_training_images(cache: FeatureCache, tmp_path: Path, head: str) -> None:
    run = fit(cache, tmp_path, settings_for(head))
    with pytest.raises(BadInput, match="trained on 23 of these 23 images"):
        score_run(run, cache, part="train")


def test_views_are_averaged_as_for_every_head(cache: FeatureCache, tmp_path: Path) -> None:
    run = fit(cache, tmp_path, settings_for("svr"))
    head, rows = load_head(run), cache.splits["1"]["test"].rows
    each = [head.predict(run.input.read(cache, rows, view))[0].numpy() for view in range(3)]
    np.testing.assert_allclose(score_run(run, cache, views="all").prediction, np.mean(each, axis=0), atol=1e-12)


# what cannot be fitted


def test_what_cannot_be_fitted_is_refused_before_the_folder_is_made(cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="has no layer layer9; it has layer3"):
        fit(cache, tmp_path / "run", settings_for("ridge", layers=("layer9",)))
    train, val = (cache.splits["1"][part] for part in ("train", "val"))
    cache.splits["1"]["train"] = Part(train.rows[:1], train.scores[:1])
    with pytest.raises(BadInput, match="the train part of split 1 has 1 image, and needs 2 of different scores"):
        fit(cache, tmp_path / "run", settings_for("ridge"))
    cache.splits["1"] = {"train": train, "test": Part(val.rows, np.ones(len(val.rows)))}
    with pytest.raises(BadInput, match="the test part of split 1 has 7 images, all of the score 1, and needs"):
        fit(cache, tmp_path / "run", settings_for("svr", select_on="test"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("head", BASELINES)
def test_two_images_are_enough(cache: FeatureCache, tmp_path: Path, head: str) -> None:
    train = cache.splits["1"]["train"]
    cache.splits["1"]["train"] = Part(train.rows[:2], train.scores[:2])
    run = fit(cache, tmp_path, settings_for(head))
    assert np.isfinite(score_run(run, cache).prediction).all()


def test_a_run_is_described_by_its_candidates_and_what_was_chosen(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "svr", replace(KINDS["svr"], baseline=replace(KERNEL, most_vectors=19)))
    found = Trained([fit(cache, tmp_path / "svr", settings_for("svr"))], []).as_text()
    assert re.search(
        r"at candidate \d+ of 40 \(C \S+, epsilon \S+, gamma \S+, fitted on 19 of 23 images\), on the val part; "
        r"lowest MSE \S+ at candidate \d+ \(rho",
        found,
    )
    plain = Trained([fit(cache, tmp_path / "linear", settings_for("linear"))], []).as_text()
    assert "at candidate 1 of 1, on the val part" in plain


def test_baselines_go_the_whole_way_on_the_command_line(
    layered_cache: Path, torn_dataset: Path, tmp_path: Path
) -> None:
    common = ["--cache", str(layered_cache), "--runs", str(tmp_path)]
    trained = CliRunner().invoke(
        main, ["train-head", *common, "--split", "all", "--head", "linear,ridge", "--layer", "all"]
    )
    assert trained.exit_code == 0, trained.output
    assert "at candidate 1 of 1, on the val part" in trained.stdout
    scored = CliRunner().invoke(main, ["score-cache", *common, "--json"])
    assert scored.exit_code == 0, scored.output
    runs = run_folders(tmp_path)
    assert len(runs) == 4
    name = next(image.name for image in open_cache(layered_cache).images if not image.absent)
    predicted = CliRunner().invoke(main, ["predict", "--head", str(runs[0]), str(torn_dataset / "images" / name)])
    assert predicted.exit_code == 0, predicted.output
    maps = CliRunner().invoke(
        main,
        ["predict", "--head", str(runs[0]), str(torn_dataset / "images" / name), "--maps", str(tmp_path / "maps")],
    )
    assert maps.exit_code == 0, maps.output
    assert "occlusion maps of 1 images" in maps.stderr
    written = [tmp_path / "maps" / f"{Path(name).name}.occlusion{end}" for end in (".npy", ".png")]
    assert sorted((tmp_path / "maps").iterdir()) == written
    assert np.load(written[0]).shape == (1, 4, 4)
