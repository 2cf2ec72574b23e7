"""Every setting of training, what each recipe's values are, and what was chosen where the paper is silent."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from featcache.errors import InvalidSettings, list_problems

HEADS = ("amnet", "linear", "ridge", "svr", "mlp")
POOLED = ("mean", "mean+deviation")
SELECTIONS = ("val", "test")
PRECISIONS = ("auto", "fp32", "bf16")
_PUBLISHED = {
    "lr": 1e-4,
    "attention_weight": 1e-5,
    "batch_size": 222,
    "epochs": 54,
    "patience": 54,
}
RECIPES: dict[str, dict[str, Any]] = {"paper": {}, "published": _PUBLISHED}  # what differs from the fields' defaults


@dataclass(frozen=True)
class TrainSettings:
    """Flat and JSON-able. The defaults are the paper's (section 3.4) where it gives them; see `settings_of` for others.

    head is 'amnet' (a recurrent head of the recipe) or a baseline on pooled features; pooling is what a baseline
    reads of each layer. layers are the cache's layers to read: none for its last, 'all' for all (baselines alone).
    attention_weight is lambda of Eq. 13; patience is how many epochs without a better validation rho end the training;
    precision is the arithmetic of matrix products, 'auto' bf16 where the hardware multiplies it.
    """

    recipe: str = "paper"
    head: str = "amnet"
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
    pooling: str = "mean+deviation"
    layers: tuple[str, ...] = ()
    precision: str = "auto"
    select_on: str = "val"
    val_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))  # a list, where it comes from JSON
        problems = [
            f"{option} must be {' or '.join(choices)}, found {value!r}"
            for option, value, choices in (
                ("--recipe", self.recipe, tuple(RECIPES)),
                ("--head", self.head, HEADS),
                ("--pooling", self.pooling, POOLED),
                ("--precision", self.precision, PRECISIONS),
                ("--select-on", self.select_on, SELECTIONS),
            )
            if value not in choices
        ]
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
                problems.append(f"{option_of(name)} must be {low} to {high}, found {getattr(self, name)}")
        for name, upper in (("lr", 10.0), ("weight_decay", 10.0), ("attention_weight", 1e3)):
            value = getattr(self, name)
            if not math.isfinite(value) or not 0 <= value <= upper:
                problems.append(f"{option_of(name)} must be a number from 0 to {upper}, found {value}")
        if not 0 <= self.dropout < 1:
            problems.append(f"--dropout must be in [0, 1), found {self.dropout}")
        if not 0 < self.val_fraction < 1:
            problems.append(f"--val-fraction must be in (0, 1), found {self.val_fraction}")
        if self.head == "amnet" and (len(self.layers) > 1 or self.layers == ("all",)):
            problems.append("--layer: an amnet head reads one layer; --head linear, ridge, svr and mlp read several")
        if problems:
            title = "settings of training that cannot be:"
            raise InvalidSettings(problems[0] if len(problems) == 1 else list_problems(title, problems, ""))

    def default_name(self) -> str:
        """Return the run's name when none is given."""
        return self.recipe if self.attention else f"{self.recipe}-no-attention"

    def as_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return {**asdict(self), "layers": list(self.layers)}


def settings_of(recipe: str = "paper", **given: Any) -> TrainSettings:
    """Return the settings of a recipe with those changed that are given and not None."""
    changes = {name: value for name, value in given.items() if value is not None}
    return TrainSettings(**{"recipe": recipe, **RECIPES.get(recipe, {}), **changes})


def option_of(name: str) -> str:
    """Return the command-line option that sets a field."""
    return {"attention_weight": "--lambda", "layers": "--layer"}.get(name, f"--{name.replace('_', '-')}")
