"""A run's folder comes back as it was written, or says what is wrong with it; nothing in it can be executed."""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from featcache.base.errors import CacheIncomplete, CorruptFile, InvalidSettings, Mismatch
from featcache.base.progress import Progress
from featcache.store.cache import open_cache
from head.data.inputs import HeadInput
from head.models.amnet import AMNetHead, HeadShape
from head.runs.head_file import load_head, save_head
from head.runs.run import check_name, read_run, run_folders, write_config
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.results import CONFIG, RESULT
from tests.helpers.tiny import TINY_TRAIN


@pytest.fixture
def run_folder(tiny_runs: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    shutil.copytree(tiny_runs / "tiny" / "paper" / "split-1", tmp_path / "run")
    return tmp_path / "run"


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_head_comes_back_with_weights_scale_and_training_images(tmp_path: Path) -> None:
    module = AMNetHead(HeadShape(positions=7, channels=5, steps=2, hidden_size=3, regressor_size=11))
    module.set_feature_scale(torch.arange(5.0), torch.arange(1.0, 6))
    images = [hashlib.sha256(bytes([i])).hexdigest() for i in range(13)]
    digest = save_head(tmp_path, module, target_mean=0.1 + 0.2, target_scale=1 / 3, train_images=images, constants={})
    run = write_config(tmp_path, {**CONFIG, "result": {**RESULT, "head_sha256": digest}})
    head = load_head(run)
    assert (head.target_mean, head.target_scale) == (0.1 + 0.2, 1 / 3)
    assert head.train_images == set(images)
    assert head.module.shape == module.shape
    assert not head.module.training
    assert not any(parameter.requires_grad for parameter in head.module.parameters())
    for name, tensor in module.state_dict().items():
        assert torch.equal(head.module.state_dict()[name], tensor), name


def test_the_same_head_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    module = AMNetHead(HeadShape(positions=2, channels=3, hidden_size=5, regressor_size=7))
    digests = {
        save_head(tmp_path, module, target_mean=0.5, target_scale=0.25, train_images=[], constants={})
        for _ in range(20)
    }
    assert len(digests) == 1


def test_step_scores_on_the_scale_of_the_data_add_up_to_the_score(tiny_runs: Path, tiny_cache: Path) -> None:
    head = load_head(read_run(tiny_runs / "tiny" / "paper" / "split-1"))
    features = torch.from_numpy(open_cache(tiny_cache).read([0, 1, 2], 0)).float()
    score, steps, maps = head.predict(features)
    assert (score.shape, steps.shape, maps.shape) == ((3,), (3, 3), (3, 3, 16))
    torch.testing.assert_close(steps.sum(dim=1), score)
    own = head.module(features).score.double()
    torch.testing.assert_close(score, own * head.target_scale + head.target_mean, rtol=1e-6, atol=1e-6)


def test_the_training_images_are_the_files_of_the_train_part(tiny_runs: Path, tiny_dataset: Path) -> None:
    head = load_head(read_run(tiny_runs / "tiny" / "paper" / "split-2"))
    names = [line.split()[0] for line in (tiny_dataset / "splits" / "train_2.txt").read_text().splitlines()]
    digests = {hashlib.sha256((tiny_dataset / "images" / name).read_bytes()).hexdigest() for name in names}
    assert head.train_images == digests


def test_a_run_says_what_it_was_trained_on(tiny_runs: Path, tiny_cache: Path) -> None:
    run, cache = read_run(tiny_runs / "tiny" / "plain" / "split-1"), open_cache(tiny_cache)
    assert (run.name, run.split, run.input, run.finished) == ("plain", "1", HeadInput(("layer3",), "mean"), True)
    assert run.recipe == cache.recipe
    assert run.config.fingerprint == cache.fingerprint
    assert run.config.settings["seed"] == TINY_TRAIN.seed
    assert run.config.document["torch"] == torch.__version__


@pytest.mark.parametrize("place", [8, 500, -1])
def test_a_flipped_byte_in_a_head_is_seen_and_the_way_out_is_named(run_folder: Path, place: int) -> None:
    path = run_folder / "head.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"head.safetensors: missing or damaged; .*--no-resume"):
        load_head(read_run(run_folder))


def test_a_missing_head_is_seen(run_folder: Path) -> None:
    (run_folder / "head.safetensors").unlink()
    with pytest.raises(CorruptFile, match=r"head.safetensors: missing or damaged"):
        load_head(read_run(run_folder))


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 a zip", safetensors.torch.save({"a": torch.zeros(1)}, {"shape": "{}"})]
)
def test_another_file_in_the_heads_place_is_refused_even_with_its_digest(run_folder: Path, content: bytes) -> None:
    (run_folder / "head.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    change_config(run_folder, lambda config: config["result"].update(head_sha256=digest))
    with pytest.raises(CorruptFile, match="not a head of this version"):
        load_head(read_run(run_folder))


def test_a_safetensors_file_without_metadata_is_refused_even_with_its_digest(run_folder: Path) -> None:
    content = safetensors.torch.save({"a": torch.zeros(1)})
    (run_folder / "head.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    change_config(run_folder, lambda config: config["result"].update(head_sha256=digest))
    with pytest.raises(CorruptFile, match="not a head of this version"):
        load_head(read_run(run_folder))


def test_an_unfinished_run_has_no_head_yet(run_folder: Path) -> None:
    change_config(run_folder, lambda config: config.pop("result"))
    run = read_run(run_folder)
    assert not run.finished
    with pytest.raises(CacheIncomplete, match=r"training has not finished; run the same train-head command again"):
        load_head(run)


def test_a_run_of_a_newer_version_is_refused_with_both_versions(run_folder: Path) -> None:
    change_config(run_folder, lambda config: config.update(run_format_version=99))
    with pytest.raises(Mismatch, match="run format 99, this program reads 1"):
        read_run(run_folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"run_format_version": "1"}', b"\xff\xfe"])
def test_a_configuration_that_is_none_is_corrupt(run_folder: Path, content: bytes) -> None:
    (run_folder / "config.json").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"config\.json"):
        read_run(run_folder)


@pytest.mark.parametrize("missing", ["name", "split", "input", "recipe"])
def test_a_configuration_that_lacks_a_field_is_corrupt(run_folder: Path, missing: str) -> None:
    change_config(run_folder, lambda config: config.pop(missing))
    with pytest.raises(CorruptFile, match=r"config\.json"):
        run = read_run(run_folder)
        _ = (run.name, run.split, run.input, run.recipe)


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no name": lambda config: config.pop("name"),
    "no object": lambda config: config.update(result=[]),
    "no digest": lambda config: config["result"].pop("head_sha256"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("origin", "way_out"),
    [({}, "train the run again with --no-resume"), ({"imported": {"file": "split1.pkl"}}, "import it again")],
)
def test_a_damaged_configuration_says_how_to_make_the_run_anew(
    run_folder: Path, damage: str, origin: dict[str, Any], way_out: str
) -> None:
    change_config(run_folder, lambda config: config.update(origin))
    change_config(run_folder, DAMAGES[damage])
    with pytest.raises(CorruptFile, match=rf"config\.json: .*; {way_out}$"):
        read_run(run_folder)


def test_an_imported_run_without_a_result_is_damaged_not_unfinished(run_folder: Path) -> None:
    change_config(run_folder, lambda config: config.update(imported={}, result=None) or config.pop("result"))
    with pytest.raises(CorruptFile, match="lacks result; import it again"):
        read_run(run_folder)


def test_a_folder_that_is_no_run_is_refused_with_the_runs_below_it(tiny_runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"no run there; name one of .*paper/split-1, .*plain/split-1"):
        read_run(tiny_runs)
    with pytest.raises(InvalidSettings, match="no run there; make one with: amnet train-head"):
        read_run(tmp_path / "nowhere")


def test_runs_are_found_below_a_folder_in_order(tiny_runs: Path) -> None:
    found = [folder.relative_to(tiny_runs).as_posix() for folder in run_folders(tiny_runs)]
    assert found == ["tiny/paper/split-1", "tiny/paper/split-2", "tiny/plain/split-1"]


def test_every_file_of_a_run_is_json_csv_or_safetensors_and_none_is_pickled(
    tiny_cache: Path, tiny_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("head.training.gradients.checkpoint.CHECKPOINT_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        train(TrainingJob(open_cache(tiny_cache), "1", TINY_TRAIN, tmp_path / "run", "paper"), interrupt)
    unfinished = {path.name for path in (tmp_path / "run").iterdir()}
    finished = {path.name for path in (tiny_runs / "tiny" / "paper" / "split-1").iterdir()}
    assert unfinished == {"checkpoint", "config.json", "lock"}
    assert finished == {"config.json", "head.safetensors", "history.csv", "lock", "other_ratings.safetensors"}
    for path in [*tmp_path.rglob("*"), *tiny_runs.rglob("*")]:
        if path.is_file():
            check_plain(path)


def check_plain(path: Path) -> None:
    """Read a file as what its name says, which a pickle or a zip of pickles would not allow."""
    match path.name:
        case "config.json":
            assert isinstance(json.loads(path.read_bytes()), dict)
        case "history.csv":
            lines = path.read_text().splitlines()
            assert all(float(value) >= 0 for row in csv.DictReader(lines) for value in row.values())
        case "head.safetensors" | "other_ratings.safetensors":
            assert safetensors.torch.load_file(path)
        case "checkpoint":
            data = path.read_bytes()[:-32]
            assert safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            assert json.loads(header["__metadata__"]["facts"])["history"]
        case "lock":
            assert path.read_text().startswith("process ")
        case _:
            pytest.fail(f"{path.name}: not a file of a run")


def test_a_name_that_no_folder_can_have_is_refused() -> None:
    check_name("x" * 255)
    with pytest.raises(InvalidSettings, match="at most 255 bytes, give a shorter --name than 'xxx"):
        check_name("x" * 256)


@pytest.mark.parametrize("batch_size", [0, -1, 10**9, "16", None])
def test_a_batch_that_no_machine_computes_is_refused(run_folder: Path, batch_size: object) -> None:
    change_config(run_folder, lambda config: config.update(batch_size=batch_size))
    with pytest.raises(CorruptFile, match="batch_size must be 1 to 4096, found"):
        read_run(run_folder)
