"""What an extraction is asked to do, checked, and the backbone that it asks for."""

from dataclasses import dataclass, field
from pathlib import Path

from .backbones import Backbone, build_backbone
from .choices import BAD_IMAGE_POLICIES, ENCODINGS
from .errors import InvalidSettings
from .manifest import LARGEST_BATCH
from .views import ViewRecipe


@dataclass(frozen=True)
class ExtractSettings:
    """What to extract: augs is K, the number of augmented views beside the evaluation view.

    weights is 'imagenet', a file, or 'random'; layers may be empty for the backbone's default. calibrate_like is
    a cache whose uint8 constants are taken, so that the two can be merged; '' calibrates on the dataset. force
    starts although the disk seems too small.
    """

    augs: int = 0
    backbone: str = "resnet50"
    layers: tuple[str, ...] = ()
    weights: str = "imagenet"
    views: ViewRecipe = field(default_factory=ViewRecipe)
    precision: str = "auto"
    runtime: str = "auto"
    device: str = "auto"
    batch_size: int = 16
    on_bad_image: str = "skip"
    encoding: str = "float16"
    calibrate_like: str = ""
    force: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.augs <= 1000:
            raise InvalidSettings(f"--augs must be 0 to 1000, found {self.augs}")
        if not 1 <= self.batch_size <= LARGEST_BATCH:
            raise InvalidSettings(f"--batch-size must be 1 to {LARGEST_BATCH}, found {self.batch_size}")
        if self.on_bad_image not in BAD_IMAGE_POLICIES:
            raise InvalidSettings(f"--on-bad-image must be skip or stop, found {self.on_bad_image!r}")
        if self.encoding not in ENCODINGS:
            raise InvalidSettings(f"--encoding must be {' or '.join(ENCODINGS)}, found {self.encoding!r}")
        if self.calibrate_like and self.encoding != "uint8":
            raise InvalidSettings("--calibrate-like goes with --encoding uint8: float16 has no constants")


def load_backbone(settings: ExtractSettings, *, views: int = 1, threads: int | None = None) -> Backbone:
    """Return the backbone that settings ask for, to compute so many views in all on so many cores."""
    return build_backbone(
        settings.backbone,
        layers=settings.layers,
        weights=settings.weights,
        image_size=settings.views.image_size,
        seed=settings.views.seed,
        device=settings.device,
        precision=settings.precision,
        runtime=settings.runtime,
        batch_size=settings.batch_size,
        views=views,
        threads=threads,
    )


def source_of_weights(settings: ExtractSettings) -> str:
    """Return 'imagenet', 'random', or the absolute path of the weights file."""
    known = settings.weights in ("imagenet", "random")
    return settings.weights if known else str(Path(settings.weights).resolve())
