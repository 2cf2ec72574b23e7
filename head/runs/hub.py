"""Runs on the Hugging Face Hub: hf://OWNER/NAME[@REVISION] becomes a folder. Knows nothing of what is in a run.

A repository is a run, or holds the members of a head, each a run in a folder of its own.

Only names on a short list are ever asked for, so nothing that is pickled, and no code, gets here.
"""

import contextlib
import errno
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from featcache.backbones.families.descriptor_networks import NO_FILES
from featcache.base.commands import pip_install
from featcache.base.errors import BadInput, InvalidSettings, StorageError, first_line, printable, refuse
from featcache.base.files import read_json
from featcache.settings import PLUS
from head.runs.run import CARD_NAME, CONFIG_NAME, HEAD_NAME

_REFERENCE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.+/-]+))?")
_MEMBER = r"\w[\w.,=+-]*/"  # a folder of the repository
_LARGEST = {CONFIG_NAME: 16 << 20, CARD_NAME: 1 << 20}
_LARGEST_WEIGHTS = 4 << 30
_SECONDS = 30.0  # for an answer about the repository
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


class Reference(NamedTuple):
    """A repository OWNER/NAME and a branch, tag or commit of it."""

    repository: str
    revision: str


def run_folder(text: str) -> Path:
    """Return the folder of a run named on a command line: fetched if it is hf://..., otherwise the path itself."""
    return fetch_run(text) if text.startswith("hf://") else Path(text)


def reference_of(text: str) -> Reference:
    """Return what hf://OWNER/NAME[@REVISION] names, by default main; raise `InvalidSettings` for anything else."""
    found = _REFERENCE.fullmatch(text)
    if not found:
        raise InvalidSettings(f"{printable(text)}: not a run on the Hub; it is written hf://OWNER/NAME or ...@REVISION")
    return Reference(found[1], found[2] or "main")


def fetch_run(text: str) -> Path:
    """Download the run at hf://OWNER/NAME[@REVISION] into huggingface_hub's cache and return its folder there.

    Without a network, what was fetched from there before is returned. Raises `InvalidSettings` for a repository or
    revision that does not exist, `BadInput` if it cannot be had, is no run, or holds a file of unreasonable size,
    `StorageError` if the disk refuses it. `head.read_run` checks what is in the files.
    """
    reference = reference_of(text)
    hub = _require_hub()
    with _quiet(hub), _hub_errors(hub, text):
        try:
            folder = _download(hub, text, reference)
        except _transport_errors(hub) as error:
            answered = isinstance(error, hub.errors.HfHubHTTPError) or getattr(error, "errno", None) in _REFUSED
            found = None if answered else _fetched_before(hub, reference)
            if found is None:
                raise
            folder = found
    _check_weights(text, folder)
    return folder


def _require_hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ModuleNotFoundError as error:
        raise InvalidSettings(
            f"runs on the Hub need {error.name}, which is not installed: {pip_install('hub')}"
        ) from error
    return huggingface_hub


def _transport_errors(hub: Any) -> tuple[type[Exception], ...]:
    """Return what the HTTP library below raises, whichever it is, and OSError: the bases of huggingface_hub's error."""
    bases: tuple[type[Exception], ...] = hub.errors.HfHubHTTPError.__bases__
    return bases


def _download(hub: Any, text: str, reference: Reference) -> Path:
    api = hub.HfApi()
    repository, revision = reference
    about = api.model_info(repository, revision=revision, files_metadata=True, timeout=_SECONDS)
    names = _checked(text, {file.rfilename: file.size for file in about.siblings or ()})
    last = CONFIG_NAME if CONFIG_NAME in names else CARD_NAME
    for name in names:
        if name != last:
            api.hf_hub_download(repository, name, revision=about.sha)
    # last, so that its presence says that all are there, and by name, so that it is found without a network
    found = Path(api.hf_hub_download(repository, last, revision=revision))
    if found.parent.name != about.sha:
        raise BadInput(f"{text}: was changed while it was fetched; run the same command again")
    return found.parent


