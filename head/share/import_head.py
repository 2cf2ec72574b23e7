"""A checkpoint of the authors' published models becomes a run with a backbone of its own. Nothing in it is executed."""

import functools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from featcache.backbones.backbone import build_backbone
from featcache.backbones.families.weights import State, load_into, problems_of, read_weights_file
from featcache.backbones.of_recipe import recipe_of
from featcache.base.errors import InvalidSettings, Mismatch, printable, refuse
from featcache.base.files import digest_of_file, make_folder, remove_temporaries, write_durably
from featcache.base.lock import writer_lock
from featcache.settings import view_settings_of
from head.data.inputs import HeadInput
from head.models.published import TARGET_MEAN, TARGET_SCALE, PublishedHead, PublishedShape
from head.runs.head_file import save_head
from head.runs.run import CONFIG_NAME, HEAD_NAME, RUN_FORMAT_VERSION, Run, check_name, read_run, write_config

BACKBONE, LAYER, STRIDE = "resnet50", "layer3", 16
BACKBONE_NAME = "backbone.safetensors"
BACKBONE_PREFIX = "core_cnn.core_cnn."
_BATCH_SIZE = 16
_LARGEST = 65536
_OWN_FILES = {BACKBONE_NAME, HEAD_NAME, CONFIG_NAME, "lock"}
_SIZES = ("positions", "channels", "steps", "hidden_size", "regressor_size")
_FEW, _LONGEST_NAME = 8, 60
_ATTENTION = ("e1.weight", "eh1.weight", "eh1.bias", "eh3.weight")
_ROUNDING, _NEARLY_ALL = 1e-6, 0.99  # shares of the bound of the draw


@dataclass(frozen=True)
class Imported:
    """The run that a checkpoint file became, the head's shape, and the keys of the file that were not expected.

    attends_untrained says that it attends with weights that look as they do before any training.
    """

    file: Path
    run: Run
    shape: PublishedShape
    unknown_keys: tuple[str, ...]
    attends_untrained: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return what was imported as a JSON object."""
        return {
            "run": str(self.run.folder),
            "name": self.run.name,
            "split": self.run.split,
            "fingerprint": self.run.config.fingerprint,
            **{size: getattr(self.shape, size) for size in _SIZES},
            "attention": self.shape.attention,
            "attention_untrained": self.attends_untrained,
            "unknown_keys": list(self.unknown_keys),
        }

    def as_text(self) -> str:
        """Return it as one line."""
        attention = "" if self.shape.attention else ", without attention"
        return (
            f"{self.run.folder}: head of {self.shape.steps} steps{attention}, {self.shape.positions} positions, state "
            f"{self.shape.hidden_size}, with its backbone; fingerprint {self.run.config.fingerprint[:16]}"
        )

    def warnings(self) -> list[str]:
        """Return the first few keys that were not expected, cut where they are long, and if attention is untrained."""
        keys, more = self.unknown_keys, len(self.unknown_keys) - _FEW
        few = [printable(key if len(key) <= _LONGEST_NAME else f"{key[:_LONGEST_NAME]}...") for key in keys[:_FEW]]
        few += [f"and {more:,} more, which --json lists"] if more > 0 else []
        title = f"warning: {self.file} holds keys that are not of such a model, ignored"
        untrained = (
            f"warning: {self.file}: its attention weights are as they are drawn before training, as in a model "
            "trained without attention; if this one was, its scores are wrong: import it with --no-attention"
        )
        return [*([f"{title}: {', '.join(few)}"] if keys else []), *([untrained] if self.attends_untrained else [])]


def import_head(
    file: Path, out: Path, *, name: str = "imported", split: str = "", steps: int = 3, attention: bool = True
) -> Imported:
    """Make the run in folder out of a checkpoint; importing it again there gives the same run, or renames it.

    split is that on which the head was trained, for `score_run`; steps is T, and attention whether it was trained with
    attention: neither is told by the file, which has the weights of attention in both cases.
    Raises `Mismatch` that lists everything the file lacks or has in another shape, or if out holds another run, and
    what `read_weights_file` raises.
    """
    check_name(name)
    if not re.fullmatch(r"[\w.-]*", split):
        raise InvalidSettings(f"--split must be the name of a split, such as 1, found {split!r}")
    if not 1 <= steps <= 20:
        raise InvalidSettings(f"--steps must be 1 to 20, found {steps}")
    state = read_weights_file(file)
    if all(key.startswith("module.") for key in state):  # as torch's DataParallel names them
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    backbone, whole = _resnet()
    shape, head = _checked(file, state, backbone, steps, attention=attention)
    known = {*head.state_dict(), *_ATTENTION, *(BACKBONE_PREFIX + key for key in whole.state_dict())}
    source = {"file": file.name, "sha256": digest_of_file(file), "steps": steps, "attention": attention}
    make_folder(out)
    with writer_lock(out):
        remove_temporaries(out)
        _prepare(out, source, name, split)
        write_durably(out / BACKBONE_NAME, backbone_file(backbone, state, BACKBONE_PREFIX))
        run = _write_run(out, head, source, name, split)
    unknown = tuple(key for key in state if key not in known)
    return Imported(file, run, shape, unknown, attends_untrained=attention and _untrained(state))


@functools.cache
def _resnet() -> tuple[nn.Module, nn.Module]:
    """Return the authors' backbone up to the layer that is used, and the whole of it, both without weights."""
    from torchvision.models import get_model
    from torchvision.models.feature_extraction import create_feature_extractor

    with torch.device("meta"):
        whole: nn.Module = get_model(BACKBONE, weights=None).eval()
        return create_feature_extractor(whole, [LAYER], suppress_diff_warning=True), whole


