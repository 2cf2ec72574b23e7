"""Support vector regression by each kernel: scikit-learn's own predictions, in a run and as ONNX; what is refused."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics.pairwise import chi2_kernel, rbf_kernel
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from featcache.base.errors import InvalidSettings
from featcache.base.progress import Progress
from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import split_data
from head.data.vectors import Vectors, read_vectors
from head.evaluation.score import score_run
from head.models.baselines import Task
from head.models.kinds import KINDS, input_of
from head.models.svr import COSTS, KERNEL, MARGINS
from head.prediction.members import Member
from head.prediction.predictor import Predictor
from head.runs.head_file import load_head
from head.runs.history import read_history
from head.runs.run import Run
from head.settings import KERNELS, TrainSettings, settings_of
from head.share.onnx import head_graph, load_graph
from head.training.job import TrainingJob
from head.training.train import check_start, train
from tests.helpers.command_line import amnet

Array = NDArray[np.float64]
BOTH = ("layer2", "layer3")


@pytest.fixture
def cache(layered_cache: Path) -> FeatureCache:
    return open_cache(layered_cache)


@pytest.fixture
def histograms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the means of layer2 be histograms, rounded as float16 is, and those of layer3 be as they are."""
    read = FeatureCache.read_pooled

    def pooled(cache: FeatureCache, rows: object, views: object, layer: str | None = None) -> NDArray[np.float32]:
        vectors = read(cache, rows, views, layer).copy()  # type: ignore[arg-type]
        if layer == "layer2":
            vectors[:, 0] /= vectors[:, 0].sum(axis=1, keepdims=True)
            vectors[:, 1] = 0
        return vectors.astype(np.float16).astype(np.float32)

    monkeypatch.setattr(FeatureCache, "read_pooled", pooled)


def fit(cache: FeatureCache, folder: Path, *, kernel: str, layers: tuple[str, ...] = (), **more: object) -> Run:
    settings = TrainSettings(head="svr", kernel=kernel, layers=layers)
    return train(TrainingJob(cache, "1", settings, folder, "svr"), **more)  # type: ignore[arg-type]


def stored(cache: FeatureCache, run: Run, part: str) -> tuple[Array, Array]:
    """Return vectors of the evaluation view of a part, as stored, and its scores."""
    chosen = split_data(cache, "1", TrainSettings()).train if part == "train" else cache.splits["1"][part]
    keep = cache.present[chosen.rows]
    return run.input.read(cache, chosen.rows[keep], 0).flatten(1).double().numpy(), chosen.scores[keep]


def kernels_by_scikit_learn(kernel: str, x: Array, unseen: Array, cut: int) -> tuple[Array, Array]:
    """Return the kernel among x and that of unseen with x; of 'product' cut is where the second layer begins."""
    scaler = StandardScaler().fit(x)
    z, z_unseen = scaler.transform(x), scaler.transform(unseen)
    if kernel == "product":
        shared = kernels_by_scikit_learn("intersection", x[:, :cut], unseen[:, :cut], 0)
        near = [((a - b) ** 2).sum() for k, a in enumerate(z[:, cut:]) for b in z[k + 1 :, cut:]]
        gamma = 1 / (2 * np.median(near))
        return tuple(  # type: ignore[return-value]
            s * rbf_kernel(a[:, cut:], z[:, cut:], gamma=gamma) for s, a in zip(shared, (z, z_unseen), strict=True)
        )
    if kernel == "intersection":
        scale = x.sum(axis=1).mean()
        return tuple(np.minimum(a[:, None], x).sum(axis=2) / scale for a in (x, unseen))  # type: ignore[return-value]
    if kernel == "linear":
        scale = (z**2).sum(axis=1).mean()
        return z @ z.T / scale, z_unseen @ z.T / scale
    n = len(x)
    gamma = n * (n - 1) / -np.log(chi2_kernel(x, gamma=1)).sum()
    return chi2_kernel(x, gamma=gamma), chi2_kernel(unseen, x, gamma=gamma)


@pytest.mark.usefixtures("histograms")
@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "rbf"])
def test_predictions_are_those_of_scikit_learn_and_of_the_onnx_file(
    cache: FeatureCache, tmp_path: Path, kernel: str
) -> None:
    run = fit(cache, tmp_path, kernel=kernel, layers=BOTH)
    x, scores = stored(cache, run, "train")
    unseen, _ = stored(cache, run, "test")
    among, of_unseen = kernels_by_scikit_learn(kernel, x, unseen, 2 * 128)
    chosen = run.result.hyperparameters
    assert chosen is not None
    model = SVR(kernel="precomputed", **chosen).fit(among, (scores - scores.mean()) / scores.std())
    expected = model.predict(of_unseen) * scores.std() + scores.mean()
    assert np.std(expected) > 1e-3
    np.testing.assert_allclose(score_run(run, cache).prediction, expected, rtol=0, atol=1e-6)
    graph = load_graph(head_graph([Member(run, load_head(run))]).data)
    np.testing.assert_allclose(graph(unseen[:, None].astype(np.float32))[0], expected, rtol=0, atol=1e-6)


