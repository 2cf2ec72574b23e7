"""Every command of the README and the guides, and the Python of README and docs/python.md, is run as it stands there.

Data are small ones in the place of those that the documents speak of.

What makes them fast is added behind: small images, random weights where a download would be needed. Heads are small,
and train for one epoch.
"""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cli import main
from featcache.store.cache import FeatureCache
from head.models.kinds import untrained_head
from head.settings import TrainSettings
from tests.helpers.clusters import running_cluster
from tests.helpers.command_line import amnet, interruptible
from tests.helpers.reference_published import random_checkpoint
from tests.helpers.tiny import ROOT

SMALL = ["--image-size", "64"]


def blocks(document: str, language: str = "") -> list[str]:
    """Return the blocks of code of a document: indented ones, or fenced ones in a language."""
    text = (ROOT / document).read_text(encoding="utf-8")
    if language:
        return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    found = re.findall(r"(?:^\n)((?:^    .*\n|^\n(?=    ))+)", text, flags=re.MULTILINE)
    return [re.sub(r"(?m)^    ", "", block) for block in found]


def commands(document: str) -> list[list[str]]:
    """Return the arguments of every command of this program in a document, in order."""
    lines = [line for block in blocks(document) for line in block.splitlines() if line.startswith("amnet ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder with what the documents speak of: photographs, ratings, LaMem, SUN, a checkpoint."""
    rng = np.random.default_rng(5)
    for folder in ("photos", "new-photos", "data/lamem/images", "data/sun/images"):
        (tmp_path / folder).mkdir(parents=True)
    for k in range(24):
        pixels = np.clip(rng.normal(40 + 8 * k, 20, (70, 90, 3)), 0, 255).astype(np.uint8)
        for folder in ("photos", "data/lamem/images", "data/sun/images"):
            Image.fromarray(pixels).save(tmp_path / folder / f"{k}.jpg")
    for name in ("photo.jpg", "a.jpg", "b.jpg", "new-photos/x.jpg"):
        shutil.copy(tmp_path / "photos" / "3.jpg", tmp_path / name)
    lines = [f"photos/{k}.jpg,{k / 24:.3f}\n" for k in range(24)]
    (tmp_path / "ratings.csv").write_text("path,score\n" + "".join(lines))
    for name, splits, parts in (("lamem", "123", ("train", "val", "test")), ("sun", "12", ("train", "test"))):
        (tmp_path / "data" / name / "splits").mkdir()
        for split in splits:
            for part, order in zip(parts, np.array_split(rng.permutation(24), len(parts)), strict=True):
                text = "".join(f"{k}.jpg {k / 24:.3f}\n" for k in order)
                (tmp_path / "data" / name / "splits" / f"{part}_{split}.txt").write_text(text)
    torch.save(random_checkpoint(positions=16, hidden_size=17, regressor_size=19), tmp_path / "split1.pkl")
    monkeypatch.chdir(tmp_path)

    def small(cache: FeatureCache, settings: TrainSettings) -> nn.Module:
        return untrained_head(cache, replace(settings, hidden_size=17, regressor_size=13))

    for module in ("trainer", "fit"):
        monkeypatch.setattr(
            f"head.training.gradients.{module}.goes_on", lambda settings, epochs, best_epoch: epochs < 1
        )
    monkeypatch.setattr("head.training.gradients.trainer.untrained_head", small)
    yield tmp_path


def run(arguments: list[str], *, address: str = "") -> None:
    """Run a command of a document, made small by options behind it."""
    given = [argument.replace("tcp://HOST:8786", address) for argument in arguments]
    if given[0] == "extract":
        given += [] if "--image-size" in given else SMALL
        given += [] if "--weights" in given or "efficientnet_lite0" in given else ["--weights", "random"]
    if given[0] == "paper-table":
        given += ["--weights", "random", "--augs", "0", "--rows", "isola-pixels,hybrid-fc6,amnet"]
    if given[0] == "explore":
        serve_and_stop(given)
    else:
        amnet(*given)


def serve_and_stop(arguments: list[str]) -> None:
    """Run a command that serves until Ctrl-C, and end it so, once it says where."""
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=interruptible) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def run_all(document: str, *, address: str = "") -> None:
    for arguments in commands(document):
        if arguments[0] == "merge-caches":
            for machine in ("machine-1", "machine-2"):
                shutil.copytree("cache/lamem", f"cache/{machine}")
        run(arguments, address=address)


@pytest.mark.early
@pytest.mark.timeout(900)  # of forty commands
@pytest.mark.usefixtures("real_cpu")
def test_every_command_of_the_readme_works(desk: Path) -> None:
    named = {arguments[0] for arguments in commands("README.md")}
    assert named > {"extract", "train-head", "score-cache", "report", "predict", "import-head", "verify-cache"}
    with running_cluster(1) as cluster:
        run_all("README.md", address=cluster.address)
    page = (desk / "report.html").read_text()
    assert page.count('"picture":"UklGR') > 10  # WebP
    assert "have no picture" not in page
    assert '"problem":"unreadable' not in page
    for written in (
        "scores.csv", "maps/x.jpg.npy", "maps/x.jpg.png", "cache/all/manifest.json", "exported/model.onnx",
    ):  # fmt: skip
        assert (desk / written).is_file(), written


@pytest.mark.early
def test_the_python_of_the_readme_and_the_guide_works(desk: Path) -> None:
    for arguments in commands("README.md")[:2]:
        run(arguments)
    names: dict[str, object] = {}
    for block in [block for block in blocks("README.md") if "import " in block] + blocks("docs/python.md", "python"):
        exec(compile(block, "document", "exec"), names)
    assert [scored.run.name for scored in names["evaluation"].scored] == ["paper"]  # type: ignore[attr-defined]
    assert names["features"].dtype in (np.float16, torch.float32)  # type: ignore[attr-defined]
    assert (desk / "runs" / "mine" / "paper" / "split-1" / "head.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("document", ["docs/tutorial.md", "docs/datasets.md"])
def test_every_command_of_the_guides_works(desk: Path, document: str) -> None:
    run_all(document)


def test_the_options_of_every_command_of_the_documents_exist() -> None:
    given = [arguments for path in (ROOT / "docs").glob("*.md") for arguments in commands(f"docs/{path.name}")]
    assert len(given) > 40
    for name, *arguments in given:
        command = main.commands[name]
        values, _, _ = command.make_parser(click.Context(command)).parse_args(arguments)  # opens nothing
        for option in command.params:
            if isinstance(option.type, click.Choice) and option.name in values:
                option.type_cast_value(click.Context(command), values[option.name])


def test_no_command_of_the_readme_stands_in_its_text_where_none_would_be_run() -> None:
    assert re.findall(r"`amnet [^`]+`", (ROOT / "README.md").read_text(encoding="utf-8")) == []


def test_what_the_readme_asks_make_and_pip_for_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = {*re.findall(r"(?m)^    make ([a-z-]+)$", text), *re.findall(r"`make ([a-z-]+)`", text)}
    assert targets >= {"demo", "test", "check"}
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
    extras = {extra for found in re.findall(r"pip install '\.\[([\w,]+)\]'", text) for extra in found.split(",")}
    assert extras
    configuration = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert not {extra for extra in extras if f"\n{extra} =\n" not in configuration}


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") < 200
