"""The command line as a test calls it."""

import signal

from click.testing import CliRunner, Result

from cli import main


def amnet(*arguments: object, status: int = 0) -> Result:
    """Run a command and check its exit status."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.exit_code, result.stdout, result.stderr, result.exception)
    if result.exception is not None:
        assert isinstance(result.exception, SystemExit), result.exception
    return result


def interruptible() -> None:
    """Take SIGINT again, in a process before it starts: those of a shell's background ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
