"""The paper's table on a dataset of 41 images with random networks: every row, what it says of itself, made once."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from featcache.base.errors import InvalidSettings
from featcache.datasets.dataset import open_dataset
from featcache.store.cache import open_cache
from head.paper.making import Making, paper_tables
from head.paper.systems import REFERENCE, Features, System, features_of, systems_of
from head.paper.table import PaperTable, published
from head.show.figures.paper_tables import TABLES
from tests.helpers.others import write_others
from tests.helpers.tiny import ROOT

SYSTEMS = systems_of("tiny", "resnet50", seed=0)
HOW = Making("timm:test_resnet", weights={"": "random"}, augs=1)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paper")


def made(dataset: Path, homes: Path, how: Making = HOW) -> PaperTable:
    return paper_tables(open_dataset(str(dataset)), how, caches=homes / "cache", runs=homes / "runs").tables[0]


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Views of 64 pixels, and a head of AMNet that is small."""

    def features(backbone: str) -> dict[str, Features]:
        found = features_of(backbone).items()
        return {name: replace(one, views=replace(one.views, image_size=64)) for name, one in found}

    def systems(dataset: str, backbone: str, *, seed: int) -> dict[str, System]:
        small = {"hidden_size": 8, "regressor_size": 8, "epochs": 2, "batch_size": 12}
        found = systems_of(dataset, backbone, seed=seed).items()
        return {
            name: replace(one, settings=replace(one.settings, **small, crop=min(one.settings.crop, 63)))
            for name, one in found
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("head.paper.making.features_of", features)
        patch.setattr("head.paper.making.systems_of", systems)
        yield


@pytest.fixture(scope="module")
def table(tiny_dataset: Path, homes: Path, quick: None) -> PaperTable:
    return made(tiny_dataset, homes)


def test_every_row_is_scored_on_every_split_and_compared_with_amnet(table: PaperTable) -> None:
    assert [row.name for row in table.rows] == [name for name in SYSTEMS if not SYSTEMS[name].slow]
    assert not table.errors
    assert not table.warnings()
    assert {row.summary.splits for row in table.rows} == {("1", "2")}
    assert [row.name for row in table.rows if row.comparison is None] == [REFERENCE]
    text = table.as_text()
    for row in table.rows:
        assert f"{row.name}  " in text
        assert row.system.note in text
    faith = {row.name: row.faith for row in table.rows}
    assert (faith["isola-pixels"], faith["isola"]) == ("after", "after")  # they read no network
    assert {faith["memonet"], faith["mtles"]} == {"stand-in, random weights"}
    assert faith["amnet"] == "after, random weights"  # neither the network is the paper's nor its weights


def test_what_is_there_is_not_made_again_and_rows_can_be_chosen(
    tiny_dataset: Path, homes: Path, table: PaperTable, quick: None
) -> None:
    heads = {path: path.stat().st_mtime_ns for path in (homes / "runs").rglob("head.safetensors")}
    again = made(tiny_dataset, homes, replace(HOW, rows=("isola", "amnet")))
    assert {path: path.stat().st_mtime_ns for path in (homes / "runs").rglob("head.safetensors")} == heads
    assert [row.name for row in again.rows] == ["isola", "amnet"]
    rho = {row.name: row.summary.as_json()["rho_mean"] for row in table.rows}
    assert [row.summary.as_json()["rho_mean"] for row in again.rows] == [rho["isola"], rho["amnet"]]


def test_rows_that_train_a_network_are_made_where_they_are_asked_for(
    tiny_dataset: Path, tmp_path: Path, quick: None
) -> None:
    tuned = [name for name in SYSTEMS if SYSTEMS[name].slow]
    assert tuned == ["memnet-tuned", "memonet-tuned"]
    found = made(tiny_dataset, tmp_path, replace(HOW, rows=("memonet-tuned",), split="1"))
    assert not found.errors
    assert [(row.name, row.faith) for row in found.rows] == [("memonet-tuned", "after, random weights")]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tiny-googlenet-views"]
    assert list(replace(HOW, rows=("all",)).systems("tiny")) == list(SYSTEMS)
    assert not set(tuned) & set(HOW.systems("tiny"))


def test_caches_hold_what_the_rows_read(homes: Path, table: PaperTable) -> None:
    described = open_cache(homes / "cache" / "tiny-alexnet")
    assert set(described.recipe.layer_names) == {*features_of("resnet50")["alexnet"].layers}
    assert described.views == 1
    assert open_cache(homes / "cache" / "tiny-amnet").views == 2
    for row in table.rows:
        cache = open_cache(homes / "cache" / f"tiny-{row.system.features}")
        assert set(row.system.settings.layers) <= set(cache.recipe.layer_names)


@pytest.mark.parametrize("row", ["memnet-tuned", "memonet-tuned"])
def test_networks_are_trained_on_whole_images_from_which_their_crops_can_be_cut(row: str) -> None:
    system = SYSTEMS[row]
    extraction = HOW.extraction(system.features)
    assert (extraction.layers, extraction.augs, extraction.weights) == (("views",), 0, "random")
    views = features_of("resnet50")[system.features].views
    assert (views.image_size, views.eval_view) == (256, "squash")
    assert 0 < system.settings.crop < 256


def test_descriptors_are_of_the_size_that_their_authors_used() -> None:
    assert features_of("resnet50")["alexnet"].views.image_size == 256


def test_json_has_what_the_paper_prints(table: PaperTable) -> None:
    rows = {row["row"]: row for row in table.as_json()["rows"]}
    assert rows["isola"]["published"]["sun"]["rho"] == 0.462
    assert rows["amnet"]["published"]["lamem"]["rho"] == 0.677
    assert rows["isola-gist"]["published"] == {}


def test_every_method_of_the_papers_tables_has_a_row() -> None:
    systems = systems_of("sun", "resnet50", seed=0)
    methods = {one.method for table in TABLES.values() for one in table.results}
    assert {system.method for system in systems.values()} - {""} == methods
    assert published(systems["mtles"], "lamem") is not None
    assert published(systems["mtles"], "sun") is None


def test_the_papers_choices_hold_where_it_made_them() -> None:
    decay = [systems_of(name, "resnet50", seed=0)["amnet"].settings.weight_decay for name in ("sun", "lamem")]
    assert decay == [1e-4, 1e-6]
    faith = [systems_of("sun", name, seed=0)["amnet"].faith for name in ("resnet50", "googlenet")]
    assert faith == ["exact", "after"]


def test_the_documents_have_every_row_as_it_is() -> None:
    text = (ROOT / "docs" / "paper.md").read_text()
    for name, system in systems_of("sun", "resnet50", seed=0).items():
        assert f"| `{name}` | {system.title} | {system.faith} | {system.note} |" in text


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Making(rows=("isola", "issola")), "--rows issola: no such row; there are isola-pixels,"),
        (Making(weights={"vgg16": "random"}), "--weights vgg16=...: the networks are alexnet, googlenet, resnet50"),
    ],
)
def test_rows_and_networks_that_are_not_there_are_refused(how: Making, message: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        how.systems("tiny")
    assert message in str(refused.value)


def test_how_far_people_agree_is_told_where_the_dataset_has_it(tiny_dataset: Path, tmp_path: Path, quick: None) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_dataset, folder)
    for split in ("1", "2"):
        write_others(folder, split)
    found = made(folder, tmp_path, replace(HOW, rows=("amnet",)))
    assert found.people is not None
    assert found.people.as_text() in found.as_text()
    assert found.as_json()["human_consistency"] == found.people.as_json()
