"""Networks of timm at image sizes that are not their own: built for them, but not where they take them already."""

from pathlib import Path

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from featcache.backbones.backbone import Backbone, build_backbone
from featcache.backbones.families.weights import digest_of_weights, seeded
from featcache.base.errors import InvalidSettings
from tests.helpers.networks import pixels, saved


def built(name: str, size: int, weights: str = "random") -> Backbone:
    """Return a backbone of timm for one view of a size at a time, in float32 by PyTorch."""
    return build_backbone(
        f"timm:{name}", weights=weights, image_size=size, batch_size=1, device="cpu", precision="fp32", runtime="torch"
    )


@pytest.mark.parametrize(
    ("name", "size", "side"),
    [
        ("vit_tiny_patch16_224", 448, 28),
        ("vit_tiny_patch16_224", 64, 4),
        ("vit_small_patch14_dinov2.lvd142m", 224, 16),
        ("swin_tiny_patch4_window7_224", 256, 16),
        ("swinv2_tiny_window8_256", 224, 14),
        ("test_vit_relpos", 224, 14),
        ("deit_tiny_distilled_patch16_224", 256, 16),
        ("eva02_tiny_patch14_224", 336, 24),
    ],
)
def test_a_network_of_one_size_is_built_for_another(name: str, size: int, side: int) -> None:
    backbone = built(name, size)
    (shape,) = backbone.shapes.values()
    assert (shape.height, shape.width) == (side, side)
    (features,) = backbone(pixels(1, size)).values()
    assert features.isfinite().all()
    assert features.std() > 0


@pytest.mark.parametrize(("name", "size"), [("test_vit", 96), ("test_vit", 160), ("test_resnet", 64)])
def test_what_takes_a_size_as_it_is_stays_as_it_was(name: str, size: int) -> None:
    plain = seeded(0, lambda: timm.create_model(name)).eval()
    backbone = built(name, size)
    plain.prune_intermediate_layers(
        [[info["module"] for info in plain.feature_info].index(backbone.layers[0])],
        prune_norm=not backbone.final_norm,
        prune_head=True,
    )
    assert backbone.weights_sha256 == digest_of_weights(plain)


def test_position_embeddings_of_a_file_are_resampled_as_by_timm(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("vit_tiny_patch16_224").eval()
    torch.nn.init.normal_(model.pos_embed)
    backbone = built("vit_tiny_patch16_224", 96, saved(model, tmp_path / "w.safetensors"))
    state = backbone.module.state_dict()
    wanted = resample_abs_pos_embed(model.pos_embed.detach(), new_size=[6, 6], num_prefix_tokens=1)
    assert state["pos_embed"].equal(wanted)
    assert all(state[name].equal(tensor) for name, tensor in model.state_dict().items() if name.startswith("blocks.3"))


def test_a_window_transformer_keeps_the_weights_of_a_file(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("swin_tiny_patch4_window7_224").eval()
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            torch.nn.init.normal_(parameter)
    backbone = built("swin_tiny_patch4_window7_224", 256, saved(model, tmp_path / "w.safetensors"))
    own = model.state_dict()
    state = backbone.module.state_dict()
    assert "layers.1.downsample.reduction.weight" in state
    assert all(tensor.equal(own[name]) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("name", "size", "way_out"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 256, "patch of 14 pixels, such as --image-size 252 or 266, and its own "
                                                  "size, --image-size 518"),
        ("vit_tiny_patch16_224", 225, "such as --image-size 224 or 240, and its own size, --image-size 224"),
        ("vit_base_patch32_224", 16, "patch of 32 pixels, such as --image-size 32, and"),
        ("halonet26t", 224, "Give it its own size, --image-size 256"),
    ],
)  # fmt: skip
def test_a_size_that_cannot_be_had_names_those_that_can(name: str, size: int, way_out: str) -> None:
    with pytest.raises(InvalidSettings, match=f"^timm:{name} does not take {size}x{size} pixels: ") as caught:
        built(name, size)
    assert way_out in str(caught.value)


def test_trained_weights_that_timm_does_not_resample_are_named(tmp_path: Path) -> None:
    file = saved(timm.create_model("convit_tiny"), tmp_path / "w.safetensors")
    with pytest.raises(InvalidSettings, match=r"does not resample its trained weights \(pos_embed.*--image-size 224"):
        built("convit_tiny", 256, file)
    assert built("convit_tiny", 256).shapes["blocks.11"].positions == 256