def _untrained(state: State) -> bool:
    """Whether all weights of attention lie where `nn.Linear` draws them, within 1 / sqrt(inputs), and nearly fill it.

    Training with attention at the authors' settings moves some of a million weights beyond; without it they get no
    gradient, and stay.
    """
    bounds = {key: state[f"{key.partition('.')[0]}.weight"].shape[1] ** -0.5 for key in _ATTENTION}
    largest = {key: float(state[key].abs().max()) / bound for key, bound in bounds.items()}
    return all(share <= 1 + _ROUNDING for share in largest.values()) and largest["e1.weight"] > _NEARLY_ALL


def _checked(
    file: Path, state: State, backbone: nn.Module, steps: int, *, attention: bool
) -> tuple[PublishedShape, PublishedHead]:
    """Return the head with the file's weights; raise `Mismatch` with all that head and backbone do not find there."""
    positions = _size(state, "eh1.weight", 0, usual=196)
    shape = PublishedShape(
        positions=positions,
        channels=backbone.state_dict()[f"{LAYER}.0.conv3.weight"].shape[0],
        steps=steps,
        hidden_size=_size(state, "rnn.weight_hh_l0", 1, usual=1024),
        regressor_size=_size(state, "regnet1.weight", 0, usual=512),
        attention=attention,
    )
    with torch.device("meta"):
        head = PublishedHead(shape)
    problems = [*_problems(head, state, ""), *_problems(backbone, state, BACKBONE_PREFIX)]
    if math.isqrt(positions) ** 2 != positions:
        problems.append(f"eh1.weight: for {positions} positions, which no square map has")
    deeper = rf"{re.escape(BACKBONE_PREFIX)}layer[123]\.\d+\..*"
    own = {BACKBONE_PREFIX + key for key in backbone.state_dict()}
    problems += [
        f"{printable(key)}: {BACKBONE} has no such layer"
        for key in state
        if re.fullmatch(deeper, key) and key not in own
    ]
    way_out = "Pass a checkpoint of the authors' published ResNet50 models."
    if all(problem.partition(": ")[0] in _ATTENTION for problem in problems):
        way_out = "If it was trained without attention, import it with --no-attention."
    refuse(Mismatch, f"{file}: not a head that can be imported:", problems, way_out)
    head = head.to_empty(device="cpu")
    load_into(head, state, str(file))
    head.bn1.num_batches_tracked = torch.tensor(0)  # which some files lack, and nothing reads
    return shape, head


