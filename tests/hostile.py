"""A pickle that executes something where it is loaded without care."""

from pathlib import Path


class Hostile:
    """An object whose pickle makes an empty file, the canary, when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)
