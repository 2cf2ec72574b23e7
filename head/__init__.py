"""Stage 2: heads fitted on cached features, scored, and used on new images. Knows the cache only by its API.

The names in `__all__` are the door to it, and docs/api.md describes them; everything else may move.
Each is imported when it is first asked for, so `import head` loads neither torch nor NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "Prediction",
    "Predictor",
    "TrainSettings",
    "TrainingJob",
    "evaluate",
    "export_head",
    "import_head",
    "load_head",
    "read_run",
    "settings_of",
    "train",
]
_HOMES = {  # where each name of the door lives: module, and the name there
    "Prediction": ("head.prediction.predictor", "Prediction"),
    "Predictor": ("head.prediction.predictor", "Predictor"),
    "TrainSettings": ("head.settings", "TrainSettings"),
    "TrainingJob": ("head.training.job", "TrainingJob"),
    "evaluate": ("head.evaluation.evaluate", "evaluate"),
    "export_head": ("head.share.export", "export_head"),
    "import_head": ("head.share.import_head", "import_head"),
    "load_head": ("head.runs.head_file", "load_head"),
    "read_run": ("head.runs.run", "read_run"),
    "settings_of": ("head.settings", "settings_of"),
    "train": ("head.training.train", "train"),
}

if TYPE_CHECKING:  # the same for type checkers, which do not run what is below
    from head.evaluation.evaluate import evaluate
    from head.prediction.predictor import Prediction, Predictor
    from head.runs.head_file import load_head
    from head.runs.run import read_run
    from head.settings import TrainSettings, settings_of
    from head.share.export import export_head
    from head.share.import_head import import_head
    from head.training.job import TrainingJob
    from head.training.train import train
else:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, attribute = _HOMES[name]
        return getattr(import_module(module), attribute)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
