"""What config.json says of a run: checked once, read by attribute, and written again as it was found."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from featcache.settings import LARGEST_BATCH
from head.settings import WEIGHTS

Document = Mapping[str, Any]
NEAR_CEILING = ("of_ceiling", "of_ceiling_low", "of_ceiling_high", "ceiling")  # of an estimate
_TEXTS = ("name", "cache", "fingerprint", "split", "selected_on", "weights_source")


@dataclass(frozen=True)
class Source:
    """The checkpoint that a run was imported from: its file's name and sha256; T and attention, which no file says."""

    file: str = ""
    sha256: str | None = None
    steps: int | None = None
    attention: bool = True


@dataclass(frozen=True)
class Estimate:
    """How well a head on all images does, by its runs on the splits, each scored on its split's test part.

    rho and mse are means over splits of means over seeds, low and high the 95% interval of rho, images how many were
    scored, a split's once. of_ceiling is rho over the ceiling that the agreement of raters sets, with its interval.
    Numbers are None where they cannot be had; problem says why. optimistic: chosen on test.
    """

    rho: float | None = None
    low: float | None = None
    high: float | None = None
    mse: float | None = None
    splits: int = 0
    seeds: int = 0
    images: int = 0
    optimistic: bool = False
    problem: str = ""
    of_ceiling: float | None = None
    of_ceiling_low: float | None = None
    of_ceiling_high: float | None = None
    ceiling: float | None = None

    @property
    def interval(self) -> str:
        """The interval of rho in words, or that there is none."""
        if self.low is None or self.high is None:
            return "no interval"
        return f"95% interval {self.low:.3f} to {self.high:.3f}"

    def as_text(self) -> str:
        """Return it in one phrase."""
        if self.rho is None:
            return f"no cross-validated estimate: {self.problem or 'rho is undefined'}"
        over = f"{self.splits} {'split' if self.splits == 1 else 'splits'}"
        flattering = ", optimistic as it was chosen on these images" if self.optimistic else ""
        without = f"; {self.problem}" if self.problem else ""
        known = self.of_ceiling is not None and self.ceiling is not None
        share = "" if not known else f", {self.of_ceiling:.2f} of the ceiling {self.ceiling:.3f}"
        return f"cross-validated test rho {self.rho:.3f}, {self.interval}, of {over}{share}{flattering}{without}"


@dataclass(frozen=True)
class Calibrated:
    """What came of calibration: its kind, 'none' if a problem left scores as they are, and the MSE that it is to lower.

    val_mse is that of the selection part, each score calibrated by the others', and uncalibrated_val_mse that before;
    both are None of a head on all images.
    """

    kind: str
    val_mse: float | None = None
    uncalibrated_val_mse: float | None = None
    problem: str = ""

    def as_text(self, selected_on: str) -> str:
        """Return it in one phrase, '' of none; selected_on says in words which images it was fitted to."""
        if self.kind == "none":
            return ""
        if self.val_mse is None or self.uncalibrated_val_mse is None:
            return f"{self.kind} calibration"
        before, after = f"{self.uncalibrated_val_mse:.5f}", f"{self.val_mse:.5f}"
        return (
            f"MSE on {selected_on} {before} before {self.kind} calibration and {after} after it, of each image "
            "by a calibration without it"
        )


@dataclass(frozen=True)
class Result:
    """What training came to: the head's digest, and the best and lowest-MSE epochs with what they reached.

    Epochs count from 1 and are None of an imported head; rho is None where it is undefined. Of a baseline epochs are
    candidates, hyperparameters those of the best, fitted_images how many its last fit took. val_images is how many
    selected it, score_range the lowest and the highest training score; both are None of runs that do not say it.
    estimate is there of a head on all images, which has no rho of its own. document is the JSON object that it was made
    of, with whatever else that says. calibration is None if none was asked for. channels
    says how many are kept ('of', 'kept', 'variance', 'vectors'), and is None where all are.
    """

    head_sha256: str
    best_epoch: int | None
    lowest_mse_epoch: int | None
    epochs: int = 0
    val_rho: float | None = None
    val_mse: float = float("nan")
    val_images: int | None = None
    lowest_mse_val_rho: float | None = None
    lowest_mse_val_mse: float = float("nan")
    hyperparameters: Mapping[str, float] | None = None
    fitted_images: int | None = None
    estimate: Estimate | None = None
    score_range: tuple[float, float] | None = None
    calibration: Calibrated | None = None
    channels: Mapping[str, Any] | None = None
    document: Document = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class RunConfig:
    """What a run says; not every one has the fields with a default. `Run` has what input and recipe stand for.

    choice is there of a run on all images: what the runs on the splits chose for it, how many they were, and of which.
    member_weights is there of a head made of others: by what their images were weighted.
    document is the JSON object that it was made of, with whatever else that says.
    """

    name: str
    cache: str
    fingerprint: str
    split: str
    input: Any
    settings: Document
    recipe: Any
    selected_on: str
    weights_source: str
    batch_size: int
    train_images: int | None = None
    absent_images: int = 0
    images_sha256: str | None = None
    ratings_sha256: str | None = None
    target: str = ""
    products: str = "fp32"  # before there was a choice
    member_weights: tuple[str, ...] = ()
    choice: Document | None = None
    exported: Document | None = None
    imported: Source | None = None
    result: Result | None = None
    document: Document = field(default_factory=dict, repr=False)


