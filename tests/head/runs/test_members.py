"""Members of a head are finished runs that it can be made of; what they lack is said once, with all that mends it."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from featcache.base.errors import InvalidSettings
from featcache.store.cache import FeatureCache
from head.evaluation.evaluate import evaluate
from head.runs.run import read_run, told_apart
from head.settings import TrainSettings
from head.training.jobs import check_all
from tests.helpers.command_line import amnet
from tests.helpers.results import RESULT, run_of
from tests.helpers.stacks import MEAN, RIDGE, fit, job_of
from tests.helpers.tiny import SPLITS

BOTH = TrainSettings(head="mean", members=("ridge", "ridge,pooling=mean"))


@pytest.fixture
def home(member_runs: Path, tmp_path: Path) -> Path:
    """Runs of three heads on both splits, for each test its own."""
    return Path(shutil.copytree(member_runs, tmp_path / "runs"))


def refusal(jobs: list[object]) -> str:
    with pytest.raises(InvalidSettings) as caught:
        check_all(jobs)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_name_of_no_run_is_told_of_every_split_and_those_there_are_once(cache: FeatureCache, home: Path) -> None:
    heads = [replace(BOTH, head=head, members=("ridge", "rigde")) for head in ("stack", "mean")]
    said = refusal([job_of(cache, home, one, split) for one in heads for split in SPLITS]).splitlines()
    place = home / "tiny"
    assert said == [
        "--head stack and --head mean are made of finished runs of members on the same split:",
        *(f"  {place}/rigde/split-{split}: no run there" for split in SPLITS),
        f"{place} has on split 1, 2 these runs: paper, ridge, ridge,pooling=mean.",
    ]
    shutil.rmtree(place / "paper" / "split-2")
    said = refusal([job_of(cache, home, heads[0], split) for split in SPLITS]).splitlines()
    assert said[-2:] == [
        f"{place} has on split 1 these runs: paper, ridge, ridge,pooling=mean.",
        f"{place} has on split 2 these runs: ridge, ridge,pooling=mean.",
    ]


def test_every_problem_of_members_is_listed_with_every_way_out(cache: FeatureCache, home: Path) -> None:
    said = refusal([job_of(cache, home, replace(BOTH, members=("rigde",)))])
    assert "  --head mean takes two heads or more: --member NAME --member NAME\n" in said
    assert "/rigde/split-1: no run there\n" in said
    fit(cache, home, replace(RIDGE, calibrate="linear", select_on="test"), name="bent")
    shutil.rmtree(home / "tiny" / "ridge" / "split-1")
    said = refusal([job_of(cache, home, replace(BOTH, members=("bent", "ridge", "rigde")))])
    bent = home / "tiny" / "bent" / "split-1"
    assert (
        f"  {bent}: it is calibrated; name a run without that, and give --calibrate linear to the mean itself\n" in said
    )
    assert f"  {bent}: it was trained with select_on test; use the same here\n" in said
    assert f"\nTrain them with: amnet train-head --cache {cache.path} --split 1 --head ridge --runs {home}\n" in said
    assert said.endswith("has on split 1 these runs: bent, paper, ridge,pooling=mean.")


def test_no_command_is_given_that_trains_what_is_refused(cache: FeatureCache, home: Path) -> None:
    fit(cache, home, replace(RIDGE, calibrate="linear"), "2", "bent")
    said = refusal([job_of(cache, home, replace(BOTH, members=("bent", "ridge")))])
    assert "bent/split-1: no run there" in said and "Train them with" not in said


def test_commands_that_fit_a_head_of_others_to_all_images_do(cache: FeatureCache, home: Path) -> None:
    shutil.rmtree(home / "tiny" / "paper")
    for split in SPLITS:
        fit(cache, home, BOTH, split)
        for settings in (RIDGE, MEAN):
            worst_on_validation(home, settings.default_name(), split)
    commands = evaluate(cache, home).to_fit_all
    assert len(commands) == 3
    for one in commands:
        amnet(*shlex.split(one)[1:])
    assert read_run(home / "tiny" / BOTH.default_name() / "split-full").finished
    assert len(evaluate(cache, home).to_fit_all) == 1  # members are there


def test_no_command_fits_a_head_to_all_images_that_would_refuse_a_member(cache: FeatureCache, home: Path) -> None:
    for split in SPLITS:
        fit(cache, home, BOTH, split)
        shutil.rmtree(home / "tiny" / "ridge" / f"split-{split}")
        fit(cache, home, replace(RIDGE, calibrate="linear"), split, "ridge")
        for name in ("ridge", "ridge,pooling=mean", "paper"):
            worst_on_validation(home, name, split)
    found = evaluate(cache, home)
    assert found.summaries[0].name == BOTH.default_name()
    assert not found.to_fit_all
    with pytest.raises(InvalidSettings, match="it is calibrated; name a run without that"):
        check_all([job_of(cache, home, BOTH)])


def worst_on_validation(home: Path, name: str, split: str) -> None:
    """Let a run say that it did worst on the part that selects, so that a head of others is the best."""
    config = home / "tiny" / name / f"split-{split}" / "config.json"
    document = json.loads(config.read_text())
    document["result"]["val_rho"] = -1.0
    config.write_text(json.dumps(document))


def test_weights_of_members_are_named_by_what_tells_them_apart() -> None:
    names = ["svr,layer=a+b", "svr,kernel=product,layer=c", "svr"]
    assert told_apart(names) == ["layer=a+b", "kernel=product,layer=c", "svr"]
    assert told_apart(["svr,seed=1"]) == ["svr,seed=1"]
    weights = dict(zip(names, (0.5, 0.25, 0.12345), strict=True))
    run = run_of(
        Path("run"), settings={"head": "stack", "members": names}, result={**RESULT, "hyperparameters": weights}
    )
    assert run.chosen == "layer=a+b: 0.5; kernel=product,layer=c: 0.25; svr: 0.123"