def _checked(text: str, sizes: dict[str, int | None]) -> list[str]:
    """Return the files to fetch; raise `BadInput` that lists what makes this no run, and no members, to fetch."""
    members = [] if {CONFIG_NAME, HEAD_NAME} & set(sizes) else _members(sizes)
    needed = [f"{home}{name}" for home in members or [""] for name in (CONFIG_NAME, HEAD_NAME)]
    missing = [name for name in (*needed, *([CARD_NAME] if members else [])) if name not in sizes]
    if missing:
        raise BadInput(
            f"{text}: no run of this program, it lacks {', '.join(missing)}; export-head writes such folders"
        )
    own = [name for name in sizes if name in _LARGEST or re.fullmatch(r"[\w.-]+\.safetensors", name)]
    wanted = sorted({*own, *(needed if members else [])})
    problems = []
    for name in wanted:
        size, largest = sizes[name], _LARGEST.get(name.rpartition("/")[2], _LARGEST_WEIGHTS)
        if size is None or not 0 <= size <= largest:
            found = "an unknown number of" if size is None else f"{size:,}"
            problems.append(f"{name}: at most {largest:,} bytes expected, found {found}")
    way_out = "Nothing was fetched. Fetch it by other means if you trust it, and pass its folder."
    refuse(BadInput, f"{text}: holds files of unreasonable size:", problems, way_out)
    return wanted


def _members(sizes: Iterable[str]) -> list[str]:
    """Return the folders, a slash behind, that hold a run or what is left of one."""
    found = (re.fullmatch(f"({_MEMBER})(?:{re.escape(CONFIG_NAME)}|{re.escape(HEAD_NAME)})", name) for name in sizes)
    return sorted({match[1] for match in found if match})


def _fetched_before(hub: Any, reference: Reference) -> Path | None:
    """Return the folder that an earlier fetch left whole, if there is one."""
    names = (CONFIG_NAME, HEAD_NAME, CARD_NAME)
    found = [hub.try_to_load_from_cache(reference.repository, name, revision=reference.revision) for name in names]
    config, head, card = (Path(path) if isinstance(path, str) else None for path in found)
    if config or head:
        return config.parent if config and head else None
    return card.parent if card and any(card.parent.glob(f"*/{CONFIG_NAME}")) else None


def _check_weights(text: str, folder: Path) -> None:
    """Raise `BadInput` unless each config.json is a run's whose backbone's weights can be had: known ones, or there."""
    for path in [folder / CONFIG_NAME] if (folder / CONFIG_NAME).is_file() else folder.glob(f"*/{CONFIG_NAME}"):
        _check_weights_of(text, folder, path)


def _check_weights_of(text: str, folder: Path, path: Path) -> None:
    config = read_json(path, largest=_LARGEST[CONFIG_NAME])
    if "run_format_version" not in config:
        raise BadInput(f"{text}: no run of this program, by its {CONFIG_NAME}; export-head writes such folders")
    source = str(config.get("weights_source"))
    up = "" if path.parent == folder else r"\.\./"  # members share those of the repository
    for one in source.split(PLUS):
        beside = re.fullmatch(rf"{up}[\w.-]+\.safetensors", one) and (path.parent / one).is_file()
        if one in NO_FILES or beside:
            continue
        raise BadInput(
            f"{text}: its backbone's weights are in {printable(source)}, which is not in the repository; "
            "whoever uploaded it has to upload what export-head writes"
        )


@contextlib.contextmanager
def _hub_errors(hub: Any, text: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into this project's errors, which name the repository and the way out."""
    errors = hub.errors
    unreadable: tuple[type[Exception], ...] = (*_transport_errors(hub), ValueError, KeyError, TypeError)
    try:
        yield
    except (BadInput, InvalidSettings, StorageError):
        raise
    except errors.GatedRepoError as error:
        page = f"https://huggingface.co/{reference_of(text).repository}"
        raise BadInput(f"{text}: gated; ask for access at {page}, then log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise InvalidSettings(f"{text}: no such repository, or a private one: `hf auth login` opens yours") from error
    except errors.RevisionNotFoundError as error:
        raise InvalidSettings(f"{text}: the repository has no such revision; leave @... out for main") from error
    except errors.HFValidationError as error:
        raise InvalidSettings(f"{text}: {first_line(error).rstrip('.')}") from error
    except unreadable as error:
        reason = first_line(error).rstrip(".")
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 404):  # by a mirror
            raise InvalidSettings(f"{text}: no such repository, or a private one: {reason}") from error
        if getattr(error, "errno", None) in _REFUSED:
            raise StorageError(f"{text}: cannot be stored in huggingface_hub's cache: {reason}") from error
        raise BadInput(
            f"{text}: cannot be fetched: {reason}. Run the same command again with a network "
            "that reaches the Hub, or bring the folder by other means and pass its path."
        ) from error


@contextlib.contextmanager
def _quiet(hub: Any) -> Iterator[None]:
    """Keep huggingface_hub's bars, log and warnings from the user: what matters is raised."""
    log, utils = logging.getLogger("huggingface_hub"), hub.utils
    level, bars = log.level, not utils.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL)
        utils.disable_progress_bars()
        try:
            yield
        finally:
            log.setLevel(level)
            if bars:
                utils.enable_progress_bars()
