"""Checkpoints in the authors' layout become runs that score as the authors' code does; others are refused whole."""

import json
import pickle
import shutil
import signal
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.models import resnet50

import head.share.import_head as importing
from featcache.base.errors import CorruptFile, HostileFile, InvalidSettings, Mismatch
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.settings import ExtractSettings, view_settings_of
from featcache.store.cache import open_cache
from head.evaluation.score import score_run
from head.models.published import PublishedShape
from head.prediction.predictor import Predictor
from head.runs.find import find_runs_of
from head.runs.run import read_run
from head.share.import_head import import_head
from tests.helpers.command_line import amnet, told
from tests.helpers.hostile import Hostile
from tests.helpers.processes import run_forked
from tests.helpers.reference_published import BACKBONE, Network, random_checkpoint, score_file
from tests.helpers.small_resnet import small_resnet, small_resnet_for_resnet50

GET_MODEL, RESNET = torchvision.models.get_model, importing._resnet
SMALL = {"positions": 16, "hidden_size": 17, "regressor_size": 19}  # of images of 64 pixels
State = dict[str, Tensor]


@pytest.fixture(scope="module", autouse=True)
def small_backbone() -> Iterator[None]:
    """A small network stands for ResNet50, except in tests that use `real_backbone`."""
    with small_resnet_for_resnet50():
        yield


@pytest.fixture
def real_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "get_model", GET_MODEL)
    monkeypatch.setattr(importing, "_resnet", RESNET)


@pytest.fixture(scope="module")
def whole() -> State:
    """A checkpoint with a small head and backbone."""
    return random_checkpoint(**SMALL, network=small_resnet)


@pytest.fixture(scope="module")
def checkpoint(whole: State) -> State:
    """What is used of it."""
    return used(whole)


@pytest.fixture(scope="module")
def real_checkpoint() -> State:
    """What is used of a checkpoint with a small head; its backbone is the real one."""
    return used(random_checkpoint(**SMALL))


def used(whole: State) -> State:
    return {key: tensor for key, tensor in whole.items() if not key.startswith((f"{BACKBONE}layer4", f"{BACKBONE}fc"))}


