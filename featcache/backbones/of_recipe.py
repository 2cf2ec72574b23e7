"""The recipe of a backbone, and the backbone of a recipe. Knows nothing of how a cache stores either."""

from dataclasses import asdict, replace

from featcache.backbones.backbone import Backbone, build_backbone
from featcache.backbones.execution import available_runtime, check_computable, openvino_computes, split_arithmetic
from featcache.backbones.families.descriptor_networks import parts_of_name
from featcache.base.devices import resolve_device
from featcache.recipe import Recipe, check_same, version_of_layers
from featcache.settings import VIEWS_LAYER, ViewSettings


def recipe_of(backbone: Backbone, views: ViewSettings, encoding: str = "float16", calibration: str = "") -> Recipe:
    """Return the recipe of features that backbone makes of the views of images, stored in an encoding."""
    return Recipe(
        backbone=backbone.name,
        weights=backbone.weights_sha256,
        layers=tuple((name, shape.height, shape.width, shape.channels) for name, shape in backbone.shapes.items()),
        precision=backbone.execution.arithmetic,
        mean=backbone.mean,
        std=backbone.std,
        encoding=encoding,
        calibration=calibration,
        final_norm=backbone.final_norm,
        format_version=version_of_layers(backbone.layers),
        **asdict(views),
    )


def backbone_of(
    recipe: Recipe,
    *,
    weights: str,
    batch_size: int,
    device: str = "auto",
    runtime: str = "auto",
    where: str,
    way_out: str,
) -> Backbone:
    """Return the backbone that makes the very features of recipe, to store them beside others.

    Of projected features it makes those from before. runtime is what may run it where that does not matter, in
    float32. Raises `Mismatch` if weights are not its
    weights, or if device cannot compute what is at where.
    """
    recipe = recipe.of_network
    check_computable(recipe.precision, resolve_device(device), where=where, way_out="do this there")
    precision, needed = split_arithmetic(recipe.precision)
    runtime = runtime if needed == "auto" else needed
    backbone = _built(recipe, precision, runtime, weights=weights, batch_size=batch_size, device=device)
    made = recipe_of(backbone, recipe.view_settings, recipe.encoding, recipe.calibration)
    check_same(made, recipe, where=where, way_out=way_out)
    return backbone


def nearest_backbone(
    recipe: Recipe, *, weights: str, batch_size: int, device: str = "auto", where: str, way_out: str
) -> Backbone:
    """Return the backbone that makes the features of recipe as nearly as device can, to look at images with.

    It is float32 where there is no GPU for fp16, or no OpenVINO that has bf16 for what it made so; and PyTorch instead
    of torch.compile. Of projected features it makes those from before. Raises `Mismatch` if weights are not its
    weights.
    """
    recipe = recipe.of_network
    precision, runtime = split_arithmetic(recipe.precision)
    if resolve_device(device).type == "cpu" and (
        precision == "fp16" or (runtime == "openvino" and not openvino_computes(precision))
    ):  # on a CPU that has none, bf16 is no nearer, and 7 times slower (ResNet50)
        precision, runtime = "fp32", "auto"
    elif runtime != "auto":
        runtime = "torch" if runtime == "compile" else available_runtime(runtime, device, precision)
    backbone = _built(recipe, precision, runtime, weights=weights, batch_size=batch_size, device=device)
    made = recipe_of(backbone, recipe.view_settings, recipe.encoding, recipe.calibration)
    check_same(replace(made, precision=recipe.precision), recipe, where=where, way_out=way_out)
    return backbone


def backbone_of_views(recipe: Recipe, *, batch_size: int, device: str = "auto") -> Backbone:
    """Return what gives the pixels of views alone, as the recipe has them; it needs no weights."""
    only = replace(
        recipe,
        backbone=parts_of_name(recipe.backbone).network or recipe.backbone,
        layers=tuple(layer for layer in recipe.layers if layer[0] == VIEWS_LAYER),
    )
    return _built(only, "fp32", "torch", weights="random", batch_size=batch_size, device=device)


def _built(recipe: Recipe, precision: str, runtime: str, *, weights: str, batch_size: int, device: str) -> Backbone:
    return build_backbone(
        recipe.backbone,
        layers=recipe.layer_names,
        weights=weights,
        image_size=recipe.image_size,
        seed=recipe.seed,
        device=device,
        precision=precision,
        runtime=runtime,
        batch_size=batch_size,
        final_norm=recipe.final_norm,
    )