def test_the_linear_kernel_is_scikit_learns_own(cache: FeatureCache, tmp_path: Path) -> None:
    run = fit(cache, tmp_path, kernel="linear")
    (x, scores), (unseen, _) = stored(cache, run, "train"), stored(cache, run, "test")
    scaler = StandardScaler()
    z, chosen = scaler.fit_transform(x), run.result.hyperparameters
    assert chosen is not None
    cost = chosen["C"] / (z**2).sum(axis=1).mean()
    model = SVR(kernel="linear", C=cost, epsilon=chosen["epsilon"]).fit(z, (scores - scores.mean()) / scores.std())
    expected = model.predict(scaler.transform(unseen)) * scores.std() + scores.mean()
    np.testing.assert_allclose(score_run(run, cache).prediction, expected, rtol=0, atol=1e-4)  # libsvm stops at 1e-3


@pytest.mark.usefixtures("histograms")
def test_a_product_takes_the_intersection_of_histograms_and_else_gaussians(cache: FeatureCache, tmp_path: Path) -> None:
    for layers, kernels in ((BOTH, ("intersection", "rbf")), (BOTH[::-1], ("rbf", "intersection"))):
        head = load_head(fit(cache, tmp_path / layers[0], kernel="product", layers=layers)).module
        assert head.shape.kernels == kernels
        band = slice(0, 256) if layers == BOTH else slice(512, 768)
        assert (head.standardise.mean[band] == 0).all()
        assert (head.standardise.deviation[band] == 1).all()
        assert head.gamma[kernels.index("intersection")] == 1


@pytest.mark.parametrize(
    ("change", "kernel"),
    [(1.0, "intersection"), (1.0005, "intersection"), (1.01, "rbf"), (-1.0, "rbf")],
)
def test_a_layer_is_of_histograms_if_never_negative_and_its_sums_are_1(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: float, kernel: str
) -> None:
    def pooled(_: FeatureCache, rows: NDArray[np.int64], *__: object) -> NDArray[np.float32]:
        vectors = np.stack([np.random.default_rng(int(row)).dirichlet(np.ones(256)) for row in rows])
        if change < 0:  # sums are 1 all the same
            vectors[:, 0], vectors[:, 1] = -vectors[:, 0], vectors[:, 1] + 2 * vectors[:, 0]
        return np.stack([vectors * abs(change), 0 * vectors], axis=1).astype(np.float32)

    monkeypatch.setattr(FeatureCache, "read_pooled", pooled)
    run = fit(cache, tmp_path, kernel="product", layers=("layer3",))
    assert load_head(run).module.shape.kernels == (kernel,)


@pytest.mark.parametrize("kernel", KERNELS)
def test_it_predicts_from_files_what_the_cache_gives_and_has_a_line_for_each_candidate(
    cache: FeatureCache, torn_dataset: Path, tmp_path: Path, kernel: str
) -> None:
    seen: list[Progress] = []
    run = fit(cache, tmp_path, kernel=kernel, layers=("all",), on_progress=seen.append)
    number = 40 if kernel == "rbf" else len(COSTS) * len(MARGINS)
    assert {progress.total for progress in seen} == {number}
    assert len(read_history(tmp_path)) == len(seen) == number
    assert names_chosen(run) == ["C", "epsilon", "gamma"][: 3 if kernel == "rbf" else 2]
    scored = score_run(run, cache)
    found = Predictor.load(tmp_path).predict([torn_dataset / "images" / name for name in scored.names])
    np.testing.assert_allclose([image.score for image in found], scored.prediction, atol=1e-3)


def names_chosen(run: Run) -> list[str]:
    return [part.partition("=")[0] for part in run.chosen.split(", ")]


