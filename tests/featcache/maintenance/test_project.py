"""A projected cache holds the images of another, its features on their first directions; killed, it goes on."""

import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache.maintenance.project as project
from featcache.base.errors import CorruptFile, InvalidSettings, Mismatch
from featcache.datasets.splits import Part, Ratings
from featcache.maintenance.info import read_info
from featcache.maintenance.merge import merge_caches
from featcache.maintenance.project import known_of_tests, project_cache, rows_known
from featcache.maintenance.repair import repair_cache
from featcache.maintenance.verify import verify_cache
from featcache.store.cache import open_cache
from tests.helpers.command_line import amnet
from tests.helpers.processes import run_forked
from tests.helpers.synthetic import ABSENT, BLOCKS, ROWS, VIEWS, make_arrays, make_cache

LAYER, CHANNELS, KEPT = "second.bn", 11, 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 rows x 2 views, of which row 4 is absent; train is rows 0 to 2, test 5 and 4."""
    return make_cache(tmp_path_factory.mktemp("source") / "whole", make_arrays(), BLOCKS)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows_seen(split: str) -> list[int]:
    """Return the rows that directions are found from."""
    return [0, 1, 2] if split else [row for row in range(ROWS) if row not in (4, 5)]


@pytest.mark.parametrize("split", ["", "1"])
def test_features_are_those_of_another_cache_on_directions_of_the_rows_that_are_said(
    source: Path, tmp_path: Path, split: str
) -> None:
    report = project_cache(source, tmp_path / "out", channels=KEPT, split=split)
    made, of = open_cache(tmp_path / "out"), open_cache(source)
    x = np.concatenate([of.read(rows_seen(split), view, LAYER) for view in range(VIEWS)]).astype(np.float64)
    x = x.reshape(-1, CHANNELS)
    values, directions = np.linalg.eigh(np.cov(x.T, bias=True))
    assert report.layers[LAYER]["variance"] == pytest.approx(values[: -KEPT - 1 : -1].sum() / values.sum(), rel=1e-6)
    present = [row for row in range(ROWS) if row != ABSENT]
    for view in range(VIEWS):
        features = of.read(present, view, LAYER).astype(np.float64) - x.mean(axis=0)
        expected = features @ directions[:, : -KEPT - 1 : -1]
        found = made.read(present, view, LAYER).astype(np.float64)
        signs = np.sign((found * expected).sum(axis=(0, 1)))
        np.testing.assert_allclose(found * signs, expected, atol=4e-3)
        pooled = made.read_pooled(present, view, LAYER)
        np.testing.assert_allclose(pooled[:, 0], found.mean(axis=1), atol=1e-5)
    assert made.recipe.layers == ((LAYER, 7, 1, KEPT),)
    assert made.recipe.of_network == of.recipe
    assert made.fingerprint != of.fingerprint
    assert [vars(image) for image in made.images] == [vars(image) for image in of.images]
    np.testing.assert_array_equal(made.box, of.box)
    assert made.splits.keys() == of.splits.keys()
    assert f"{len(rows_seen(split))} images" in report.fitted_on


def test_a_cache_of_several_layers_projects_each_by_itself(source: Path, tmp_path: Path) -> None:
    project_cache(source, tmp_path / "out", channels=3, layers=("second.bn", "first"), split="1")
    made = open_cache(tmp_path / "out")
    assert set(made.recipe.layers) == {("first", 1, 3, 3), ("second.bn", 7, 1, 3)}
    assert made.projections["first"].channels == (5, 3)
    assert verify_cache(tmp_path / "out").ok


KILLED = """
import os, signal, sys
from pathlib import Path
from featcache.maintenance.project import project_cache
source, out, writes = sys.argv[1:]
replace, done = os.replace, []
def replaced(*names, **how):
    if len(done) == int(writes):
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(replace(*names, **how))
os.replace = replaced
project_cache(Path(source), Path(out), channels=4, split="1")
"""


@pytest.mark.parametrize("writes", [0, 1, 3, len(BLOCKS) + 1, len(BLOCKS) + 2])
def test_a_process_killed_before_any_file_gets_its_name_ends_as_if_it_had_not_been(
    source: Path, tmp_path: Path, writes: int
) -> None:
    project_cache(source, tmp_path / "whole", channels=KEPT, split="1")
    assert run_forked(KILLED, source, tmp_path / "cut", writes).returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "manifest.json").exists()
    project_cache(source, tmp_path / "cut", channels=KEPT, split="1")
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("committed", [0, 2])
def test_a_run_interrupted_after_some_shards_makes_the_others_with_the_directions_that_it_found_first(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: int
) -> None:
    project_cache(source, tmp_path / "whole", channels=KEPT, split="1")
    done: list[int] = []
    shard_of = project._shard

    def until(*arguments: object) -> bytes:
        if len(done) == committed:
            raise KeyboardInterrupt
        done.append(1)
        return shard_of(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(project, "_shard", until)
        with pytest.raises(KeyboardInterrupt):
            project_cache(source, tmp_path / "cut", channels=KEPT, split="1")
    assert not (tmp_path / "cut" / "manifest.json").exists()
    monkeypatch.setattr(project, "_fitted", None)  # directions are not found anew
    report = project_cache(source, tmp_path / "cut", channels=KEPT, split="1")
    assert report.shards_made == len(BLOCKS) - committed
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_what_is_damaged_is_found_and_made_anew_by_the_same_command(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    project_cache(source, out, channels=KEPT, split="1")
    before = files_of(out)
    shard = sorted((out / "shards").glob("*.h5"))[1]
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    assert [problem.file for problem in verify_cache(out).problems] == [f"shards/{shard.name}"]
    with pytest.raises(InvalidSettings, match="run it again, .* amnet project-cache .* --channels 4 --split 1"):
        repair_cache(out)
    assert project_cache(source, out, channels=KEPT, split="1").shards_made == 1
    assert files_of(out) == before
    (out / "projection.safetensors").unlink()
    assert [problem.file for problem in verify_cache(out).problems] == ["projection.safetensors"]
    assert open_cache(out).read(0, 0).shape == (1, 7, KEPT)  # features are there all the same
    with pytest.raises(CorruptFile, match="missing, and shards are there"):
        project_cache(source, out, channels=KEPT, split="1")


def test_the_command_that_repair_tells_is_the_request_that_made_the_cache(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    project_cache(source, out, channels=3, layers=("second.bn", "first"), split="1", seed=7)
    shard = sorted((out / "shards").glob("*.h5"))[0]
    shard.unlink()
    with pytest.raises(InvalidSettings) as raised:
        repair_cache(out)
    words = shlex.split(str(raised.value).partition("anew: ")[2])
    assert words[:2] == ["amnet", "project-cache"]
    assert "1 made now" in amnet(*words[1:]).stdout
    assert shard.is_file()


def test_another_request_on_the_same_folder_is_refused(source: Path, tmp_path: Path) -> None:
    project_cache(source, tmp_path / "out", channels=KEPT, split="1")
    with pytest.raises(Mismatch, match="channels: 4 there, 3 asked for"):
        project_cache(source, tmp_path / "out", channels=3, split="1")
    with pytest.raises(Mismatch, match="split: '1' there, '' asked for"):
        project_cache(source, tmp_path / "out", channels=KEPT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 11}, r"--channels 11: second.bn of .* has 11 anyhow"),
        ({"channels": 0}, "--channels must be 1 or more, found 0"),
        ({"channels": 3, "split": "9"}, "has no split 9; it has 1"),
        ({"channels": 3, "layers": ("third",)}, "has no layer third"),
    ],
)
def test_what_cannot_be_projected_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidSettings, match=message):
        project_cache(source, tmp_path / "out", **changes)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_place_in_the_cache_itself_or_with_other_files_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="or in it; give a new folder"):
        project_cache(source, source / "out", channels=3)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidSettings, match=r"holds notes.txt but no cache"):
        project_cache(source, tmp_path, channels=3)


def test_a_projected_cache_is_neither_projected_again_nor_merged(source: Path, tmp_path: Path) -> None:
    project_cache(source, tmp_path / "out", channels=KEPT, split="1")
    with pytest.raises(InvalidSettings, match="made by project-cache itself"):
        project_cache(tmp_path / "out", tmp_path / "twice", channels=2)
    with pytest.raises(InvalidSettings, match="merge the caches that such were made of"):
        merge_caches(tmp_path / "merged", [tmp_path / "out"])


def test_features_of_8_bits_are_refused(layered_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="features of uint8, .* or train heads on it with --channels"):
        project_cache(layered_cache, tmp_path / "out", channels=8)


def test_where_every_image_is_in_some_test_part_a_split_has_to_be_named() -> None:
    def part(*rows: int) -> Part:
        return Part(np.array(rows, np.int64), np.zeros(len(rows)))

    ratings: Ratings = {"": {"1": {"train": part(0, 1), "test": part(2)}, "2": {"train": part(2), "test": part(0, 1)}}}
    assert rows_known(ratings, "", 3).tolist() == []
    assert rows_known(ratings, "", 5).tolist() == [3, 4]
    assert rows_known(ratings, "1", 5).tolist() == [0, 1]
    assert known_of_tests(ratings, "") == []
    (line,) = known_of_tests(ratings, "1")
    assert "train part of split 1" in line
    assert "2 of split 2" in line


def test_info_says_what_directions_were_found_from_and_what_they_know(source: Path, tmp_path: Path) -> None:
    project_cache(source, tmp_path / "out", channels=KEPT, split="1")
    info = read_info(tmp_path / "out")
    assert "second.bn 4 of 11 channels; directions found from 3 images in the train part of split 1" in info.as_text()
    assert info.as_json()["projection_warnings"] == []


def test_the_command_says_what_was_made(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = amnet("project-cache", source, "--channels", KEPT, "--split", "1", "--out", out)
    assert f"{out}: 13 images x 2 views in 4 shards" in found.stdout
    assert "second.bn: 4 of 11 channels, " in found.stdout
    again = amnet("project-cache", source, "--channels", KEPT, "--split", "1", "--out", out)
    assert "0 made now" in again.stdout


def test_many_views_are_drawn_by_the_seed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "MOST_POSITIONS", 5 * 7)
    found = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        project_cache(source, tmp_path / name, channels=2, seed=seed)
        found[name] = open_cache(tmp_path / name).projections[LAYER]
        assert found[name].vectors == 5 * 7
    np.testing.assert_array_equal(found["a"].directions, found["b"].directions)
    assert not np.array_equal(found["a"].directions, found["c"].directions)


def test_a_feature_too_large_for_float16_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_stored = project.as_stored
    monkeypatch.setattr(project, "as_stored", lambda maps, how: as_stored(torch.full_like(maps.float(), 6e4), how))
    with pytest.raises(ValueError, match=r"projected features of second.bn are too large for float16"):
        project_cache(source, tmp_path / "out", channels=CHANNELS - 1, split="1")
    shutil.rmtree(tmp_path / "out")
