"""The file of a trained head, head.safetensors: weights, calibration, residuals, the digests of its training images."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.base.devices import has_float64, keep_float32
from featcache.base.errors import BadInput, CorruptFile, HostileFile, Mismatch
from featcache.base.files import canonical_json, digest_of_file, write_durably
from featcache.store.projection import Projection, Storing, projections_of, tensors_of
from head.calibration.calibration import Calibration
from head.models.kinds import filled_head, head_as_json, kind_of, stored_of
from head.runs.run import HEAD_NAME, Run

_CONSTANTS = "feature_constants."
_PROJECTION = "feature_projection."
_CALIBRATION = "calibration."
_TRAIN_IMAGES = "train_images_sha256"


@dataclass(frozen=True)
class TrainedHead:
    """A head in evaluation mode, the scale of its scores, and the sha256 of its training images.

    A score is target_mean + target_scale * y, with y the head's own output, or what calibration makes of that.
    constants holds for each layer that was stored as uint8 those (2, D) with which it was, and of a layer that was
    projected before it was stored the projection. residuals (n) float64,
    rising, are how far scores were from the ratings of images that it was not fitted to; none where the file does not
    tell.
    """

    module: nn.Module
    target_mean: float
    target_scale: float
    train_images: frozenset[str]
    constants: Mapping[str, Storing]
    calibration: Calibration | None = None
    residuals: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def in_float64(self) -> bool:
        """Whether the head computes in float64, as those that scikit-learn fits do: not every device can."""
        return any(tensor.dtype == torch.float64 for tensor in self.module.state_dict().values())

    @property
    def steps(self) -> int:
        """T, 1 for heads that look once."""
        return int(self.module.shape.steps)  # type: ignore[union-attr, arg-type]

    @property
    def device(self) -> torch.device:
        """Where the head computes."""
        device: torch.device = next(iter(self.module.state_dict().values())).device
        return device

    def to(self, device: torch.device) -> None:
        """Let the head compute on a device, in the precision that its weights have."""
        keep_float32(device)
        self.module.to(device)

    @torch.inference_mode()
    def predict(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map features (B, L, D) to scores (B), step scores (B, T) that add up to them, and maps (B, T, L).

        L counts tokens as well; `head.data.inputs.HeadInput.places` cuts them off. They are computed where the head is.
        """
        steps, maps = self.uncalibrated(features)
        steps = self.calibrated(steps)
        return steps.sum(dim=1), steps, maps

    @torch.inference_mode()
    def uncalibrated(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (B, L, D) to step scores (B, T) as they are before calibration, and maps (B, T, L)."""
        output = self.module(features)
        share = self.target_mean / self.steps
        found = output.step_scores
        steps = (found if has_float64(found.device) else found.cpu()).double() * self.target_scale + share
        return steps, output.maps

    def calibrated(self, steps: Tensor) -> Tensor:
        """Map such step scores to those that add up to the score, (B, T) float64."""
        return steps if self.calibration is None else self.calibration.of_steps(steps)


def save_head(
    folder: Path,
    module: nn.Module,
    *,
    target_mean: float,
    target_scale: float,
    train_images: list[str],
    constants: Mapping[str, Storing],
    calibration: Calibration | None = None,
    residuals: NDArray[np.float64] | None = None,
) -> str:
    """Write head.safetensors and return its sha256; residuals (n) are absolute ones, in any order."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in stored_of(module).items()}
    digests = np.frombuffer(bytes.fromhex("".join(sorted(train_images))), np.uint8).reshape(-1, 32)
    tensors[_TRAIN_IMAGES] = torch.from_numpy(digests.copy())
    projections = {layer: one for layer, one in constants.items() if isinstance(one, Projection)}
    tensors |= {f"{_PROJECTION}{name}": tensor for name, tensor in tensors_of(projections).items()}
    stored = {layer: values for layer, values in constants.items() if not isinstance(values, Projection)}
    tensors |= {f"{_CONSTANTS}{layer}": torch.from_numpy(values) for layer, values in stored.items()}
    if calibration is not None:  # among the tensors, so that an earlier program refuses the head and does not omit it
        tensors[f"{_CALIBRATION}{calibration.kind}"] = calibration.knots
    facts = {**head_as_json(module), "target_mean": target_mean, "target_scale": target_scale}
    if residuals is not None and len(residuals):
        facts["residuals"] = np.sort(residuals).tolist()
    # one key, because safetensors writes several in random order, and the same head must be the same bytes
    return write_durably(folder / HEAD_NAME, safetensors.torch.save(tensors, {"head": canonical_json(facts)}))


def check_head(run: Run) -> Path:
    """Return the file of a finished run's head; raise `CorruptFile` unless it is there as it was written."""
    path = run.folder / HEAD_NAME
    if path.is_file() and digest_of_file(path) == run.result.head_sha256:
        return path
    again = "run train-head again with --no-resume"
    if run.imported:
        again = "import it again"
    elif run.config.exported:
        again = "export it again, or copy it again from where it is from"
    raise CorruptFile(f"{path}: missing or damaged; {again}")


def train_images_of(run: Run) -> frozenset[str]:
    """Return the sha256 of the images that a finished run's head was trained on, without loading the head.

    Raises `CacheIncomplete` and `CorruptFile` as `load_head` does.
    """
    path = check_head(run)
    try:
        with safetensors.safe_open(path, "pt") as file:
            return _digests(file.get_tensor(_TRAIN_IMAGES))
    except safetensors.SafetensorError as error:
        raise CorruptFile(f"{path}: not a head of this version: {error}") from error


def _digests(rows: Tensor) -> frozenset[str]:
    return frozenset(bytes(row).hex() for row in rows.numpy())


def load_head(run: Run, device: str | torch.device = "cpu", *, weights: str | None = None) -> TrainedHead:
    """Return the head of a finished run; raise `CacheIncomplete` if unfinished, `CorruptFile` for damage.

    weights is where the backbone's weights are, if not where the run says; they are needed if only a part of a network
    was trained, and `Mismatch` is raised if they are others.
    Where device has no float64, a head that needs it stays on the CPU, with a warning.
    """
    path = check_head(run)
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["head"])
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        train_images = _digests(tensors.pop(_TRAIN_IMAGES))
        stored = [name for name in tensors if name.startswith(_CONSTANTS)]
        constants: dict[str, Storing] = {name.removeprefix(_CONSTANTS): tensors.pop(name).numpy() for name in stored}
        projected = [name for name in tensors if name.startswith(_PROJECTION)]
        constants |= projections_of({name.removeprefix(_PROJECTION): tensors.pop(name) for name in projected})
        calibrations = [name for name in tensors if name.startswith(_CALIBRATION)]
        calibration = [Calibration(name.removeprefix(_CALIBRATION), tensors.pop(name)) for name in calibrations]
        residuals = _residuals(facts.get("residuals", []))
        module = filled_head(facts["kind"], facts["shape"], tensors)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptFile(f"{path}: not a head of this version: {error}") from error
    if complete := kind_of(module).complete:
        try:
            complete(module, run.recipe, weights or run.weights_source)
        except (BadInput, CorruptFile, HostileFile, Mismatch) as error:
            what = "the weights of its network that were not trained are needed, and cannot be had"
            raise type(error)(f"{run.folder}: {what}: {error}") from error
    head = TrainedHead(
        module.eval().requires_grad_(False),
        float(facts["target_mean"]),
        float(facts["target_scale"]),
        train_images,
        constants,
        calibration[0] if calibration else None,
        residuals,
    )
    if note := float64_note(head, torch.device(device)):
        warnings.warn(note, stacklevel=2)
    else:
        head.to(torch.device(device))
    return head


def _residuals(found: Any) -> NDArray[np.float64]:
    """Return absolute residuals (n) as a head's file has them; raise `ValueError` for anything else."""
    residuals = np.array(found, np.float64)
    if residuals.ndim != 1 or not np.isfinite(residuals).all() or (np.diff(residuals, prepend=0) < 0).any():
        raise ValueError("its residuals are not rising numbers")
    return residuals


def float64_note(head: TrainedHead, device: torch.device) -> str:
    """Return that a head computes on the CPU if device cannot compute it, '' if it can."""
    if has_float64(device) or not head.in_float64:
        return ""
    return f"the head computes in float64, which {device.type} does not have, so it runs on the CPU"
