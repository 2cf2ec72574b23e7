"""What executes where it is taken without care: a pickle that is loaded, and names that become markup."""

from pathlib import Path

MARKUP = ("</script><script>window.hit=1</script>", "\"'><img src=x onerror=window.hit=1>", "a\u2028b${1}`&amp;")


class Hostile:
    """An object whose pickle makes an empty file, the canary, when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)
