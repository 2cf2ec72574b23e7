"""Layers of timm's networks are what timm's own forward gives: normed tokens, class token, pooled, projected."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from featcache.backbones.families.timm_networks import VECTORS
from featcache.base.errors import InvalidSettings
from tests.helpers.networks import build, pixels

# an architecture of each family, how many pixels a side, and the vectors that it has
MODELS = {
    "test_vit": (64, ("cls", "pooled")),
    "test_vit3": (64, ("registers", "pooled")),  # register and attention pooling
    "vit_small_patch14_reg4_dinov2": (56, ("cls", "registers", "pooled")),  # built for 518 pixels
    "vit_base_patch16_siglip_224": (64, ("pooled", "embedding")),
    "vit_base_patch32_clip_224.openai": (64, ("cls", "pooled", "embedding")),
    "resnet50_clip.openai": (224, ("pooled", "embedding")),
    "eva02_tiny_patch14_224": (56, ("cls", "pooled")),
    "vit_base_patch16_224.mae": (48, ("cls", "pooled")),
    "swin_tiny_patch4_window7_224": (224, ("pooled",)),
    "convnext_atto": (64, ("pooled",)),
    "mobilenetv3_small_050": (64, ("pooled",)),
    "vit_small_plus_patch16_dinov3": (64, ("cls", "registers", "pooled")),
}
SLOW = {
    "vit_base_patch16_siglip_224",
    "vit_base_patch32_clip_224.openai",
    "resnet50_clip.openai",
    "vit_base_patch16_224.mae",
}


def whole(name: str, size: int, weights: Path) -> Any:
    """Return timm's own network for images of a size, and write the weights that it has at its own size."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)
    try:
        resized = timm.create_model(name, img_size=size).eval()
    except TypeError:  # a network that takes every size
        return model
    resized.load_state_dict(sys.modules[type(model).__module__].checkpoint_filter_fn(model.state_dict(), resized))
    return resized


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in MODELS])
def test_layers_are_timms_own(name: str, tmp_path: Path) -> None:
    size, vectors = MODELS[name]
    model = whole(name, size, tmp_path / "w.safetensors")
    last = model.feature_info[-1]["module"]
    backbone = build(f"timm:{name}", last, *vectors, weights=str(tmp_path / "w.safetensors"), image_size=size)
    x = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    found = backbone(torch.from_numpy(x))
    mean, std = (255 * torch.tensor(model.pretrained_cfg[key]) for key in ("mean", "std"))
    with torch.inference_mode():
        final = model.forward_features(((torch.from_numpy(x) - mean) / std).permute(0, 3, 1, 2))
        wanted = {"pooled": model.forward_head(final, pre_logits=True), "embedding": model.forward_head(final)}
        raw = model.forward_intermediates(((torch.from_numpy(x) - mean) / std).permute(0, 3, 1, 2))[1][-1]
    if final.ndim == 3:
        before = model.num_prefix_tokens
        own_class = int(model.cls_token is not None)
        wanted |= {"cls": final[:, 0], "registers": final[:, own_class:before], last: final[:, before:]}
    else:
        normed = final.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "") == "NHWC" else final
        wanted[last] = (normed if backbone.final_norm else raw).flatten(2).transpose(1, 2)
    for layer in (last, *vectors):
        expected = wanted[layer]
        expected = expected[:, None] if expected.ndim == 2 else expected
        assert found[layer].shape == expected.shape
        torch.testing.assert_close(found[layer], expected.float(), rtol=2e-3, atol=2e-4)
        assert expected.std() > 1e-3
    for vector in [vector for vector in VECTORS if vector not in vectors]:
        with pytest.raises(InvalidSettings, match=f"--layer {vector}: timm:{name} has no such layer"):
            build(f"timm:{name}", vector, image_size=size)


def test_the_last_norm_is_a_choice_and_the_default_where_there_is_one() -> None:
    normed, raw = build("timm:test_vit", "blocks.5"), build("timm:test_vit", "blocks.5", final_norm=False)
    x = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert (normed.final_norm, raw.final_norm) == (True, False)
    a, b = normed(x)["blocks.5"], raw(x)["blocks.5"]
    torch.testing.assert_close(torch.nn.functional.layer_norm(b, b.shape[-1:], eps=1e-6), a, rtol=1e-4, atol=1e-5)
    assert not build("timm:test_vit", "blocks.4").final_norm
    with pytest.raises(InvalidSettings, match=r"--final-norm: --layer blocks\.5 is not asked for"):
        build("timm:test_vit", "blocks.4", final_norm=True)
    with pytest.raises(InvalidSettings, match=r"--final-norm: timm:test_resnet has none behind its last map"):
        build("timm:test_resnet", "layer4", final_norm=True)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("test_vit", "blocks.3.attn"),
        ("test_vit", "fc_norm"),
        ("test_resnet", "global_pool"),
        ("swin_tiny_patch4_window7_224", "layers.1.blocks.0.mlp"),
    ],
)
def test_any_module_is_a_layer(name: str, module: str) -> None:
    size = 224 if "swin" in name else 64
    backbone = build(f"timm:{name}", module, image_size=size)
    kept: dict[str, Tensor] = {}
    backbone.module.get_submodule(module).register_forward_hook(lambda _, inputs, output: kept.update(found=output))
    found = backbone(pixels(3, size))[module]
    expected = kept["found"]
    if expected.ndim == 4:
        expected = expected.flatten(1, 2)  # Swin's channels are last
    elif expected.ndim == 2:
        expected = expected[:, None]
    torch.testing.assert_close(found, expected[:, -found.shape[1] :])  # without what is before positions


def test_a_folder_with_a_config_is_a_backbone(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=0)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "test_vit",
        "num_classes": 0,
        "pretrained_cfg": {**model.pretrained_cfg, "num_classes": 0},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = build(f"local-dir:{tmp_path}", "cls", weights="imagenet", image_size=160)
    x = torch.randint(0, 256, (1, 160, 160, 3), dtype=torch.uint8)
    mean, std = (255 * torch.tensor(model.pretrained_cfg[key]) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = model.eval().forward_features(((x - mean) / std).permute(0, 3, 1, 2))[:, 0]
    torch.testing.assert_close(found(x)["cls"][:, 0], expected, rtol=1e-4, atol=1e-5)
