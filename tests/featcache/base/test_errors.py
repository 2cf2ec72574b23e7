"""Messages list every problem; each error has its exit status and survives the way between two processes."""

import copyreg
import errno
import pickle
import resource

import pytest
import tblib.pickling_support

from featcache.base import errors
from featcache.base.errors import (
    BadImage,
    FeatcacheError,
    counted,
    join_errors,
    list_problems,
    printable,
    ran_out_of_memory,
)


def test_up_to_twenty_problems_are_listed_in_full() -> None:
    problems = [f"line {n}: bad" for n in range(20)]
    message = list_problems("2 files:", iter(problems), "Mend them.")
    assert message.splitlines() == ["2 files:", *(f"  {problem}" for problem in problems), "Mend them."]


def test_of_very_many_problems_a_thousand_and_the_number_of_the_others_are_listed() -> None:
    lines = list_problems("t", [f"p{n}" for n in range(1257)], "w").splitlines()
    assert lines[1:1001] == [f"  p{n}" for n in range(1000)]
    assert lines[1001:] == ["  ... and 257 more", "w"]


def test_only_problems_are_refused_and_all_of_them_at_once() -> None:
    errors.refuse(errors.Mismatch, "a: differs:", [], "Take another.")
    with pytest.raises(errors.Mismatch) as caught:
        errors.refuse(errors.Mismatch, "a: differs:", ["x", "y"], "Take another.")
    assert str(caught.value) == "a: differs:\n  x\n  y\nTake another."


@pytest.mark.parametrize(
    ("error", "limited", "expected"),
    [
        (MemoryError(), False, True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), False, True),
        (OSError(errno.ENOSPC, "No space left on device"), True, False),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"), False, True),
        (RuntimeError("can't start new thread"), True, True),
        (RuntimeError("can't start new thread"), False, False),
        (RuntimeError("std::bad_alloc"), False, True),
        (RuntimeError("CUDA error: out of memory"), False, True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"), False, True),
        (RuntimeError("Exception from core.cpp:117:\nResource temporarily unavailable"), True, True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True, True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), False, False),
        (ImportError("libgomp.so.1: cannot allocate memory in static TLS block"), True, False),
        (ImportError("No module named 'timm'"), True, False),
        (SystemError("error return without exception set"), True, True),
        (SystemError("error return without exception set"), False, False),
        (RuntimeError("could not create a primitive"), True, True),
        (RuntimeError("could not create a primitive"), False, False),
        (ValueError("can't allocate memory"), True, False),
    ],
    ids=repr,
)
def test_what_ran_out_of_memory_is_known_whatever_its_class(
    error: Exception, limited: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1 << 30 if limited else resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda number: (limit, limit))
    assert ran_out_of_memory(error) == expected


@pytest.mark.parametrize(
    ("name", "exit_code", "builtin"),
    [
        ("InvalidSettings", 2, ValueError),
        ("BadInput", 3, ValueError),
        ("BadImage", 3, errors.BadInput),
        ("CacheIncomplete", 4, LookupError),
        ("CorruptFile", 5, ValueError),
        ("Mismatch", 6, ValueError),
        ("Locked", 7, BlockingIOError),
        ("StorageError", 8, OSError),
        ("ResourceError", 9, MemoryError),
        ("HostileFile", 10, ValueError),
    ],
)
def test_each_error_has_its_exit_status_and_its_builtin(name: str, exit_code: int, builtin: type[Exception]) -> None:
    kind = getattr(errors, name)
    assert kind.exit_code == exit_code
    assert issubclass(kind, FeatcacheError)
    assert issubclass(kind, builtin)


def _subclasses(kind: type[FeatcacheError]) -> set[type[FeatcacheError]]:
    return {kind}.union(*(_subclasses(child) for child in kind.__subclasses__()))


@pytest.mark.parametrize(
    "kind", sorted(_subclasses(FeatcacheError) - {BadImage}, key=lambda kind: kind.__name__), ids=lambda k: k.__name__
)
def test_an_error_survives_pickling(kind: type[FeatcacheError]) -> None:
    """A worker process sends its error to the caller as a pickle."""
    back = pickle.loads(pickle.dumps(kind("photo.jpg: what, where, what next")))
    assert type(back) is kind
    assert str(back) == "photo.jpg: what, where, what next"


@pytest.mark.parametrize(
    "kind", sorted(_subclasses(FeatcacheError) - {BadImage}, key=lambda kind: kind.__name__), ids=lambda k: k.__name__
)
def test_an_error_survives_the_pickling_of_a_cluster(
    kind: type[FeatcacheError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(copyreg.dispatch_table, kind, copyreg.dispatch_table.get(kind))  # put back afterwards
    tblib.pickling_support.install(kind("x"))  # as a Dask worker does with an error before it sends it
    back = pickle.loads(pickle.dumps(kind("photo.jpg: what, where, what next")))
    assert type(back) is kind
    assert str(back) == "photo.jpg: what, where, what next"


def test_several_errors_become_one_of_the_first_ones_exit_status() -> None:
    first, second = errors.Locked("a: held"), errors.BadInput("b: two\nlines")
    assert join_errors([first], "title", "way out") is first
    joined = join_errors([first, second, first], "2 runs:", "Mend them.")
    assert type(joined) is errors.Locked
    assert str(joined) == "2 runs:\n  a: held\n  b: two\n  lines\nMend them."
    assert type(join_errors([BadImage("torn", "x"), first], "t", "w")) is errors.BadInput


def test_a_bad_image_survives_pickling_with_its_reason() -> None:
    back = pickle.loads(pickle.dumps(BadImage("truncated", "12 bytes missing")))
    assert (back.reason, back.detail, str(back)) == ("truncated", "12 bytes missing", "truncated: 12 bytes missing")


def test_problems_that_are_but_the_first_of_many_say_how_many_more_there_are() -> None:
    assert list_problems("t", ["p1", "p2"], "w", total=1257).splitlines() == [
        "t",
        "  p1",
        "  p2",
        "  ... and 1,255 more",
        "w",
    ]


def test_counts_are_in_words() -> None:
    assert [counted(number, "image") for number in (0, 1, 2222)] == ["0 images", "1 image", "2,222 images"]
    assert counted(2, "query", "queries") == "2 queries"


def test_printable_writes_out_what_a_terminal_would_obey_and_nothing_else() -> None:
    assert printable("conv.weight é 図 \\ '\"") == "conv.weight é 図 \\ '\""
    assert printable("\x1b[2J\r\n\x9b\u202e\udc80") == r"\x1b[2J\r\n\x9b\u202e\udc80"
