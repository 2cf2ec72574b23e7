"""The errors both packages raise, one class for each exit status of the command line.

A message says what, where (path, row or line), expected, found, and what to do next.
"""

import errno
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Self, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")
MOST_PROBLEMS_SHOWN = 1000
_NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc")  # of PyTorch, on a CPU and on GPUs
# in a limited address space, what the loader of libraries, Python, the kernel and oneDNN say; elsewhere it means else
_UNDER_A_LIMIT = (
    "failed to map segment", "start new thread", "Resource temporarily unavailable", "could not create a primitive",
)  # fmt: skip


class FeatcacheError(Exception):
    """Base of every error this project raises on purpose; `exit_code` is the command's exit status."""

    exit_code = 1


class InvalidSettings(FeatcacheError, ValueError):
    """An option or argument that cannot be used (exit 2)."""

    exit_code = 2


class BadInput(FeatcacheError, ValueError):
    """Input data that cannot be used: split files, images, scores (exit 3)."""

    exit_code = 3


class BadImage(BadInput):
    """One image that cannot be read; `reason` is a short fixed word, such as 'truncated'."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class CacheIncomplete(FeatcacheError, LookupError):
    """A cache, or a row of it, that is not there yet (exit 4)."""

    exit_code = 4


class CorruptFile(FeatcacheError, ValueError):
    """A stored file that does not hold what it should (exit 5)."""

    exit_code = 5


class Mismatch(FeatcacheError, ValueError):
    """A fingerprint, settings or version that differs from the one asked for (exit 6)."""

    exit_code = 6


class Locked(FeatcacheError, BlockingIOError):
    """Another process is writing here (exit 7)."""

    exit_code = 7


class StorageError(FeatcacheError, OSError):
    """A disk that is full, read-only or failing (exit 8)."""

    exit_code = 8


class ResourceError(FeatcacheError, MemoryError):
    """Memory, a device or a network that is missing or exhausted (exit 9)."""

    exit_code = 9

    def __new__(cls, *args: object) -> Self:
        """Make one; a Dask worker's errors are unpickled by this, which MemoryError's own refuses for its children."""
        return Exception.__new__(cls, *args)


class HostileFile(FeatcacheError, ValueError):
    """A file that tries to do more than hold data (exit 10)."""

    exit_code = 10


def check_platform() -> None:
    """Raise `ResourceError` on Windows, which has no locks of the kind that a cache is written under."""
    system: str = sys.platform
    if system == "win32":
        raise ResourceError("this program needs Linux or macOS; on Windows, run it in WSL (wsl --install)")


def ran_out_of_memory(error: BaseException) -> bool:
    """Say whether memory had run out where error was raised, whatever its class.

    Few libraries raise MemoryError: PyTorch raises RuntimeError, the loader of libraries ImportError. Where the address
    space is limited (`ulimit -v`), CPython 3.11 was seen to raise a bare SystemError during imports.
    """
    text = str(error)
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, SystemError) or any(sign in text for sign in _UNDER_A_LIMIT):
        import resource  # which Windows lacks, where this module is imported to say so

        return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    if isinstance(error, RuntimeError | ImportError):  # static TLS is a fault of the order in which libraries load
        return any(sign in text for sign in _NO_MEMORY) and "static TLS" not in text
    return isinstance(error, MemoryError)


def printable(text: str) -> str:
    """Return text from a file, such as a tensor's name, with all that a terminal would obey written out: \\x1b."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number of things in words: '1 image', '2,222 images'; several is the plural where it is not one + s."""
    return f"1 {one}" if number == 1 else f"{number:,} {several or one + 's'}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, as `printable`; the name of its class if it says nothing."""
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])


def list_problems(title: str, problems: Iterable[str], way_out: str, *, total: int = 0) -> str:
    """Return one message that holds every problem on a line of its own, the first thousand in full.

    total is how many there are, where problems are but the first of them.
    """
    found = list(problems)
    shown = [f"  {problem}" for problem in found[:MOST_PROBLEMS_SHOWN]]
    more = max(total, len(found)) - len(shown)
    if more > 0:
        shown.append(f"  ... and {more:,} more")
    return "\n".join([title, *shown, way_out])


def refuse(kind: type[FeatcacheError], title: str, problems: Sequence[str], way_out: str, *, total: int = 0) -> None:
    """Raise an error of that kind that lists every problem, if there are any; total as in `list_problems`."""
    if problems:
        raise kind(list_problems(title, problems, way_out, total=total))


def collected(call: Callable[[Item], Found], items: Iterable[Item]) -> tuple[list[Found], list[FeatcacheError]]:
    """Return what a call gives for each item, and the errors of those for which it raises one of this project's."""
    found: list[Found] = []
    errors: list[FeatcacheError] = []
    for item in items:
        try:
            found.append(call(item))
        except FeatcacheError as error:
            errors.append(error)
    return found, errors


def join_errors(errors: Sequence[FeatcacheError], title: str, way_out: str) -> FeatcacheError:
    """Return the only error as it is; of several, one of the first's exit status that lists them all."""
    if len(errors) == 1:
        return errors[0]
    kind = BadInput if isinstance(errors[0], BadImage) else type(errors[0])
    return kind(list_problems(title, dict.fromkeys(str(error).replace("\n", "\n  ") for error in errors), way_out))
