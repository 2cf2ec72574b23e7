"""The curves of a run as TensorBoard's event files."""

import importlib.util
from pathlib import Path
from typing import Any

from featcache.base.commands import pip_install
from featcache.base.errors import InvalidSettings, StorageError
from featcache.base.files import make_folder
from head.runs.history import History

_FILES = "events.out.tfevents.*"
_TAGS = {
    "train_loss": "train/loss",
    "val_rho": "val/rho",
    "val_mse": "val/mse",
    "val_prediction_sd": "val/prediction_sd",
    "seconds": "speed/seconds",
    "images_per_second": "speed/images_per_second",
    "waiting_seconds": "speed/waiting_seconds",
}


def check_tensorboard() -> None:
    """Raise `InvalidSettings` if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InvalidSettings(f"--tensorboard needs TensorBoard: {pip_install('tensorboard')}")


class EventLog:
    """Writes histories as scalars into TensorBoard's event files in a folder, one point an epoch.

    Give it the whole history after each epoch. Files that an earlier process wrote there are replaced by one with
    all epochs, so a run that was killed or started over has each of them once. lr is the learning rate, if there is
    one, of all epochs.
    """

    def __init__(self, folder: Path, lr: float | None) -> None:
        self._folder, self._lr = folder, lr
        self._writer: Any = None
        self._written = 0

    def close(self) -> None:
        """Close the file that was written to, if there is one."""
        if self._writer is not None:
            self._writer.close()

    @property
    def empty(self) -> bool:
        """Whether there are no event files yet."""
        return not any(self._folder.glob(_FILES))

    def __call__(self, history: History) -> None:
        """Write the epochs that this object has not written; raise `StorageError` if that cannot be."""
        try:
            earlier: list[Path] = []
            if self._writer is None:
                earlier = list(self._folder.glob(_FILES))
                self._writer = self._opened()
            for epoch in history[self._written :]:
                scalars = {tag: epoch.get(key) for key, tag in _TAGS.items()} | {"train/lr": self._lr}
                for tag, value in scalars.items():
                    if value is not None:
                        self._writer.add_scalar(tag, value, int(epoch["epoch"]))
            self._writer.flush()
            for path in earlier:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self._folder}: {error}; give another folder with --tensorboard") from error
        self._written = len(history)

    def _opened(self) -> Any:
        """Return a writer; it tells a TensorBoard that shows this run already to forget the earlier file's epochs."""
        from torch.utils.tensorboard import SummaryWriter

        make_folder(self._folder)
        return SummaryWriter(str(self._folder), purge_step=1)