def _size(state: State, key: str, axis: int, *, usual: int) -> int:
    """Return the size of one axis of a matrix in state; what it usually is where there is no such matrix."""
    shape = state[key].shape if key in state else ()
    return shape[axis] if len(shape) == 2 and 0 < shape[axis] <= _LARGEST else usual


def _problems(module: nn.Module, state: State, prefix: str) -> list[str]:
    """Return in words what state lacks or has otherwise than module, the type of numbers included."""
    found = problems_of(module, state, prefix)
    named = {problem.partition(": ")[0] for problem in found}
    for name, own in module.state_dict().items():
        key = prefix + name
        if own.is_floating_point() and key in state and key not in named and state[key].dtype != torch.float32:
            found.append(f"{key}: expected {torch.float32}, found {state[key].dtype}")
        elif name.endswith("running_var") and key in state and key not in named and (state[key] < 0).any():
            found.append(f"{key}: holds negative variances")
    return found


def _prepare(out: Path, source: dict[str, Any], name: str, split: str) -> None:
    """Raise `Mismatch` if out holds anything but the same import; remove scores under another name or split."""
    scores = [*out.glob("scores*.json"), *out.glob("predictions*.csv")]
    other = sorted(path.name for path in out.iterdir() if path.name not in _OWN_FILES and path not in scores)
    if not (out / CONFIG_NAME).is_file():
        if other:
            raise Mismatch(f"{out}: holds {', '.join(other[:8])}, so no place for a run; give it a new --out")
    else:
        run = read_run(out)
        there = run.imported
        if there is None or any(getattr(there, key) != source[key] for key in ("sha256", "steps", "attention")):
            kind = f"an import of {there.file}" if there else "a trained head"
            raise Mismatch(f"{out}: holds another run, {run.name}, {kind}; give this one a new --out")
        if (run.name, run.split) == (name, split):
            return
    for path in scores:
        path.unlink(missing_ok=True)


def backbone_file(backbone: nn.Module, state: State, prefix: str = "") -> bytes:
    """Return the weights of state that a backbone uses, named without prefix, as safetensors that `load_into` reads."""
    names = [key for key in backbone.state_dict() if not key.endswith("num_batches_tracked")]
    data: bytes = safetensors.torch.save({key: state[prefix + key].contiguous().clone() for key in names})
    return data


def _write_run(out: Path, head: PublishedHead, source: dict[str, Any], name: str, split: str) -> Run:
    """Write the head, then the configuration that makes the folder a run; its backbone's weights are there.

    Images are of the size that gives the head's positions.
    """
    backbone = build_backbone(
        BACKBONE,
        layers=(LAYER,),
        weights=str(out / BACKBONE_NAME),
        image_size=STRIDE * math.isqrt(head.shape.positions),
        device="cpu",
        precision="fp32",
        runtime="torch",
        batch_size=_BATCH_SIZE,
    )
    recipe = recipe_of(backbone, view_settings_of("published", image_size=backbone.image_size))
    head_sha256 = save_head(
        out, head, target_mean=TARGET_MEAN, target_scale=TARGET_SCALE, train_images=[], constants={}
    )
    config = {
        "run_format_version": RUN_FORMAT_VERSION,
        "name": name,
        "cache": "",
        "split": split,
        "input": HeadInput((LAYER,), "maps").as_json(),
        "settings": {"recipe": "published", "imported": name, "attention": head.shape.attention},
        "selected_on": "unknown (imported)",
        "train_images": None,
        "fingerprint": recipe.fingerprint,
        "recipe": recipe.as_json(),
        "weights_source": BACKBONE_NAME,
        "batch_size": _BATCH_SIZE,
        "torch": torch.__version__,
        "imported": source,
        "result": {"head_sha256": head_sha256, "best_epoch": None, "lowest_mse_epoch": None},
    }
    return write_config(out, config)
