"""An export of all splits and seeds of a head predicts what their folder does, and its graphs give the same mean."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import head.share.export as share
from featcache.base.errors import CorruptFile, InvalidSettings, Mismatch, StorageError
from featcache.images.loading import load_image
from featcache.store.cache import open_cache
from head.evaluation.evaluate import evaluate
from head.prediction.members import Member, find_members, predict_each
from head.prediction.predictor import Predictor
from head.runs.head_file import load_head
from head.runs.run import read_run
from head.settings import TrainSettings
from head.share.export import Exported, export_head
from head.share.onnx import Graph, facts_of, head_graph, load_graph
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.command_line import amnet

Bytes = dict[str, bytes]


@pytest.fixture(scope="module")
def paper(tiny_runs: Path) -> Path:
    return tiny_runs / "tiny" / "paper"


@pytest.fixture(scope="module")
def ridge(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline on two splits with two seeds, scored on its cache."""
    home, cache = tmp_path_factory.mktemp("runs") / "ridge", open_cache(tiny_cache)
    for seed in (0, 1):
        name = f"ridge,seed={seed}" if seed else "ridge"
        for split in cache.splits:
            settings = TrainSettings(head="ridge", seed=seed)
            train(TrainingJob(cache, split, settings, home / name / f"split-{split}", name))
    evaluate(cache, home)
    return home