@pytest.fixture(scope="module")
def file(checkpoint: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as a file."""
    path = tmp_path_factory.mktemp("published") / "split1.pkl"
    torch.save({"model": checkpoint}, path)
    return path


@pytest.fixture(scope="module")
def run(file: Path) -> Path:
    """The run that the file became; read-only."""
    folder = file.parent / "run"
    import_head(file, folder, split="1")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three images of different sizes with structure at every scale."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(7)
    paths = []
    for k, size in enumerate([(330, 240), (150, 401), (224, 224)]):
        rough = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        pixels = np.asarray(rough) + rng.normal(0, 20, (size[1], size[0], 3))
        paths.append(folder / f"{k}.png")
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def saved(path: Path, state: dict[str, Any], **options: Any) -> Path:
    torch.save({"model": state}, path, **options)
    return path


def assert_predicts(
    run: Path, checkpoint: State, photos: list[Path], maps: Path, *, size: int, network: Network, steps: int = 3
) -> None:
    """Compare scores, step scores and maps with the float64 reference, to 1e-5."""
    files = [maps / f"{k}.npy" for k in range(len(photos))]
    found = Predictor.load(run).predict(photos, map_files=files)
    for image, file, path in zip(found, files, photos, strict=True):
        wanted = score_file(checkpoint, path, size=size, steps=steps, network=network)
        assert image.score == pytest.approx(wanted.y, abs=1e-5)
        np.testing.assert_allclose(image.step_scores, wanted.displayed, atol=1e-5)
        np.testing.assert_allclose(np.load(file), wanted.maps.reshape(steps, size // 16, size // 16), atol=1e-5)
        assert wanted.maps.max() > 3 / wanted.maps.shape[1]  # attention that is not flat
    assert np.std([image.score for image in found]) > 1e-4


@pytest.mark.usefixtures("real_backbone")
def test_an_imported_head_of_the_authors_sizes_scores_as_their_code_does(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_BATCH_SIZE", 2)  # a batch is filled up, whatever it costs
    checkpoint = random_checkpoint()
    imported = import_head(saved(tmp_path / "lamem.pkl", checkpoint), tmp_path / "run")
    assert imported.shape == PublishedShape(196, 1024, 3, 1024, 512, True, 0.5, 0.8)
    assert_predicts(tmp_path / "run", checkpoint, photos[:2], tmp_path / "maps", size=224, network=resnet50)


@pytest.mark.parametrize("steps", [1, 5])
def test_steps_are_as_many_as_asked_for(
    file: Path, checkpoint: State, photos: list[Path], tmp_path: Path, steps: int
) -> None:
    import_head(file, tmp_path / "run", steps=steps)
    assert_predicts(
        tmp_path / "run", checkpoint, photos[:2], tmp_path / "maps", size=64, steps=steps, network=small_resnet
    )


# what is taken


def without_counters(state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}


def of_data_parallel(state: State) -> State:
    return {f"module.{key}": tensor for key, tensor in state.items()}


@pytest.mark.parametrize("change", [without_counters, of_data_parallel, OrderedDict])
def test_files_that_differ_in_what_does_not_matter_give_the_same_head(
    run: Path, checkpoint: State, tmp_path: Path, change: Callable[[State], State]
) -> None:
    imported = import_head(saved(tmp_path / "f.pkl", change(checkpoint)), tmp_path / "run")
    assert imported.unknown_keys == ()
    assert imported.run.result == read_run(run).result
    assert imported.run.config.fingerprint == read_run(run).config.fingerprint


def test_a_plain_state_dict_in_an_old_torch_file_is_read(run: Path, checkpoint: State, tmp_path: Path) -> None:
    torch.save(checkpoint, tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    imported = import_head(tmp_path / "old.pkl", tmp_path / "run")
    assert imported.run.result == read_run(run).result


def test_unknown_keys_are_listed_and_ignored_and_unused_ones_are_not_unknown(whole: State, tmp_path: Path) -> None:
    more = {"regnet2.weight": torch.ones(3), f"{BACKBONE}extra": torch.full((1,), torch.nan)}
    imported = import_head(saved(tmp_path / "f.pkl", whole | more), tmp_path / "run")
    assert imported.unknown_keys == ("regnet2.weight", f"{BACKBONE}extra")
    assert imported.as_json()["unknown_keys"] == ["regnet2.weight", f"{BACKBONE}extra"]


@pytest.mark.usefixtures("real_backbone")
def test_the_run_says_what_is_not_known(real_checkpoint: State, tmp_path: Path) -> None:
    file, run = saved(tmp_path / "split1.pkl", real_checkpoint), tmp_path / "run"
    import_head(file, run, split="1")
    config = read_run(run).config.document
    assert (config["selected_on"], config["train_images"], config["split"]) == ("unknown (imported)", None, "1")
    assert config["result"]["best_epoch"] is None
    assert config["imported"]["file"] == "split1.pkl"
    assert str(file.parent) not in (run / "config.json").read_text()
    recipe = config["recipe"]
    assert (recipe["backbone"], recipe["layers"], recipe["precision"]) == ("resnet50", [["layer3", 4, 4, 1024]], "fp32")
    assert (recipe["image_size"], recipe["eval_view"], recipe["pre_squash"]) == (64, "squash", 75)


def test_the_run_can_be_moved_and_its_training_images_are_unknown(
    run: Path, photos: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "elsewhere" / "moved")
    found = Predictor.load(tmp_path / "elsewhere" / "moved").predict(photos)
    assert found == Predictor.load(run).predict(photos)
    assert [image.in_training for image in found] == [None] * 3


# what is refused, and leaves nothing


@pytest.mark.usefixtures("real_backbone")
def test_every_missing_key_is_named_at_once(real_checkpoint: State, tmp_path: Path) -> None:
    with pytest.raises(Mismatch) as caught:
        import_head(saved(tmp_path / "f.pkl", {"other": torch.zeros(1)}), tmp_path / "run")
    missing = {line.strip().partition(": missing")[0] for line in str(caught.value).splitlines()[1:-1]}
    assert missing == set(without_counters(real_checkpoint))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keys", [("e1.weight", "eh1.weight", "eh1.bias", "eh3.weight"), ("e1.weight",)])
def test_a_checkpoint_without_attention_is_refused(checkpoint: State, tmp_path: Path, keys: tuple[str, ...]) -> None:
    state = {key: tensor for key, tensor in checkpoint.items() if key not in keys}
    with pytest.raises(Mismatch) as caught:
        import_head(saved(tmp_path / "f.pkl", state), tmp_path / "run")
    named = [line.strip() for line in str(caught.value).splitlines() if line.startswith("  e")]
    assert set(keys) <= {line.partition(":")[0] for line in named if line.endswith("missing")}


@pytest.mark.usefixtures("real_backbone")
def test_everything_that_does_not_fit_is_named_at_once(real_checkpoint: State, tmp_path: Path) -> None:
    last = f"{BACKBONE}layer3.5.bn3.running_var"
    state = {
        **real_checkpoint,
        "inconv.weight": torch.zeros(1024, 1023, 1, 1),
        "hs1.bias": torch.zeros(17, dtype=torch.float64),
        "regnet4.weight": torch.full((1, 19), torch.nan),
        "rnn.bias_ih_l0": torch.zeros(67),
        "bn1.running_var": -torch.ones(1024),
        last: torch.zeros(1024, dtype=torch.int32),
        f"{BACKBONE}layer3.6.conv1.weight": torch.zeros(1),
    }
    del state["eh3.weight"], state[f"{BACKBONE}conv1.weight"]
    with pytest.raises(Mismatch) as caught:
        import_head(saved(tmp_path / "f.pkl", state), tmp_path / "run")
    text = str(caught.value)
    assert sorted(line.strip() for line in text.splitlines()[1:-1]) == sorted(
        [
            "inconv.weight: expected shape (1024, 1024, 1, 1), found (1024, 1023, 1, 1)",
            "hs1.bias: expected torch.float32, found torch.float64",
            "regnet4.weight: holds NaN or infinity",
            "rnn.bias_ih_l0: expected shape (68,), found (67,)",
            "bn1.running_var: holds negative variances",
            f"{last}: expected torch.float32, found torch.int32",
            f"{BACKBONE}layer3.6.conv1.weight: resnet50 has no such layer",
            "eh3.weight: missing",
            f"{BACKBONE}conv1.weight: missing",
        ]
    )
    assert text.splitlines()[0].endswith("f.pkl: not a head that can be imported:")
    assert not (tmp_path / "run").exists()


def test_positions_of_no_square_map_are_refused(checkpoint: State, tmp_path: Path) -> None:
    state = {**checkpoint, "eh1.weight": torch.zeros(15, 17), "eh1.bias": torch.zeros(15)}
    with pytest.raises(Mismatch, match=r"eh1\.weight: for 15 positions, which no square map has"):
        import_head(saved(tmp_path / "f.pkl", state), tmp_path / "run")


def test_names_that_are_not_text_and_numbers_that_are_not_stored_are_refused(checkpoint: State, tmp_path: Path) -> None:
    strange: dict[Any, Tensor] = {**checkpoint, 1: torch.zeros(1)}
    with pytest.raises(CorruptFile, match=r"f\.pkl: expected .*, found names that are not text but int"):
        import_head(saved(tmp_path / "f.pkl", strange), tmp_path / "run")
    many = {"rnn.weight_hh_l0": torch.zeros(1).expand(4 * 60_000, 60_000)}  # 58 GB, were they looked at
    with pytest.raises(Mismatch, match=r"rnn\.weight_hh_l0: claims 14,400,000,000 numbers, of which the file holds 1"):
        import_head(saved(tmp_path / "f.pkl", checkpoint | many), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("way", ["zip", "old", "pickle"])
def test_a_hostile_pickle_is_refused_and_not_executed(checkpoint: State, tmp_path: Path, way: str) -> None:
    value = {"model": {**checkpoint, "x": Hostile(tmp_path / "executed")}}
    if way == "pickle":
        (tmp_path / "f.pkl").write_bytes(pickle.dumps({"model": Hostile(tmp_path / "executed")}))
    else:
        torch.save(value, tmp_path / "f.pkl", _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(HostileFile, match="refused") as caught:
        import_head(tmp_path / "f.pkl", tmp_path / "run")
    assert caught.value.exit_code == 10
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(file: Path, tmp_path: Path, keep: float) -> None:
    whole = file.read_bytes()
    (tmp_path / "f.pkl").write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(CorruptFile, match=r"f\.pkl: not a weights file"):
        import_head(tmp_path / "f.pkl", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"name": "a/b"}, {"split": "../1"}, {"steps": 0}, {"steps": 21}])
def test_options_that_cannot_be_are_refused(file: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings, match=f"--{next(iter(options))} must be"):
        import_head(file, tmp_path / "run", **options)


# the folder


def test_the_same_import_again_gives_the_same_files(file: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "head.safetensors").write_bytes(b"damaged")
    import_head(file, tmp_path / "run", split="1")
    for name in ("config.json", "head.safetensors", "backbone.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def test_another_split_takes_the_scores_of_the_first_away(file: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "scores.json").write_text("{}")
    assert import_head(file, tmp_path / "run", split="1").run.split == "1"
    assert (tmp_path / "run" / "scores.json").exists()
    assert import_head(file, tmp_path / "run", split="2").run.split == "2"
    assert not (tmp_path / "run" / "scores.json").exists()


def test_a_run_that_lost_its_configuration_is_imported_again_without_its_scores(
    file: Path, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    (tmp_path / "run" / "scores.json").write_text("{}")
    again = import_head(file, tmp_path / "run", split="1").run
    assert again.config == read_run(run).config
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(path.name for path in run.iterdir())


def test_another_run_is_not_overwritten(file: Path, run: Path, tiny_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_runs / "tiny" / "paper" / "split-1", tmp_path / "trained")
    shutil.copytree(run, tmp_path / "imported")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"}
    for folder, steps, message in (
        ("trained", 3, "holds another run, paper, a trained head; give this one a new --out"),
        ("imported", 2, r"holds another run, imported, an import of split1\.pkl"),
        ("photos", 3, r"holds a\.jpg, so no place for a run"),
    ):
        with pytest.raises(Mismatch, match=message):
            import_head(file, tmp_path / folder, steps=steps)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_import_cut_short_leaves_no_run_and_can_be_repeated(
    file: Path, run: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def cut(self: Path, target: Path) -> Path:
        nonlocal written
        written += 1
        if written == number:
            raise KeyboardInterrupt
        return Path.rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", cut)
        import_head(file, tmp_path / "run", split="1")
    with pytest.raises((InvalidSettings, CorruptFile), match="no run there|holds a head, but lacks config.json"):
        read_run(tmp_path / "run")
    if number == 3:
        import_head(file, tmp_path / "run", split="1")
        assert (tmp_path / "run" / "config.json").read_bytes() == (run / "config.json").read_bytes()


def test_an_import_killed_as_it_writes_its_configuration_leaves_no_run(file: Path, run: Path, tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from head.share.import_head import import_head
from tests.helpers.small_resnet import small_resnet_for_resnet50
replace = Path.replace
def cut(self, target):
    if target.name == "config.json":
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = cut
with small_resnet_for_resnet50():
    import_head(Path(sys.argv[1]), Path(sys.argv[2]), split="1")
"""
    assert run_forked(code, file, tmp_path / "run").returncode == -signal.SIGKILL
    with pytest.raises(CorruptFile, match="holds a head, but lacks config.json"):
        read_run(tmp_path / "run")
    import_head(file, tmp_path / "run", split="1")
    assert (tmp_path / "run" / "config.json").read_bytes() == (run / "config.json").read_bytes()
    assert not list((tmp_path / "run").glob(".tmp-*"))


# on a cache


@pytest.fixture(scope="module")
def caches(file: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of caches: own, of the checkpoint's backbone, and other, of random weights."""
    home = tmp_path_factory.mktemp("caches")
    for name, weights in (("own", str(file)), ("other", "random")):
        settings = ExtractSettings(
            weights=weights, views=view_settings_of("published", image_size=64), precision="fp32", runtime="torch"
        )
        extract(open_dataset(str(tiny_dataset)), settings, home / name)
    return home


def test_an_imported_head_is_scored_on_a_cache_of_its_own_backbone(
    caches: Path, run: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "own" / "imported" / "split-1")
    cache = open_cache(caches / "own")
    assert cache.fingerprint == read_run(run).config.fingerprint
    found = find_runs_of(cache, tmp_path)
    assert (len(found.runs), found.errors) == (1, [])
    scored = score_run(found.runs[0], cache)
    assert scored.as_json()["selected_on"] == "unknown (imported)"
    predicted = Predictor.load(run).predict([tiny_dataset / "images" / name for name in scored.names])
    np.testing.assert_allclose(scored.prediction, [image.score for image in predicted], atol=1e-3)  # float16 features


def test_a_run_named_itself_is_found_and_one_among_others_only_on_a_cache_of_its_features(
    caches: Path, run: Path, tmp_path: Path
) -> None:
    own, other = open_cache(caches / "own"), open_cache(caches / "other")
    assert [found.folder for found in find_runs_of(own, run).runs] == [run]
    shutil.copytree(run, tmp_path / "somewhere")
    assert [found.folder for found in find_runs_of(own, tmp_path).runs] == [tmp_path / "somewhere"]
    with pytest.raises(InvalidSettings, match="no finished run"):
        find_runs_of(other, tmp_path)
    (named,) = find_runs_of(other, run).runs
    with pytest.raises(Mismatch, match="weights: "):
        score_run(named, other)


def test_a_head_without_a_split_asks_for_one(file: Path, caches: Path, tmp_path: Path) -> None:
    imported = import_head(file, tmp_path / "run").run
    with pytest.raises(InvalidSettings, match=r"import it again with --split K"):
        score_run(imported, open_cache(caches / "own"))


# the command line


def test_unknown_keys_cannot_write_to_the_terminal_and_json_has_them_all(checkpoint: State, tmp_path: Path) -> None:
    keys = ["\x1b]0;title\x07", "a\nb", "é" * 200, *(f"more.{k}" for k in range(20))]
    file = saved(tmp_path / "f.pkl", checkpoint | {key: torch.zeros(1) for key in keys})
    done = amnet("import-head", file, "--out", tmp_path / "run", "--json")
    assert json.loads(done.stdout)["unknown_keys"] == keys
    (line,) = told(done).splitlines()
    shown = ["\\x1b]0;title\\x07", "a\\nb", "é" * 60 + "...", *(f"more.{k}" for k in range(5))]
    assert line.endswith(f"of such a model, ignored: {', '.join(shown)}, and 15 more, which --json lists")
    text = amnet("import-head", file, "--out", tmp_path / "run").stdout
    assert text.startswith(
        f"{tmp_path / 'run'}: head of 3 steps, 16 positions, state 17, with its backbone; fingerprint "
    )


def test_import_predict_and_score_from_the_command_line(
    checkpoint: State, caches: Path, photos: list[Path], tmp_path: Path
) -> None:
    file = saved(tmp_path / "f.pkl", {**checkpoint, "more": torch.zeros(1)})
    done = amnet("import-head", file, "--out", tmp_path / "run", "--split", "1", "--json")
    assert json.loads(done.stdout)["unknown_keys"] == ["more"]
    assert "ignored: more" in done.stderr
    done = amnet("predict", "--head", tmp_path / "run", *photos, "--maps", tmp_path / "maps", "--json")
    assert done.stderr.count("which images an imported head was trained on is unknown") == 1
    found = json.loads(done.stdout)
    assert [image["in_training"] for image in found] == [None] * 3
    assert [np.load(image["maps"]).shape for image in found] == [(3, 4, 4)] * 3
    done = amnet("score-cache", "--cache", caches / "own", "--runs", tmp_path / "run", "--json")
    assert json.loads(done.stdout)["runs"][0]["selected_on"] == "unknown (imported)"
    assert "which images it was trained on is unknown" in done.stderr
    text = amnet("score-cache", "--cache", caches / "own", "--runs", tmp_path / "run").stdout
    assert "unknown (imported)" in text
    assert "None" not in text


def test_hostile_pickles_end_with_status_10(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "f.pkl").write_bytes(pickle.dumps({"model": Hostile(tmp_path / "executed")}))
    amnet("import-head", tmp_path / "f.pkl", "--out", tmp_path / "run", status=10)
    amnet("extract", "--dataset", tiny_dataset, "--weights", tmp_path / "f.pkl", "--out", tmp_path / "c", status=10)
    assert not (tmp_path / "executed").exists()
