"""Backbones give the features that a plain forward pass gives, and are frozen whatever is done around them."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from featcache.backbones.backbone import Backbone, build_backbone, resolve_device, resolve_precision
from featcache.backbones.families.timm_networks import NAMES
from featcache.backbones.runner import Runner
from featcache.base.errors import BadInput, InvalidSettings, Mismatch, ResourceError
from featcache.recipe import LayerShape
from tests.helpers.networks import build, pixels, saved, with_lively_norms


@cache
def resnet18() -> Backbone:
    return build("resnet18")


@cache
def lite0() -> Backbone:
    return build("efficientnet_lite0", weights="imagenet")


def hooked(model: nn.Module, layers: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """Return what each layer of a model gave, copied at once: the plain oracle."""
    found: dict[str, Tensor] = {}

    def keep(layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: found.__setitem__(layer, output.clone())

    handles = [model.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


def normalised(views: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return views as a network of this normalisation wants them, (B, 3, S, S)."""
    return ((views / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)


def positions_first(fmap: Tensor) -> Tensor:
    """Return a map (B, D, height, width) as features (B, L, D), row by row."""
    return fmap.permute(0, 2, 3, 1).flatten(1, 2)


# --- what each name gives

DOCUMENTED = {  # size -> last map of stride 16
    "resnet50": (224, "layer3", LayerShape(14, 14, 1024)),
    "resnet18": (96, "layer3", LayerShape(6, 6, 256)),
    "resnet101": (64, "layer3", LayerShape(4, 4, 1024)),
    "vgg16": (64, "features.29", LayerShape(4, 4, 512)),
    "alexnet": (224, "features.11", LayerShape(13, 13, 256)),
    "googlenet": (64, "inception4e", LayerShape(4, 4, 832)),
    "caffenet": (224, "conv5", LayerShape(13, 13, 256)),
    "efficientnet_lite0": (64, "blocks.4", LayerShape(4, 4, 112)),
    "timm:test_resnet": (96, "layer3", LayerShape(6, 6, 192)),
    "timm:test_vit": (96, "blocks.5", LayerShape(6, 6, 64)),
}


@pytest.fixture(scope="module", params=DOCUMENTED)
def documented(request: pytest.FixtureRequest) -> Backbone:
    """Each backbone with random weights, at its documented size, one view at a time."""
    name: str = request.param
    return build_backbone(name, weights="random", image_size=DOCUMENTED[name][0], batch_size=1)


def test_every_name_is_documented_here() -> None:
    assert {name for name in NAMES if ":" not in name} <= set(DOCUMENTED)


def test_the_default_layer_is_the_last_map_of_stride_16(documented: Backbone) -> None:
    size, layer, shape = DOCUMENTED[documented.name]
    assert documented.shapes == {layer: shape}
    features = documented(pixels(1, size))[layer]
    assert features.shape == (1, shape.positions, shape.channels)
    assert features.dtype == torch.float32


def test_untrained_features_are_neither_zero_nor_infinite_in_float16(documented: Backbone) -> None:
    (features,) = documented(pixels(1, documented.image_size)).values()
    assert features.half().isfinite().all()
    assert features.half().float().std() > 1e-3


def test_every_part_is_frozen(documented: Backbone) -> None:
    assert not any(module.training for module in documented.module.modules())
    assert not any(parameter.requires_grad for parameter in documented.module.parameters())


def test_lite0_has_its_package_weights_by_default() -> None:
    backbone = build_backbone("efficientnet_lite0", batch_size=1)
    assert backbone.shapes == {"blocks.4": LayerShape(14, 14, 112)}
    assert (backbone.mean, backbone.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert backbone.weights_sha256 == "451055dc0b1b996219feff51a370c38b0fbddf045df5a73fc5aee89154ebab89"
    assert backbone.weights_sha256 == lite0().weights_sha256


# --- the features are those of a plain forward pass

OPTIONS = {"googlenet": {"aux_logits": True, "init_weights": False, "transform_input": True}}


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ("bn1", "layer1", "layer2.0.bn2", "layer3")),
        ("alexnet", ("features.0", "features.5", "features.11")),
        ("googlenet", ("inception3a", "inception3b")),
        ("googlenet", ("conv1.bn", "inception3a.branch1.bn", "inception3b")),  # a ReLU in place follows
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_torchvision_features_are_those_of_a_forward_hook(tmp_path: Path, name: str, layers: tuple[str, ...]) -> None:
    torch.manual_seed(5)
    model = with_lively_norms(get_model(name, weights=None, **OPTIONS.get(name, {})))
    backbone = build(name, *layers, weights=saved(model, tmp_path / "w.safetensors"))
    views = pixels(3)
    wanted = hooked(model, layers, normalised(views, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    features = backbone(views)
    assert list(features) == list(layers)
    for layer in layers:
        torch.testing.assert_close(features[layer], positions_first(wanted[layer]), rtol=1e-4, atol=3e-5)


def test_timm_features_are_those_of_a_forward_hook(tmp_path: Path) -> None:
    layers = ("layer1", "layer3")
    model = with_lively_norms(timm.create_model("test_resnet"))
    backbone = build("timm:test_resnet", *layers, weights=saved(model, tmp_path / "w.safetensors"))
    wanted = hooked(model, layers, normalised(pixels(3), backbone.mean, backbone.std))
    for layer, features in backbone(pixels(3)).items():
        torch.testing.assert_close(features, positions_first(wanted[layer]), rtol=1e-4, atol=1e-5)


def test_the_features_of_a_vision_transformer_are_its_patch_tokens(tmp_path: Path) -> None:
    layers = ("blocks.1", "blocks.4")
    model = timm.create_model("test_vit").eval()
    backbone = build("timm:test_vit", *layers)
    model.load_state_dict(backbone.module.state_dict(), strict=False)  # the later blocks are pruned from it
    wanted = hooked(model, layers, normalised(pixels(3), backbone.mean, backbone.std))
    for layer, features in backbone(pixels(3)).items():
        patches = wanted[layer][:, model.num_prefix_tokens :]
        torch.testing.assert_close(features, patches, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ("layer2", "layer3.0.bn2", "layer3")),
        ("resnet18", ("layer3", "layer1")),
        ("efficientnet_lite0", ("blocks.4", "blocks.2", "blocks.6")),
        ("timm:test_resnet", ("layer3", "act1", "layer4")),
        ("timm:test_vit", ("blocks.5", "blocks.0")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_several_layers_of_one_pass_are_those_of_single_passes(name: str, layers: tuple[str, ...]) -> None:
    together = build(name, *layers)
    features = together(pixels(3))
    assert list(features) == list(together.shapes) == list(together.layers) == list(layers)
    for layer in layers:
        alone = build(name, layer)
        assert alone.shapes[layer] == together.shapes[layer]
        assert torch.equal(features[layer], alone(pixels(3))[layer])


def test_an_untrained_layer_does_not_depend_on_the_layers_asked_for_with_it() -> None:
    layers = ("layer1.0.bn2", "layer1")
    assert torch.equal(
        build("resnet50", *layers)(pixels(2))["layer1.0.bn2"], build("resnet50", layers[0])(pixels(2))[layers[0]]
    )


# --- frozen, and the same whatever is around


def test_a_thousand_calls_move_no_buffer_and_make_no_gradient() -> None:
    backbone = build("resnet18", "bn1", image_size=16, batch_size=2)
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    assert any(name.endswith("num_batches_tracked") for name in before)
    torch.set_grad_enabled(True)
    for _ in range(1000):
        features = backbone(pixels(2, 16))["bn1"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.module.state_dict().items())
    assert not features.requires_grad
    assert all(parameter.grad is None for parameter in backbone.module.parameters())


@pytest.mark.parametrize("backbone", [resnet18, lite0], ids=["resnet18", "lite0"])
def test_features_do_not_depend_on_the_views_they_are_among(backbone: Callable[[], Backbone]) -> None:
    views = pixels(11)
    (features,) = backbone()(views).values()
    assert len(features) == 11
    order = torch.tensor([4, 10, 2, 0, 7, 1, 9, 3, 8, 6, 5])
    (shuffled,) = backbone()(views[order]).values()
    assert torch.equal(shuffled, features[order])
    for size in (1, 2, 5):
        parts = [next(iter(backbone()(part).values())) for part in views.split(size)]
        assert torch.equal(torch.cat(parts), features)


def test_features_of_other_batch_sizes_are_equal_up_to_rounding() -> None:
    (features,) = lite0()(pixels(7)).values()
    for batch_size in (1, 7, 16):
        (others,) = build("efficientnet_lite0", weights="imagenet", batch_size=batch_size)(pixels(7)).values()
        torch.testing.assert_close(others, features, rtol=1e-4, atol=1e-4)


def test_no_views_have_no_features() -> None:
    assert resnet18()(pixels(3)[:0])["layer3"].shape == (0, 16, 256)


def test_views_in_any_memory_layout_have_the_same_features() -> None:
    views = pixels(3)
    strided = views.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    assert torch.equal(resnet18()(strided)["layer3"], resnet18()(views)["layer3"])


def test_a_call_leaves_its_views_as_they_were() -> None:
    views = pixels(3)
    resnet18()(views)
    assert torch.equal(views, pixels(3))


def test_a_full_device_names_the_batch_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Runner, pixels: Tensor) -> Sequence[Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Runner, "__call__", full)
    with pytest.raises(ResourceError, match="cpu is out of memory at a batch of 3; use a smaller --batch-size"):
        resnet18()(pixels(3))


# --- weights


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    digests = [build("resnet18", "layer1", seed=seed).weights_sha256 for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert digests[0] == digests[1] != digests[2]
    (first, second) = (build("timm:test_resnet", seed=seed).weights_sha256 for seed in (4, 4))
    assert first == second


def test_loading_weights_leaves_the_global_generator() -> None:
    before = torch.get_rng_state()
    build("efficientnet_lite0", weights="imagenet")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_digest_is_of_what_the_layers_use(tmp_path: Path) -> None:
    model = with_lively_norms(get_model("resnet18", weights=None))

    def digest() -> str:
        return build("resnet18", "layer1", weights=saved(model, tmp_path / "w.safetensors")).weights_sha256

    first = digest()
    state = model.state_dict()
    state["layer2.0.bn1.running_mean"].add_(1)
    state["layer1.0.bn1.num_batches_tracked"].add_(1)
    assert digest() == first
    state["layer1.0.bn1.running_mean"][7] += 1e-3
    assert digest() != first


@pytest.mark.parametrize(
    ("name", "model", "unused"),
    [
        ("resnet18", lambda: get_model("resnet18", weights=None), ("layer4", "fc")),
        ("timm:test_resnet", lambda: timm.create_model("test_resnet"), ("layer4", "fc")),
        ("timm:test_vit", lambda: timm.create_model("test_vit"), ("fc_norm", "head")),
    ],
    ids=["torchvision", "timm", "timm ViT"],
)
def test_a_file_needs_no_weights_beyond_the_last_layer(
    tmp_path: Path, name: str, model: Callable[[], nn.Module], unused: tuple[str, ...]
) -> None:
    state = model().state_dict()
    used = {key: tensor for key, tensor in state.items() if not key.startswith(tuple(f"{part}." for part in unused))}
    assert len(used) < len(state)
    safetensors.torch.save_file(state, tmp_path / "all.safetensors")
    safetensors.torch.save_file(used, tmp_path / "used.safetensors")
    files = [str(tmp_path / f"{kind}.safetensors") for kind in ("all", "used")]
    first, second = (build(name, weights=file, image_size=96).weights_sha256 for file in files)
    assert first == second


def test_lite0_takes_a_file_of_timms_names_too(tmp_path: Path) -> None:
    model = timm.create_model("tf_efficientnet_lite0")
    file = saved(model, tmp_path / "w.safetensors")
    assert build("efficientnet_lite0", weights=file).weights_sha256 != lite0().weights_sha256


def test_weights_of_another_backbone_are_a_mismatch(tmp_path: Path) -> None:
    file = saved(get_model("resnet18", weights=None), tmp_path / "w.safetensors")
    with pytest.raises(
        Mismatch, match=r"w\.safetensors: not the weights of this backbone:\n  features\.0\.weight: missing"
    ):
        build("alexnet", weights=file)


def test_a_weights_file_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="gone.pth: no such weights file"):
        build("resnet18", weights=str(tmp_path / "gone.pth"))


def test_timms_weights_that_cannot_be_downloaded_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match=r"timm's weights of test_resnet cannot be downloaded.*pass --weights FILE"):
        build("timm:test_resnet", weights="imagenet")


# --- what cannot be asked for


@pytest.mark.parametrize("name", ["nope", "resnet50d", "timm:nope", "timm:", "NAME", "Resnet50"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(
        InvalidSettings, match=f"--backbone {name}: not one of resnet50, .*efficientnet_lite0, timm:NAME"
    ):
        build(name)


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        (
            "resnet18",
            ("layer9",),
            "--layer layer9: resnet18 has no such layer; it has pooled, conv1, .*layer3, layer3.0",
        ),
        ("resnet18", ("layer3", "layer", ""), "--layer layer, : resnet18 has no such layer"),
        ("alexnet", ("features.99",), "--layer features.99: alexnet has no such layer"),
        ("resnet18", ("layer3", "layer3"), "--layer names a layer twice: layer3, layer3"),
        ("timm:test_vit", ("blocks.0.attn.qkv.",), "--layer blocks.0.attn.qkv.: timm:test_vit has no such layer"),
        ("timm:test_resnet", ("cls", "embedding"), "--layer cls, embedding: timm:test_resnet has no such layer"),
        ("timm:test_resnet", ("layer9",), "--layer layer9: timm:test_resnet has no such layer; it has pooled, act1"),
        ("efficientnet_lite0", ("layer3",), "--layer layer3: efficientnet_lite0 has no such layer; it has pooled, bl"),
    ],
)
def test_a_layer_that_is_not_there_lists_those_that_are(name: str, layers: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        build(name, *layers)


@pytest.mark.parametrize(("name", "size"), [("timm:vit_tiny_patch16_224", 72), ("alexnet", 16)])
def test_a_size_the_network_cannot_take_is_named(name: str, size: int) -> None:
    with pytest.raises(InvalidSettings, match=f"{name} does not take {size}x{size} pixels: ."):
        build(name, *(("features.12",) if name == "alexnet" else ()), image_size=size)


@pytest.mark.parametrize("device", ["gpu", "cuda:-1", "", "CPU", "cuda:x"])
def test_an_unknown_device_lists_the_known_ones(device: str) -> None:
    with pytest.raises(InvalidSettings, match=f"--device must be auto, cpu, cuda, cuda:N or mps, found '{device}'"):
        resolve_device(device)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7", "mps", "cpu:1", "meta", "xla"])
def test_a_device_that_is_not_here_says_the_way_out(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ResourceError, match=f"--device {device}: no such device here; use --device auto"):
        resolve_device(device)


def test_a_device_is_resolved_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="--device cuda"):
        build("no matter what", device="cuda")


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, kind in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto").type == kind
    assert resolve_device("cpu").type == "cpu"


def test_the_second_gpu_of_one_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(ResourceError, match="--device cuda:1: no such device here"):
        resolve_device("cuda:1")


def test_precision_auto_is_what_the_hardware_has(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda, mps = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
    assert [resolve_precision(p, cuda) for p in ("auto", "fp32", "fp16")] == ["fp16", "fp32", "fp16"]
    assert resolve_precision("auto", mps) == "fp32"
    for capability, wanted in (("amx_bf16", "bf16"), ("avx512_bf16", "bf16"), ("avx512_f", "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capability: {found: True})
        assert [resolve_precision(p, cpu) for p in ("auto", "fp32", "bf16")] == [wanted, "fp32", "bf16"]
    with pytest.raises(InvalidSettings, match="--precision must be one of auto, fp32, bf16, fp16, found 'half'"):
        resolve_precision("half", cpu)
    with pytest.raises(InvalidSettings, match="--precision fp16 needs a GPU; use bf16 or fp32 on a CPU"):
        build("resnet18", precision="fp16")


def test_bf16_is_near_fp32_and_not_the_same() -> None:
    reduced = build("efficientnet_lite0", weights="imagenet", precision="bf16")
    (near,), (exact,) = reduced(pixels(3)).values(), lite0()(pixels(3)).values()
    assert near.dtype == torch.float32
    assert 1e-4 < (near - exact).norm() / exact.norm() < 0.06
    assert torch.corrcoef(torch.stack([near.flatten(), exact.flatten()]))[0, 1] > 0.998


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("alexnet", {"fc6": ("classifier.2", 4096), "fc7": ("classifier.5", 4096), "pooled": ("classifier.5", 4096)}),
        ("resnet18", {"pooled": ("avgpool", 512), "fc": ("fc", 1000)}),
        ("googlenet", {"pooled": ("avgpool", 1024)}),
    ],
)
def test_vectors_of_torchvisions_networks_are_what_their_modules_give(
    name: str, layers: dict[str, tuple[str, int]]
) -> None:
    backbone = build(name, *layers)
    assert backbone.shapes == {layer: LayerShape(1, 1, channels) for layer, (_, channels) in layers.items()}
    modules = list(dict.fromkeys(module for module, _ in layers.values()))
    named = build(name, *modules)
    x = pixels(3)
    found, expected = backbone(x), named(x)
    for layer, (module, _) in layers.items():
        torch.testing.assert_close(found[layer], expected[module])
