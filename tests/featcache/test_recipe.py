"""The fingerprint stands for everything that changes a feature, and a mismatch names the field."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from featcache.backbones import execution
from featcache.backbones.backbone import build_backbone
from featcache.backbones.of_recipe import backbone_of, nearest_backbone, recipe_of
from featcache.base.errors import CorruptFile, Mismatch
from featcache.extraction import extract
from featcache.recipe import check_same, recipe_from_json
from featcache.settings import ExtractSettings, ViewSettings
from tests.helpers.synthetic import RECIPE


def test_the_fingerprint_is_pinned() -> None:
    assert RECIPE.fingerprint == "b01d1e8d51a3af3ae32120d4e5231d0729849d1d543bd0618c3a5576cedbb2d7"


def test_a_recipe_survives_json() -> None:
    assert recipe_from_json(json.loads(json.dumps(RECIPE.as_json())), "here") == RECIPE


def test_what_was_added_later_is_left_out_where_it_has_no_effect() -> None:
    assert not {"calibration", "pre_squash"} & set(RECIPE.as_json())
    squashed = dataclasses.replace(RECIPE, pre_squash=264)
    assert squashed.as_json() == {**RECIPE.as_json(), "pre_squash": 264}
    assert recipe_from_json(json.loads(json.dumps(squashed.as_json())), "here") == squashed
    assert squashed.view_settings == dataclasses.replace(RECIPE.view_settings, pre_squash=264)
    with pytest.raises(Mismatch, match="pre_squash: 264 there, 0 asked for"):
        check_same(squashed, RECIPE, where="there", way_out="Ask for the same.")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(RECIPE)])
def test_every_field_changes_the_fingerprint_and_is_named(field: str) -> None:
    value = getattr(RECIPE, field)
    if field == "encoding":
        other_value: object = "uint8"
    elif field == "layers":
        other_value = value[:1]
    elif field == "network_layers":
        other_value = tuple((*layer[:3], 13) for layer in RECIPE.layers)
    elif isinstance(value, tuple):
        other_value = (value[0] / 2, *value[1:])
    elif isinstance(value, bool):
        other_value = not value
    else:
        other_value = value + ("x" if isinstance(value, str) else 1)
    changes: dict[str, object] = {field: other_value}
    if field in ("projection", "network_layers"):  # neither is without the other
        changes = {"projection": "x", "network_layers": tuple((*layer[:3], 13) for layer in RECIPE.layers)}
    other = dataclasses.replace(RECIPE, **changes)
    assert other.fingerprint != RECIPE.fingerprint
    with pytest.raises(Mismatch, match=rf"{field}: .* there, .* asked for"):
        check_same(RECIPE, other, where="there", way_out="Ask for the same.")


def test_a_projected_recipe_survives_json_and_knows_the_recipe_from_before() -> None:
    before = tuple((*layer[:3], 13) for layer in RECIPE.layers)
    projected = dataclasses.replace(RECIPE, projection="ab" * 32, network_layers=before)
    assert recipe_from_json(json.loads(json.dumps(projected.as_json())), "here") == projected
    assert projected.of_network == dataclasses.replace(RECIPE, layers=before)
    assert RECIPE.of_network is RECIPE
    assert not {"projection", "network_layers"} & set(RECIPE.as_json())


@pytest.mark.parametrize("changes", [{"network_layers": ()}, {"projection": ""}, {"layers": (("first", 1, 3, 13),)}])
def test_a_projected_recipe_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    before = tuple((*layer[:3], 13) for layer in RECIPE.layers)
    projected = dataclasses.replace(RECIPE, projection="ab" * 32, network_layers=before)
    with pytest.raises(ValueError, match="impossible values"):
        dataclasses.replace(projected, **changes)


def test_bytes_of_a_view_count_every_layer() -> None:
    assert RECIPE.bytes_per_view() == 2 * (3 * 5 + 7 * 11)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("encoding", []),
        ("encoding", "uint4"),
        ("backbone", "\ud800"),
        ("mean", [0.5, 0.5]),
        ("mean", "abc"),
        ("std", [1e999, 1, 1]),
        ("layers", []),
        ("layers", [["a", 1, 1]]),
        ("layers", [["a", 1, 1, -5]]),
        ("layers", [["a", 1, 1, 5], ["a", 1, 1, 5]]),
        ("layers", 7),
        ("image_size", True),
        ("seed", "0"),
        ("calibration", "0" * 64),
        ("pre_squash", -1),
        ("final_norm", 1),
        ("pre_squash", True),
        ("pre_squash", "264"),
    ],
)
def test_impossible_values_are_refused(field: str, value: object) -> None:
    with pytest.raises((CorruptFile, Mismatch), match="here: "):
        recipe_from_json({**RECIPE.as_json(), field: value}, "here")


def test_an_unknown_field_is_not_ignored() -> None:
    with pytest.raises(Mismatch, match="fields this version does not know"):
        recipe_from_json({**RECIPE.as_json(), "mystery": 1}, "here")


def test_features_of_an_arithmetic_that_is_not_here_are_gone_on_with_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dataclasses.replace(RECIPE, precision="fp16")
    with pytest.raises(Mismatch, match="^cache/mine: made in fp16, on a GPU; do this there$"):
        backbone_of(made, weights="random", batch_size=1, device="cpu", where="cache/mine", way_out="")
    monkeypatch.setattr(extract, "read_manifest", lambda folder: SimpleNamespace(recipe=made))
    settings = ExtractSettings(calibrate_like="cache/mine", encoding="uint8", device="cpu")
    with pytest.raises(Mismatch, match="^cache/mine: made in fp16, on a GPU; do this there, or leave out --cal"):
        extract.follow(settings, tmp_path)


@pytest.mark.parametrize("precision", ["fp16-compile", "bf16-openvino"])
def test_features_are_looked_at_in_float32_where_their_arithmetic_is_not_here(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "_openvino_takes", lambda precision: False)
    built = build_backbone("timm:test_resnet", layers=("layer3",), weights="random", image_size=64, device="cpu")
    made = dataclasses.replace(recipe_of(built, ViewSettings(image_size=64)), precision=precision)
    again = nearest_backbone(made, weights="random", batch_size=1, device="cpu", where="a run", way_out="")
    assert (again.execution.precision, again.execution.runtime) == ("fp32", "torch")
