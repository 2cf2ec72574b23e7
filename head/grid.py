"""From lists of values to the trainings they ask for: every combination once, each under a name of its own.

Nothing here knows of caches, splits or folders.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featcache.base.commands import command
from featcache.base.errors import InvalidSettings, list_problems
from head.settings import TrainSettings, option_of, problems_of, settings_of, text_of, used_fields


@dataclass(frozen=True)
class Point:
    """One training of a grid, for any split: its settings, and the name of its runs."""

    name: str
    settings: TrainSettings


def given_values(
    *, no_attention: bool, layers: tuple[str, ...], members: tuple[str, ...] = (), **options: Any
) -> dict[str, Sequence[Any]]:
    """Return the values of every field that was given: of options those that are not None, a single one as well."""
    if no_attention and options["attention"]:
        raise InvalidSettings("--no-attention is --attention off; leave one out")
    given = {name: values if isinstance(values, tuple) else (values,) for name, values in options.items()}
    given |= {"attention": (False,)} if no_attention else {}
    if twice := [layer for layer in dict.fromkeys(layers) if layers.count(layer) > 1]:
        raise InvalidSettings(f"--layer {', '.join(twice)}: named twice; name each layer once")
    if "all" in layers and len(layers) > 1:
        raise InvalidSettings("--layer all names every layer; leave the others out")
    if twice := [name for name in dict.fromkeys(members) if members.count(name) > 1]:
        raise InvalidSettings(f"--member {', '.join(twice)}: named twice; name each head once")
    given |= {"layers": (layers,)} if layers else {}
    given |= {"members": (members,)} if members else {}
    return {name: values for name, values in given.items() if values != (None,)}


def grid(given: Mapping[str, Sequence[Any]], *, name: str | None = None) -> list[Point]:
    """Return the distinct combinations of the values given for some fields of `TrainSettings`, in their order.

    Fields not given have their recipe's value. What a head does not use keeps its default, so a combination that
    makes no sense is none of its own: amnet and ridge with 2 and 3 steps are three trainings. Names are those of
    `TrainSettings.default_name`; with name and several points, name and what varies among them.
    Raises `InvalidSettings` that lists all values that cannot be, and all fields that no head of the grid uses.
    """
    chosen = [_used(dict(zip(given, values, strict=True))) for values in itertools.product(*given.values())]
    impossible = [
        problem for field, values in given.items() for value in values for problem in problems_of({field: value})
    ]
    problems = [*_idle(given, chosen), *_distinct(impossible)]
    if problems:
        title, way_out = "settings of training that cannot be:", "Change them or leave them out; nothing was trained."
        raise InvalidSettings(problems[0] if len(problems) == 1 else list_problems(title, problems, way_out))
    settings = {settings_of(**values): values for values in chosen}
    if name is None:
        return [Point(one.default_name(), one) for one in settings]
    varied = [field for field, values in given.items() if len(_distinct(values)) > 1]
    return [
        Point(",".join([name, *(text_of(field, one) for field in varied if field in values)]), one)
        for one, values in settings.items()
    ]


def _used(values: dict[str, Any]) -> dict[str, Any]:
    decide = {name: values.get(name, getattr(TrainSettings, name)) for name in ("attention", "steps")}
    used = used_fields(values.get("head", TrainSettings.head), **decide)
    return {field: value for field, value in values.items() if field in used}


def _idle(given: Mapping[str, Sequence[Any]], chosen: Sequence[dict[str, Any]]) -> Iterable[str]:
    idle = [option_of(field) for field in given if not any(field in values for values in chosen)]
    if idle:
        kinds = _distinct(_kind(values) for values in chosen)
        yield f"{', '.join(idle)}: of no effect on {' or '.join(kinds)}; leave {'it' if len(idle) == 1 else 'them'} out"


def _kind(values: dict[str, Any]) -> str:
    head = command("--head", values.get("head", TrainSettings.head))
    without = "" if values.get("attention", True) else " without attention"
    return f"{head}{without}{' in one step' if values.get('steps') == 1 else ''}"


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
