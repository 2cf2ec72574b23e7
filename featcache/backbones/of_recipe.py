"""The recipe of a backbone, and the backbone of a recipe. Knows nothing of how a cache stores either."""

from dataclasses import replace

from featcache.backbones.backbone import Backbone, build_backbone
from featcache.backbones.execution import available_runtime, check_computable, openvino_computes, split_arithmetic
from featcache.base.devices import resolve_device
from featcache.recipe import Recipe, check_same
from featcache.settings import ViewRecipe


def recipe_of(backbone: Backbone, views: ViewRecipe, encoding: str = "float16", calibration: str = "") -> Recipe:
    """Return the recipe of features that backbone makes of the views of images, stored in an encoding."""
    return Recipe(
        backbone=backbone.name,
        weights=backbone.weights_sha256,
        layers=tuple((name, shape.height, shape.width, shape.channels) for name, shape in backbone.shapes.items()),
        precision=backbone.execution.arithmetic,
        mean=backbone.mean,
        std=backbone.std,
        image_size=views.image_size,
        eval_view=views.eval_view,
        crop_scale=views.crop_scale,
        crop_ratio=views.crop_ratio,
        seed=views.seed,
        encoding=encoding,
        calibration=calibration,
        pre_squash=views.pre_squash,
    )


def backbone_of(
    recipe: Recipe,
    *,
    weights: str,
    batch_size: int,
    device: str = "auto",
    runtime: str = "auto",
    nearest: bool = False,
    where: str,
    way_out: str,
) -> Backbone:
    """Return the backbone that made the features of recipe; raise `Mismatch` if weights are not its weights.

    runtime is what may run it where that does not matter, in float32. nearest allows float32 where there is no GPU
    for fp16, or no OpenVINO that has bf16 for what it made so; and PyTorch instead of torch.compile: for looking at
    features, not for storing them beside others.
    """
    precision, needed = split_arithmetic(recipe.precision)
    target = resolve_device(device)
    if not nearest:
        check_computable(recipe.precision, target, where=where, way_out="do this there")
    elif target.type == "cpu" and (
        precision == "fp16" or (needed == "openvino" and not openvino_computes(precision))
    ):  # on a CPU that has none, bf16 is no nearer, and 7 times slower (ResNet50)
        precision, needed = "fp32", "auto"
    elif needed != "auto":
        needed = "torch" if needed == "compile" else available_runtime(needed, device, precision)
    backbone = build_backbone(
        recipe.backbone,
        layers=recipe.layer_names,
        weights=weights,
        image_size=recipe.image_size,
        seed=recipe.seed,
        device=device,
        precision=precision,
        runtime=runtime if needed == "auto" else needed,
        batch_size=batch_size,
    )
    made = recipe_of(backbone, recipe.view_recipe, recipe.encoding, recipe.calibration)
    made = replace(made, precision=recipe.precision) if nearest else made
    check_same(made, recipe, where=where, way_out=way_out)
    return backbone
