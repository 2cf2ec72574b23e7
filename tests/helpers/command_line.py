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


def told(result: Result) -> str:
    """Return what a command printed on stderr behind its first line, which says what it begins with."""
    first, _, rest = result.stderr.partition("\n")
    assert first.partition(": ")[0] in main.commands, result.stderr
    return rest


def interruptible() -> None:
    """Take SIGINT again, in a process before it starts: those of a shell's background ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
