"""The paper's numbers are the defaults, and a setting that cannot be used is refused by name before anything runs."""

import json
from typing import Any

import pytest

from featcache.base.errors import InvalidSettings
from head.settings import TrainSettings, settings_of, used_fields


def test_defaults_are_the_papers() -> None:
    settings = TrainSettings()
    assert (settings.steps, settings.hidden_size, settings.batch_size) == (3, 1024, 256)
    assert (settings.lr, settings.weight_decay, settings.attention_weight) == (1e-3, 1e-6, 1e-4)
    assert settings.attention
    assert settings.select_on == "val"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "papre"}, r"--recipe must be paper.*found 'papre'"),
        ({"select_on": "train"}, r"--select-on must be val or test, found 'train'"),
        ({"steps": 0}, r"steps must be 1 to 20, found 0"),
        ({"steps": 21}, r"steps must be 1 to 20, found 21"),
        ({"hidden_size": 0}, r"--hidden-size must be 1 to 65536, found 0"),
        ({"regressor_size": -1}, r"--regressor-size must be 1 to 65536, found -1"),
        ({"batch_size": 0}, r"--batch-size must be 1 to 65536, found 0"),
        ({"epochs": 0}, r"epochs must be 1 to 100000, found 0"),
        ({"patience": 0}, r"patience must be 1 to 100000, found 0"),
        ({"lr": -1e-3}, r"lr must be a number from 0 to 10.0, found -0.001"),
        ({"lr": float("nan")}, r"lr must be a number from 0 to 10.0, found nan"),
        ({"weight_decay": float("inf")}, r"--weight-decay must be a number from 0 to 10.0, found inf"),
        ({"attention_weight": 1001.0}, r"--lambda must be a number from 0 to 1000.0, found 1001.0"),
        ({"order_penalty": float("nan")}, r"--order-penalty must be a number from -1000 to 1000, found nan"),
        ({"order_penalty": -1001.0}, r"--order-penalty must be a number from -1000 to 1000, found -1001.0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"dropout": float("nan")}, r"dropout must be in \[0, 1\)"),
        ({"val_fraction": 0.0}, r"--val-fraction must be in \(0, 1\), found"),
        ({"val_fraction": 1.0}, r"--val-fraction must be in \(0, 1\), found"),
        ({"seed": -1}, r"seed must be .*found -1"),
        ({"seed": 2**64}, r"seed must be .*found 18446744073709551616"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_by_name_with_what_was_found(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSettings, match=message):
        TrainSettings(**changes)


def test_settings_survive_json() -> None:
    settings = TrainSettings(attention=False, steps=5, lr=0.1 + 0.2, layers=("layer3",), seed=7)
    assert TrainSettings(**json.loads(json.dumps(settings.as_json()))) == settings


def test_a_run_is_named_for_its_recipe_or_baseline_and_what_is_not_the_default() -> None:
    for settings, name in (
        (TrainSettings(), "paper"),
        (TrainSettings(attention=False), "paper-no-attention"),
        (TrainSettings(steps=2), "paper,steps=2"),
        (TrainSettings(attention=False, steps=2, seed=1), "paper-no-attention,steps=2,seed=1"),
        (TrainSettings(attention_weight=0, lr=1e-5), "paper,lr=1e-05,lambda=0"),
        (TrainSettings(attention_weight=-0.0, layers=("layer3",)), "paper,lambda=0,layer=layer3"),
        (settings_of("published"), "published"),
        (settings_of("published", attention=False), "published-no-attention"),
        (settings_of("published", attention_weight=0.0), "published,lambda=0"),
        (settings_of("published", attention_weight=1e-4), "published,lambda=0.0001"),
        (settings_of(head="ridge"), "ridge"),
        (settings_of(head="ridge", pooling="mean", layers=("a", "b.1")), "ridge,pooling=mean,layer=a+b.1"),
        (TrainSettings(select_on="test"), "paper,select-on=test"),
    ):
        assert settings.default_name() == name


def test_lambda_is_of_no_use_without_attention_and_most_settings_to_baselines() -> None:
    assert "attention_weight" in used_fields("amnet")
    assert "attention_weight" not in used_fields("amnet", attention=False)
    assert "order_penalty" in used_fields("amnet")
    assert "order_penalty" not in used_fields("amnet", steps=1)
    every = [used_fields(head) for head in ("amnet", "ep", "probe", "tail", "svr", "stack")]
    assert frozenset().union(*every) == set(TrainSettings().as_json())
    every_head = {"head", "layers", "select_on", "val_fraction", "calibrate", "seed"}
    assert used_fields("ridge") == every_head | {"pooling", "weight", "channels"}
    assert used_fields("mlp") == every_head | {"pooling", "epochs", "patience", "channels"}
    assert used_fields("stack") == every_head - {"layers"} | {"members"}
    assert used_fields("svr") == used_fields("ridge") | {"kernel"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stpes": 3}, "no such setting: stpes"),
        ({"steps": "3"}, "--steps must be 1 to 20, found '3'"),
        ({"epochs": 1.5}, "--epochs must be 1 to 100000, found 1.5"),
    ],
)
def test_settings_of_other_names_or_types_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        settings_of(**given)
