"""Networks that OpenVINO has converted and compiled, kept in the user's cache folder from one process to the next.

Each is a file under a digest of all that it was made of. What cannot be read back as it was written, not be written,
or is another user's, is no error: the network is converted again.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from featcache.backbones.families.weights import digest_of_weights
from featcache.base.errors import StorageError, ran_out_of_memory
from featcache.base.files import canonical_json, make_folder, read_trusted, write_durably

MOST_BYTES = 1 << 30  # of all files together; a network that takes more than half is not kept
_OF = ("openvino", "torch", "torchvision", "timm")  # whose versions decide what a network becomes
_DIGEST = hashlib.sha256().digest_size


def kept_folder() -> Path:
    """Return the folder: amnet/openvino in $XDG_CACHE_HOME, by default ~/.cache; `RuntimeError` for a user without."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path("~/.cache").expanduser()) / "amnet" / "openvino"


def compiled_once(
    network: nn.Module, core: Any, options: dict[str, Any], what: str, compile_: Callable[[], Any]
) -> Any:
    """Return the compiled model that an earlier process kept, or that of compile_(), which is then kept.

    core is OpenVINO's, options what it compiles with; what says what of network is computed, and from what.
    """
    name = _key(network, core, options, what)
    try:
        folder = kept_folder()
    except RuntimeError:
        name = None
    if name is None:
        return compile_()
    path = folder / name
    found = _read(path, core, options)
    if found is None:
        found = compile_()
        _keep(path, found)
    return found


def _key(network: nn.Module, core: Any, options: dict[str, Any], what: str) -> str | None:
    """Return the digest of all that decides what OpenVINO makes of a network, None where that cannot be known."""
    try:
        versions = [version(name) for name in _OF]
    except PackageNotFoundError:
        return None
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    parts = {
        "what": what,
        "modules": re.sub(r" at 0x[0-9a-f]+", "", repr(network)),  # an address is another in each process
        "weights": digest_of_weights(network),
        "options": {name: str(value) for name, value in options.items()},
        "versions": versions,
        "sources": [hashlib.sha256(path.read_bytes()).hexdigest() for path in sources],
        "processor": [
            str(core.get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
        ],
    }
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _read(path: Path, core: Any, options: dict[str, Any]) -> Any:
    """Return the compiled model in a file, None if there is none that is as it was written."""
    try:
        content = read_trusted(path)
        if hashlib.sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]:
            return None
        with contextlib.suppress(OSError):  # on a read-only disk
            os.utime(path)  # the longest unused go first
        return core.import_model(content[:-_DIGEST], "CPU", options)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        if ran_out_of_memory(error):
            raise
        return None


def _keep(path: Path, model: Any) -> None:
    """Write a compiled model, and remove those that were not used for longest where all take more than allowed."""
    with contextlib.suppress(OSError, StorageError, RuntimeError, MemoryError):
        data = model.export_model().getvalue()
        if len(data) > MOST_BYTES // 2:
            return
        make_folder(path.parent)
        write_durably(path, data + hashlib.sha256(data).digest())
        files = sorted(path.parent.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
        taken = 0
        for one in files:
            taken += one.stat().st_size
            if taken > MOST_BYTES:
                one.unlink(missing_ok=True)