def config_from_json(document: Document) -> RunConfig:
    """Return what a JSON object says of a run; raise `ValueError` with all that it lacks or that cannot be."""
    objects = {"imported": "what it was imported from", "result": "its result", "settings": "its settings"}
    for key, what in {**objects, "choice": "what was chosen for it"}.items():
        if not isinstance(document.get(key, {}), dict):
            raise ValueError(f"{what} is not an object")
    missing = _missing(RunConfig, document) + (_missing(Result, document["result"]) if "result" in document else [])
    missing += ["result"] if "imported" in document and "result" not in document else []  # it is written last, with it
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    batch_size = document["batch_size"]
    if not isinstance(batch_size, int) or not 1 <= batch_size <= LARGEST_BATCH:
        raise ValueError(f"batch_size must be 1 to {LARGEST_BATCH}, found {batch_size!r}")
    parts: dict[str, Any] = {name: str(document[name]) for name in _TEXTS} | {"document": document}
    parts["member_weights"] = _member_weights(document.get("member_weights", []))
    if "imported" in document:
        parts["imported"] = Source(**_known(Source, document["imported"]))
    if "result" in document:
        result = document["result"]
        known = {**_known(Result, result), "score_range": _range(result.get("score_range")), "document": result}
        if "estimate" in known:
            known["estimate"] = _estimate(known["estimate"])
        if "calibration" in known:
            known["calibration"] = _calibrated(known["calibration"])
        if "channels" in known:
            known["channels"] = _channels(known["channels"])
        parts["result"] = Result(**known)
    return RunConfig(**{**_known(RunConfig, document), **parts})


def _member_weights(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(one in WEIGHTS for one in found):
        raise ValueError(f"member_weights must be some of {', '.join(WEIGHTS)}, found {found!r}")
    return tuple(found)


def _range(found: Any) -> tuple[float, float] | None:
    if found is None:
        return None
    numbers = found if isinstance(found, list) and len(found) == 2 else [math.nan]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise ValueError(f"score_range must be two numbers, found {found!r}")
    return min(numbers), max(numbers)


def _channels(value: Any) -> Mapping[str, Any]:
    names = ("of", "kept", "variance", "vectors")
    if not isinstance(value, dict) or not all(type(value.get(name)) in (int, float) for name in names):
        raise ValueError("its channels are not how many are kept of how many")
    return value


def _estimate(value: Any) -> Estimate:
    if not isinstance(value, dict):
        raise ValueError("its estimate is not an object")
    found = Estimate(**_known(Estimate, value))
    values = (found.rho, found.low, found.high, found.mse, *(getattr(found, key) for key in NEAR_CEILING))
    numbers = all(type(one) in (int, float, type(None)) for one in values)
    counts = all(type(one) is int for one in (found.splits, found.seeds, found.images))
    if not (numbers and counts and isinstance(found.problem, str)):
        raise ValueError("its estimate has other things than numbers")
    return found


def _calibrated(value: Any) -> Calibrated:
    known = {"kind": None, **_known(Calibrated, value)} if isinstance(value, dict) else {"kind": None}
    found = Calibrated(**known)
    numbers = all(type(one) in (int, float, type(None)) for one in (found.val_mse, found.uncalibrated_val_mse))
    if not (numbers and isinstance(found.kind, str) and isinstance(found.problem, str)):
        raise ValueError("its calibration has other things than a kind, numbers and a problem")
    return found


def _missing(record: type, document: Document) -> list[str]:
    needed = [one.name for one in fields(record) if one.default is MISSING and one.default_factory is MISSING]
    return [name for name in needed if name not in document]


def _known(record: type, document: Document) -> dict[str, Any]:
    return {one.name: document[one.name] for one in fields(record) if one.name in document}
