"""Stage 2: heads fitted on cached features, scored, and used on new images. Knows the cache only by its API.

The names in `__all__` are the door to it, and docs/api.md describes them; everything else may move.
Each is imported when it is first asked for, so `import head` loads neither torch nor NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_HOMES = {  # the module in which each name of the door lives
    "Prediction": "head.prediction.predictor",
    "Predictor": "head.prediction.predictor",
    "TrainSettings": "head.settings",
    "TrainingJob": "head.training.job",
    "evaluate": "head.evaluation.evaluate",
    "export_head": "head.share.export",
    "import_head": "head.share.import_head",
    "load_head": "head.runs.head_file",
    "read_run": "head.runs.run",
    "settings_of": "head.settings",
    "train": "head.training.train",
}
__all__ = list(_HOMES)

if TYPE_CHECKING:  # the same for type checkers, which do not run what is below
    from head.evaluation.evaluate import evaluate as evaluate
    from head.prediction.predictor import Prediction as Prediction
    from head.prediction.predictor import Predictor as Predictor
    from head.runs.head_file import load_head as load_head
    from head.runs.run import read_run as read_run
    from head.settings import TrainSettings as TrainSettings
    from head.settings import settings_of as settings_of
    from head.share.export import export_head as export_head
    from head.share.import_head import import_head as import_head
    from head.training.job import TrainingJob as TrainingJob
    from head.training.train import train as train
else:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import_module("featcache.base.errors").check_platform()
        return getattr(import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
