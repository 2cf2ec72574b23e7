"""Every setting of training, and what was chosen where the paper is silent."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from featcache.errors import InvalidSettings

from .model import HeadShape

RECIPES = ("paper",)
SELECTIONS = ("val", "test")


@dataclass(frozen=True)
class TrainSettings:
    """Flat and JSON-able. From the paper (section 3.4): steps, hidden_size, lr, weight_decay, batch_size, lambda.

    attention_weight is lambda of Eq. 13; layer is the cache's layer to read (None: its last); patience is
    how many epochs without a better validation rho end the training.
    """

    recipe: str = "paper"
    attention: bool = True
    steps: int = 3
    hidden_size: int = 1024
    regressor_size: int = 512
    dropout: float = 0.5
    lr: float = 1e-3
    weight_decay: float = 1e-6
    attention_weight: float = 1e-4
    batch_size: int = 256
    epochs: int = 60
    patience: int = 15
    seed: int = 0
    select_on: str = "val"
    val_fraction: float = 0.1
    layer: str | None = None

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise InvalidSettings(f"--recipe must be {' or '.join(RECIPES)}, found {self.recipe!r}")
        if self.select_on not in SELECTIONS:
            raise InvalidSettings(f"--select-on must be {' or '.join(SELECTIONS)}, found {self.select_on!r}")
        for name, low, high in (
            ("steps", 1, 20),
            ("hidden_size", 1, 65536),
            ("regressor_size", 1, 65536),
            ("batch_size", 1, 65536),
            ("epochs", 1, 100_000),
            ("patience", 1, 100_000),
            ("seed", 0, 2**63 - 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise InvalidSettings(f"{name} must be {low} to {high}, found {getattr(self, name)}")
        for name, upper in (("lr", 10.0), ("weight_decay", 10.0), ("attention_weight", 1e3)):
            value = getattr(self, name)
            if not math.isfinite(value) or not 0 <= value <= upper:
                raise InvalidSettings(f"{name} must be a number from 0 to {upper}, found {value}")
        if not 0 <= self.dropout < 1:
            raise InvalidSettings(f"dropout must be in [0, 1), found {self.dropout}")
        if not 0 < self.val_fraction < 1:
            raise InvalidSettings(f"val_fraction must be in (0, 1), found {self.val_fraction}")

    def shape(self, positions: int, channels: int) -> HeadShape:
        """Return the head's shape for feature maps of L positions and D channels."""
        return HeadShape(
            positions=positions,
            channels=channels,
            steps=self.steps,
            hidden_size=self.hidden_size,
            regressor_size=self.regressor_size,
            attention=self.attention,
            dropout=self.dropout,
        )

    def default_name(self) -> str:
        """Return the run's name when none is given."""
        return self.recipe if self.attention else f"{self.recipe}-no-attention"

    def as_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)
