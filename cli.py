"""The command line: its commands, and this project's errors as one message and an exit status.

Nothing heavy is imported before a command runs.
"""

import contextlib
import errno
import os
import signal
from typing import Any, NoReturn

import click

from commandline import data, heads, pages, paper, store
from commandline.begin import announced
from commandline.options import tell
from featcache.base.errors import FeatcacheError, ResourceError, StorageError, check_platform, ran_out_of_memory

_MORE_MEMORY = "free some, raise a limit of the address space (ulimit -v), or use a smaller --batch-size"


class _Commands(click.Group):
    """Turns this project's errors into one message and the exit status of their class."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            check_platform()
        except FeatcacheError as error:
            _fail(f"error: {error}", error.exit_code)
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        # Threads that spin while they wait stop a busy machine: with one of two cores taken, an epoch took 5.2 s
        # instead of 0.88 s. Read by OpenMP when torch is imported, so it is set before.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        before = signal.signal(signal.SIGTERM, _raise_terminated)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("interrupted; run the same command again to go on", 130)
        except FeatcacheError as error:
            _fail(f"error: {error}", error.exit_code)
        except Exception as error:
            if ran_out_of_memory(error):
                reason = f" ({' '.join(str(error).split())})" if str(error) else ""
                _fail(f"error: out of memory{reason}; {_MORE_MEMORY}", ResourceError.exit_code)
            if not isinstance(error, OSError) or error.errno == errno.EPIPE:
                raise  # a bug; or the reader of our output has gone, and click ends quietly
            _fail(f"error: {error}", StorageError.exit_code)
        finally:
            signal.signal(signal.SIGTERM, before)


def _fail(message: str, exit_code: int) -> NoReturn:
    with contextlib.suppress(OSError):  # the exit status is said even where the message cannot be
        tell(message)
    raise SystemExit(exit_code)


def _raise_terminated(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
    _fail("terminated; run the same command again to go on", 128 + number)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="amnet-featcache", prog_name="amnet")
def main() -> None:
    """Predict human judgements of images, such as memorability, from frozen features.

    Extract features once (extract), fit attention heads to them in minutes (train-head), evaluate them in
    batch (score-cache), and use them on new images (predict). Exit status: 0 done, 1 a bug, 2 usage,
    3 bad input data, 4 cache incomplete, 5 corrupt file, 6 fingerprint or version mismatch, 7 locked,
    8 storage, 9 memory, device or network, 10 hostile file refused, 130 or 143 interrupted.
    """


for _module in (data, store, heads, paper, pages):
    for _command in vars(_module).values():
        if isinstance(_command, click.Command):
            main.add_command(announced(_command))


if __name__ == "__main__":
    main()
