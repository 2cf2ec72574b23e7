"""Lists of values become distinct trainings under distinct names; what cannot be, or changes nothing, is refused."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.base.errors import InvalidSettings
from head.grid import Point, given_values, grid
from head.runs.run import check_name
from head.settings import HEADS, POOLED, TrainSettings, options_of, settings_of, used_fields

FLOATS = st.floats(0, 0.99)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "attention": st.booleans(),
    "steps": st.integers(1, 20),
    "hidden_size": st.integers(1, 65536),
    "regressor_size": st.integers(1, 65536),
    "dropout": FLOATS,
    "lr": FLOATS,
    "weight_decay": FLOATS,
    "attention_weight": FLOATS,
    "batch_size": st.integers(1, 65536),
    "epochs": st.integers(1, 100_000),
    "patience": st.integers(1, 100_000),
    "pooling": st.sampled_from(POOLED),
    "layers": st.lists(st.sampled_from(["layer3", "layer4", "blocks.1"]), max_size=1).map(tuple),
    "precision": st.sampled_from(["auto", "fp32", "bf16"]),
    "select_on": st.sampled_from(["val", "test"]),
    "val_fraction": st.floats(0.01, 0.99),
    "seed": st.integers(0, 2**63 - 1),
}
SETTINGS = st.builds(
    lambda recipe, head, values: settings_of(recipe, head=head, **values),
    st.sampled_from(["paper", "published"]),
    st.sampled_from(tuple(HEADS)),
    st.fixed_dictionaries({}, optional=FIELDS),
)


def names(points: list[Point]) -> list[str]:
    return [point.name for point in points]


def test_nothing_given_is_the_recipe_of_the_paper() -> None:
    assert grid({}) == [Point("paper", TrainSettings())]


def test_every_combination_is_there_once_in_the_order_of_the_values() -> None:
    points = grid({"attention": (True, False), "steps": (3, 2, 3), "seed": (0, 1)})
    assert names(points) == [
        "paper",
        "paper,seed=1",
        "paper,steps=2",
        "paper,steps=2,seed=1",
        "paper-no-attention",
        "paper-no-attention,seed=1",
        "paper-no-attention,steps=2",
        "paper-no-attention,steps=2,seed=1",
    ]
    assert points[5].settings == TrainSettings(attention=False, seed=1)


def test_what_a_head_does_not_use_makes_no_trainings_of_it() -> None:
    points = grid({"head": ("amnet", "ridge"), "steps": (2, 3)})
    assert names(points) == ["paper,steps=2", "paper", "ridge"]
    assert points[2].settings == settings_of(head="ridge")
    assert names(grid({"attention": (True, False), "attention_weight": (0.0, 1e-4)})) == [
        "paper,lambda=0", "paper", "paper-no-attention",
    ]  # fmt: skip
    recipes = grid({"recipe": ("paper", "published"), "head": ("amnet", "ridge"), "pooling": ("mean",)})
    assert names(recipes) == ["paper", "ridge,pooling=mean", "published"]


def test_values_that_are_not_given_are_those_of_each_recipe() -> None:
    paper, published = grid({"recipe": ("paper", "published"), "steps": (4,)})
    assert (paper.settings.lr, published.settings.lr) == (1e-3, 1e-4)
    assert names([paper, published]) == ["paper,steps=4", "published,steps=4"]


def test_a_name_of_ones_own_is_followed_by_what_varies() -> None:
    assert names(grid({"steps": (2,), "lr": (0.1,)}, name="mine")) == ["mine"]
    assert names(grid({"steps": (2, 2), "lr": (0.1,)}, name="mine")) == ["mine"]
    assert names(grid({"steps": (2, 3), "lr": (0.1,), "seed": (0, 1)}, name="mine")) == [
        "mine,steps=2,seed=0", "mine,steps=2,seed=1", "mine,steps=3,seed=0", "mine,steps=3,seed=1",
    ]  # fmt: skip
    varied = {"attention": (True, False), "attention_weight": (0.0, 0.5)}
    assert names(grid(varied, name="mine")) == [
        "mine,attention=on,lambda=0", "mine,attention=on,lambda=0.5", "mine,attention=off",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"head": ("ridge",), "steps": (3,)}, "--steps: of no effect on --head ridge; leave it out"),
        (
            {"head": ("ridge", "svr"), "steps": (3,), "attention_weight": (0.0,), "recipe": ("published",)},
            "--steps, --lambda, --recipe: of no effect on --head ridge or --head svr; leave them out",
        ),
        ({"pooling": ("mean",)}, "--pooling: of no effect on --head amnet; leave it out"),
        (
            {"attention": (False,), "attention_weight": (0.0,)},
            "--lambda: of no effect on --head amnet without attention; leave it out",
        ),
    ],
)
def test_what_no_head_uses_is_refused_with_its_options(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        grid(given)
    assert str(caught.value) == message


def test_all_that_cannot_be_is_said_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        grid({"steps": (2, 99, 0), "lr": (float("nan"), 0.1), "pooling": ("mean",), "seed": (-1,)})
    assert str(caught.value).splitlines() == [
        "settings of training that cannot be:",
        "  --pooling: of no effect on --head amnet; leave it out",
        "  --steps must be 1 to 20, found 99",
        "  --steps must be 1 to 20, found 0",
        "  --lr must be a number from 0 to 10.0, found nan",
        "  --seed must be 0 to 9223372036854775807, found -1",
        "Change them or leave them out; nothing was trained.",
    ]
    assert names(grid({"head": ("ridge", "amnet"), "layers": (("a", "b"),)})) == ["ridge,layer=a+b", "paper,layer=a+b"]


@given(st.lists(SETTINGS, min_size=2, max_size=6, unique=True))
def test_names_of_different_settings_are_different_and_can_be_folders(settings: list[TrainSettings]) -> None:
    found = [one.default_name() for one in settings]
    assert len(set(found)) == len(found)
    for name in found:
        if len(name) <= 255:  # a longer one needs --name
            check_name(name)


@given(SETTINGS)
def test_a_name_says_the_settings_alone(settings: TrainSettings) -> None:
    again = TrainSettings(**json.loads(json.dumps(settings.as_json())))
    assert again.default_name() == settings.default_name()


LISTS = {
    name: st.lists(value, min_size=1, max_size=3)
    for name, value in FIELDS.items()
    if name in used_fields("amnet", attention=False)
}


@given(
    st.sets(st.sampled_from(sorted(LISTS)), max_size=4).flatmap(
        lambda some: st.fixed_dictionaries({name: LISTS[name] for name in some})
    )
)
def test_a_grid_is_the_product_without_repeats(values: dict[str, list[Any]]) -> None:
    product = {settings_of(**dict(zip(values, some, strict=True))) for some in itertools.product(*values.values())}
    for name in (None, "mine"):
        points = grid(values, name=name)
        assert {point.settings for point in points} == product
        assert len({point.name for point in points}) == len(points) == len(product)


@pytest.mark.parametrize(
    ("layers", "message"),
    [(("a", "b", "a"), "--layer a: named twice"), (("all", "b"), "--layer all names every layer")],
)
def test_layers_named_twice_are_refused(layers: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        given_values(no_attention=False, layers=layers, attention=None)


def test_options_ask_for_settings_again() -> None:
    words = options_of(settings_of("published", attention=False, steps=2, lr=1e-3, layers=("a", "b c")))
    assert words == [
        "--recipe", "published", "--attention", "off", "--steps", "2", "--lr", "0.001",
        "--layer", "a", "--layer", "b c",
    ]  # fmt: skip
    assert options_of(settings_of()) == []
    assert options_of(settings_of(head="mlp", pooling="mean", seed=4)) == [
        "--head", "mlp", "--pooling", "mean", "--seed", "4",
    ]  # fmt: skip


def test_a_single_step_is_in_no_order() -> None:
    points = grid({"steps": (1, 2), "order_penalty": (0.0, 1.0)})
    assert [point.name for point in points] == ["paper,steps=1", "paper,steps=2", "paper,steps=2,order-penalty=1"]
    with pytest.raises(InvalidSettings, match="--order-penalty: of no effect on --head amnet in one step"):
        grid({"steps": (1,), "order_penalty": (1.0,)})