@pytest.fixture(scope="module")
def exported(ridge: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Its export with real graphs, which take less time than those of attention."""
    return export_head(ridge, tmp_path_factory.mktemp("out") / "ridge", with_backbone=True)


@pytest.fixture(scope="module")
def paths(tiny_dataset: Path) -> list[Path]:
    return sorted((tiny_dataset / "images").glob("*.jpg"))[:6]


@pytest.fixture
def no_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Exports in which other bytes stand for the graphs."""
    monkeypatch.setattr(share, "head_graph", lambda *_: Graph(b"features to scores", 1e-8))
    yield


def bytes_in(folder: Path) -> Bytes:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_predicts_exactly_what_the_folder_of_runs_does(
    ridge: Path, exported: Exported, paths: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(exported.folder, tmp_path / "elsewhere")
    found, wanted = Predictor.load(tmp_path / "elsewhere"), Predictor.load(ridge)
    assert found.predict(paths) == wanted.predict(paths)
    assert [(one.run.split, one.run.seed) for one in found.members] == [("1", 0), ("1", 1), ("2", 0), ("2", 1)]
    assert found.backbone.weights_sha256 == wanted.backbone.weights_sha256
    assert {one.run.weights_source for one in found.members} == {
        str(tmp_path / "elsewhere" / f"split-{split}-seed-{seed}" / ".." / "backbone.safetensors")
        for split in "12"
        for seed in (0, 1)
    }


def test_its_models_graph_gives_the_mean_and_the_deviation(exported: Exported, paths: list[Path]) -> None:
    predicted = Predictor.load(exported.folder).predict(paths)
    pixels = np.concatenate([load_image(path, path.name, (0, 1), exported.run.recipe).pixels for path in paths])
    score, steps, deviation = load_graph((exported.folder / "model.onnx").read_bytes())(pixels)
    np.testing.assert_allclose(score, [one.score for one in predicted], atol=1e-5)
    np.testing.assert_allclose(steps, [one.step_scores for one in predicted], atol=1e-5)
    np.testing.assert_allclose(deviation, [one.deviation for one in predicted], atol=1e-5)
    assert max(exported.differences.values()) < 1e-5


def test_a_graph_of_attention_gives_means_of_its_members_over_one_input(paper: Path) -> None:
    members = [Member(run, load_head(run)) for run in find_members(paper).runs]
    features = torch.from_numpy(np.random.default_rng(3).random((5, 16, 256), np.float32))
    found = load_graph(head_graph(members).data)(features.numpy())
    each = predict_each(members, {members[0].features: features})
    scores, steps, maps = (torch.stack(column).numpy() for column in zip(*each, strict=True))
    for values, wanted in zip(found, [scores.mean(0), steps.mean(0), maps.mean(0), scores.std(0, ddof=1)], strict=True):
        np.testing.assert_allclose(values, wanted, atol=1e-5)
    assert {values.dtype for values in found} == {np.dtype(np.float32)}
    facts = facts_of(members)
    assert (facts["split"], facts["seed"], facts["name"]) == ('["1","2"]', "[0,0]", "paper")
    assert json.loads(facts["head_sha256"]) == [member.run.result.head_sha256 for member in members]


def test_it_holds_a_run_a_member_and_what_they_share(exported: Exported) -> None:
    found = bytes_in(exported.folder)
    homes = [f"split-{split}-seed-{seed}" for split in "12" for seed in (0, 1)]
    own = [f"{home}/{name}" for home in homes for name in ("head.safetensors", "config.json")]
    shared = ["backbone.safetensors", "head.onnx", "model.onnx", "README.md"]
    assert list(exported.files) == [*own, *shared]
    assert exported.files == {name: len(found[name]) for name in exported.files}
    assert set(found) == set(exported.files)
    assert exported.as_text().splitlines()[0].startswith(f"{exported.folder}: ridge, the mean over 4 members, ")
    members = exported.as_json()["members"]
    assert members[1] == {"folder": str(exported.folder / homes[1]), "split": "1", "seed": 1}


def test_its_card_says_who_the_members_are_and_what_score_cache_says_of_them(
    ridge: Path, exported: Exported, tiny_cache: Path
) -> None:
    text = (exported.folder / "README.md").read_text()
    (row,) = evaluate(open_cache(tiny_cache), ridge).summaries
    summary = row.as_json()
    interval = f"95% interval {summary['rho_low']:.3f} to {summary['rho_high']:.3f}"
    for part in (
        "# ridge, trained on tiny, splits 1, 2",
        "| members | 4, whose mean is given, splits 1, 2, seeds 0, 1 |",
        "| trained on | 23 images of tiny each, splits 1, 2 |",
        "| `split-2-seed-1/` | a member, split 2, seed 1 |",
        f"mean over 2 splits, 22 images, one view each: Spearman's rho {summary['rho_mean']:.3f}, {interval}",
        "deviation (B) is that of their scores",
        "The deviation is how far members disagree",
    ):
        assert part in text, part
    rho, mse = ModelCard(text).data.eval_results
    assert (rho.metric_value, mse.metric_value) == (summary["rho_mean"], summary["mse_mean"])
    assert rho.metric_name == f"Spearman rho of a member, mean over splits, {interval}"
    assert rho.dataset_name == "tiny, splits 1, 2"


@pytest.mark.usefixtures("no_graphs")
def test_without_the_scores_of_one_member_the_card_has_none(ridge: Path, tmp_path: Path) -> None:
    shutil.copytree(ridge, tmp_path / "ridge")
    (tmp_path / "ridge" / "ridge" / "split-2" / "scores.json").unlink()
    card = (export_head(tmp_path / "ridge", tmp_path / "out", whole=False).folder / "README.md").read_text()
    assert "There are no test scores with all of these runs." in card


@pytest.mark.usefixtures("no_graphs")
def test_the_same_export_again_gives_the_same_bytes(paper: Path, tmp_path: Path) -> None:
    first = bytes_in(export_head(paper, tmp_path / "a", whole=False, with_backbone=True).folder)
    export_head(paper, tmp_path / "b", whole=False, with_backbone=True)
    assert bytes_in(tmp_path / "b") == first
    (tmp_path / "a" / "split-1" / ".tmp-head.safetensors-host-1").write_text("left by a killed export")
    export_head(paper, tmp_path / "a", whole=False, with_backbone=True)
    assert bytes_in(tmp_path / "a") == first
    export_head(paper, tmp_path / "a", whole=False)
    assert set(bytes_in(tmp_path / "a")) == set(first) - {"backbone.safetensors"}


@pytest.mark.usefixtures("no_graphs")
def test_a_folder_of_one_finished_run_is_exported_as_that_run(paper: Path, tmp_path: Path) -> None:
    shutil.copytree(paper, tmp_path / "paper")
    edit(tmp_path / "paper" / "split-2", lambda config: config.pop("result"))
    found = export_head(tmp_path / "paper", tmp_path / "out", whole=False)
    export_head(paper / "split-1", tmp_path / "alone", whole=False)
    assert bytes_in(tmp_path / "out") == bytes_in(tmp_path / "alone")
    (warning,) = found.warnings()
    assert f"left out, their training has not finished: {tmp_path / 'paper' / 'split-2'}" in warning


@pytest.mark.usefixtures("no_graphs")
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("stop", ["split-2/head.safetensors", "README.md", "split-2/config.json"])
def test_an_export_that_breaks_off_predicts_nothing_and_can_be_made_again(
    paper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool, stop: str
) -> None:
    out = tmp_path / "out"
    if before:
        export_head(paper, out, whole=False)
    import head.runs.run

    for module in (share, head.runs.run):
        monkeypatch.setattr(module, "write_durably", failing_at(out / stop, module.write_durably))
    with pytest.raises(StorageError, match="the disk is full"):
        export_head(paper, out, whole=False)
    with pytest.raises(CorruptFile, match=r"lacks config\.json"):
        find_members(out)
    monkeypatch.undo()
    monkeypatch.setattr(share, "head_graph", lambda *_: Graph(b"features to scores", 1e-8))
    export_head(paper, out, whole=False)
    export_head(paper, tmp_path / "fresh", whole=False)
    assert bytes_in(out) == bytes_in(tmp_path / "fresh")


def failing_at(stop: Path, write: Callable[[Path, bytes], str]) -> Callable[[Path, bytes], str]:
    def failing(path: Path, data: bytes) -> str:
        if path == stop:
            raise StorageError("the disk is full")
        return write(path, data)

    return failing


# what is refused


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((run / "config.json").read_text())
    change(config)
    (run / "config.json").write_text(json.dumps(config))


def refused(runs: Path, out: Path, error: type[Exception], message: str) -> None:
    """Check that an export is refused, and that it changed nothing."""
    before = bytes_in(out) if out.is_dir() else None
    with pytest.raises(error, match=message):
        export_head(runs, out, whole=False)
    assert (bytes_in(out) if out.is_dir() else None) == before


@pytest.mark.usefixtures("no_graphs")
def test_a_place_that_holds_something_else_is_refused_by_name(paper: Path, ridge: Path, tmp_path: Path) -> None:
    shutil.copytree(paper, tmp_path / "runs")
    refused(paper, tmp_path / "runs", Mismatch, "holds split-1/history.csv, .*so no place for an export")
    refused(tmp_path / "runs", tmp_path / "runs", InvalidSettings, "is the run itself")
    for path in tmp_path.glob("runs/*/history.csv"):
        path.unlink()
    refused(paper, tmp_path / "runs", Mismatch, "holds a run, paper, which is no export")
    export_head(paper / "split-1", tmp_path / "one", whole=False)
    refused(paper, tmp_path / "one", Mismatch, r"holds README\.md, config\.json, .*so no place for an export")
    export_head(paper, tmp_path / "both", whole=False)
    refused(paper / "split-1", tmp_path / "both", Mismatch, "holds .*split-1, split-2, so no place for an export")
    refused(ridge / "ridge", tmp_path / "both", Mismatch, "holds the export of another head, paper")
    refused(ridge, tmp_path / "both", Mismatch, "holds .*split-1, split-2, so no place for an export")


@pytest.mark.usefixtures("no_graphs")
def test_a_place_in_or_around_what_is_exported_is_refused(paper: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(paper, tmp_path / "home" / "runs"))
    before = sorted(tmp_path.rglob("*"))
    for source, out, where in ((runs, runs / "export", "inside"), (runs / "split-1", runs, "around")):
        refused(source, out, InvalidSettings, f"is {where} the folder that is exported, .*an --out beside it")
    refused(runs, runs / "split-1" / "export", InvalidSettings, "is inside")
    refused(runs, tmp_path / "home", InvalidSettings, "is around")
    assert sorted(tmp_path.rglob("*")) == before


def test_several_heads_are_refused_and_listed(tiny_runs: Path, tmp_path: Path) -> None:
    refused(tiny_runs, tmp_path / "out", InvalidSettings, "its 3 finished runs are not of one head")


def test_members_that_read_features_of_other_constants_are_refused(
    paper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(run: Any, **_: Any) -> Any:
        return replace(load_head(run), constants={"layer3": np.full((2, 256), float(run.split), np.float32)})

    monkeypatch.setattr(share, "load_head", loaded)
    refused(
        paper, tmp_path / "out", InvalidSettings, "read features of 8 bits that were stored with different constants"
    )


@pytest.mark.usefixtures("no_graphs")
def test_splits_whose_names_are_no_folders_are_numbered(paper: Path, tmp_path: Path) -> None:
    shutil.copytree(paper, tmp_path / "paper")
    edit(tmp_path / "paper" / "split-1", lambda config: config.update(split="a b"))
    found = export_head(tmp_path / "paper", tmp_path / "out", whole=False)
    assert [run.folder.name for run in found.runs] == ["member-1", "member-2"]


@pytest.mark.usefixtures("no_graphs")
def test_the_command_takes_the_folder_by_either_name(paper: Path, paths: list[Path], tmp_path: Path) -> None:
    done = amnet("export-head", "--head", paper, "--out", tmp_path / "out", "--no-model")
    assert "split-2/head.safetensors" in done.stdout
    documents = [
        json.loads(amnet("predict", "--run", run, *paths, "--json").stdout) for run in (paper, tmp_path / "out")
    ]
    assert documents[0] == documents[1]
    assert all(one["deviation"] is not None for one in documents[1])
    assert read_run(tmp_path / "out" / "split-1").config.exported is not None