@pytest.mark.parametrize("kernel", KERNELS)
def test_it_learns_what_can_be_learnt_from_a_stated_sample_of_many_images(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    cache = open_cache(tiny_cache)
    assert score_run(fit(cache, tmp_path / "all", kernel=kernel), cache).metrics.rho_low > 0.4
    monkeypatch.setitem(KINDS, "svr", replace(KINDS["svr"], baseline=replace(KERNEL, most_vectors=19)))
    run = fit(cache, tmp_path / "few", kernel=kernel)
    assert (run.result.fitted_images, run.result.document["fitted_views_each"]) == (19, 1)
    assert load_head(run).module.shape.vectors <= 19


def test_two_sets_of_candidates_are_of_the_same_values() -> None:
    """A head on all images is fitted with the candidate of the highest mean rho, so data may not change what it is."""
    rng = np.random.default_rng(0)
    for kernel in KERNELS:
        grids = []
        for n in (7, 11):
            x = rng.random((n, 5))
            vectors = Vectors(x - x.mean(0), np.zeros(n), x.mean(0), np.ones(5), n, 1, {"a": slice(0, 5)})
            settings = TrainSettings(head="svr", kernel=kernel)
            grids.append([one.values for one in KERNEL.candidates(Task(vectors, rng.random(n), settings))])
        assert grids[0] == grids[1]


def test_every_kernel_and_banded_ridge_are_fitted_to_all_images_by_what_their_runs_chose(
    layered_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(layered_cache, tmp_path / "cache" / "layered")
    for options in (["--head", "svr", "--kernel", "chi2,product"], ["--head", "banded-ridge,lsvr"]):
        for split in ("all", "full"):
            amnet("train-head", "--split", split, *options, "--layer", "all")
    table = amnet("score-cache").stdout
    for part in ("svr,kernel=chi2", "svr,kernel=product", "banded-ridge", "alpha layer2=", "nothing to choose"):
        assert part in table


# settings


def test_the_gaussian_kernel_is_the_default_and_others_are_in_the_name() -> None:
    assert settings_of(head="svr", kernel="rbf").default_name() == "svr"
    assert settings_of(head="svr", kernel="chi2").default_name() == "svr,kernel=chi2"
    with pytest.raises(InvalidSettings, match="--kernel must be rbf or intersection or chi2 or linear or product"):
        settings_of(head="svr", kernel="cosine")


def test_a_run_of_a_version_without_kernels_is_that_of_the_gaussian(cache: FeatureCache, tmp_path: Path) -> None:
    run = fit(cache, tmp_path, kernel="rbf")
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('  "kernel": "rbf",\n', ""))
    assert '"kernel"' not in path.read_text()
    assert fit(cache, tmp_path, kernel="rbf").result == run.result
    with pytest.raises(Exception, match="kernel: 'rbf' there, 'chi2' asked for"):
        fit(cache, tmp_path, kernel="chi2")


# negative features


@pytest.fixture
def negative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let some features of layer3 be below 0."""
    read = FeatureCache.read_pooled

    def pooled(cache: FeatureCache, rows: object, views: object, layer: str | None = None) -> NDArray[np.float32]:
        vectors = read(cache, rows, views, layer)  # type: ignore[arg-type]
        return vectors - 0.1 if layer == "layer3" else vectors

    monkeypatch.setattr(FeatureCache, "read_pooled", pooled)


@pytest.mark.usefixtures("negative")
@pytest.mark.parametrize("kernel", ["intersection", "chi2"])
def test_negative_features_are_refused_before_anything_is_written(
    cache: FeatureCache, tmp_path: Path, kernel: str
) -> None:
    job = TrainingJob(
        cache, "1", TrainSettings(head="svr", kernel=kernel, layers=BOTH), tmp_path / "runs" / "split-1", "svr"
    )
    told = rf"--kernel {kernel} takes features that are never negative.*and layer3 has negative ones; use --kernel rbf"
    for begin in (check_start, train):
        with pytest.raises(InvalidSettings, match=told):
            begin(job)
    assert not (tmp_path / "runs").exists()
    for other in ("linear", "product"):
        fit(cache, tmp_path / other, kernel=other, layers=BOTH)
    fit(cache, tmp_path / "layer2", kernel=kernel, layers=("layer2",))


@pytest.mark.usefixtures("negative")
def test_the_refusal_is_told_once_for_all_splits(
    layered_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(layered_cache, tmp_path / "cache" / "layered")
    told = amnet("train-head", "--split", "all", "--head", "svr", "--kernel", "chi2", "--layer", "all", status=2).stderr
    assert told.count("layer3 has negative ones") == 1
    assert not (tmp_path / "runs").exists()


def test_zeros_that_standardising_rounds_are_not_negative(cache: FeatureCache) -> None:
    settings = TrainSettings(head="svr", kernel="chi2", layers=BOTH)
    vectors = read_vectors(cache, cache.splits["1"]["val"], input_of(cache, settings), seed=0)
    assert vectors.negative_layers() == []
    x = np.array([[1e6, 0.0], [1.0, -1e-9]])
    mean, deviation = x.mean(0), x.std(0)
    held = Vectors((x - mean) / deviation, x[:, 0], mean, deviation, 2, 1, {"a": slice(0, 1), "b": slice(1, 2)})
    assert held.negative_layers() == ["b"]
    assert replace(held, bands={"both": slice(0, 2)}).negative_layers() == []
    assert math.isclose(held.as_stored()[0, 0], 1e6)
    assert torch.from_numpy(held.as_stored(channels=slice(1, 2))).shape == (2, 1)
