"""The door: what `featcache` and `head` give themselves, what docs/api.md describes, and what the guides import."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import featcache
import head
from tests.helpers.tiny import ROOT

HEAVY = ("torch", "numpy", "h5py", "PIL")
DOORS = {door.__name__: door for door in (featcache, head)}
each_door = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)


def lazy_homes(door: ModuleType) -> dict[str, tuple[str, str]]:
    """Return module and name there of each name of a door, as it finds them at run time."""
    return {name: (module, name) for name, module in door._HOMES.items()}


def typed_homes(door: ModuleType) -> dict[str, tuple[str, str]]:
    """Return the same as a type checker is told."""
    [block] = [node for node in ast.parse(Path(str(door.__file__)).read_text()).body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: (str(node.module), alias.name) for node in imports for alias in node.names}


@each_door
def test_the_api_document_describes_exactly_the_names_of_the_door(door: ModuleType) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    described = re.findall(r"(?m)^\.\. auto\w+:: (\S+)$", text)
    assert {name.partition(".")[0] for name in described} == set(DOORS)
    own = [name for name in described if name.startswith(f"{door.__name__}.")]
    assert sorted(own) == sorted(f"{door.__name__}.{name}" for name in door.__all__)


@each_door
def test_every_name_of_the_door_is_what_its_home_calls_so(door: ModuleType) -> None:
    assert set(lazy_homes(door)) == set(door.__all__)
    assert set(dir(door)) >= set(door.__all__)
    for name, (module, attribute) in lazy_homes(door).items():
        assert getattr(door, name) is getattr(importlib.import_module(module), attribute)
        assert callable(getattr(door, name)), name


@each_door
def test_type_checkers_are_told_of_the_same_names(door: ModuleType) -> None:
    assert typed_homes(door) == lazy_homes(door)
    assert (Path(str(door.__file__)).parent / "py.typed").is_file()


@each_door
def test_no_module_of_a_package_is_called_as_a_name_of_its_door(door: ModuleType) -> None:
    # importing it would put the module in the name's place
    taken = [name for name in door.__all__ if importlib.util.find_spec(f"{door.__name__}.{name}") is not None]
    assert taken == []


@each_door
def test_a_name_that_is_not_there_is_an_attribute_error(door: ModuleType) -> None:
    with pytest.raises(AttributeError, match=rf"^module '{door.__name__}' has no attribute 'nonsense'$"):
        _ = door.nonsense


@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_the_guides_import_by_the_door_alone(document: str) -> None:
    assert len(imports_by_the_door(document)) >= 2


def test_a_model_card_imports_by_the_door_alone() -> None:
    assert imports_by_the_door("head/share/assets/card.txt") == [("head", "Predictor")]


def imports_by_the_door(document: str) -> list[tuple[str, str]]:
    """Return what a document imports of ours, as (module, names); all of it must be names of the door."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found: list[tuple[str, str]] = re.findall(
        r"(?m)^ *(?:from|import) ((?:featcache|head)\b\S*)(?: import (.+))?$", text
    )
    for module, names in found:
        assert module in DOORS, f"{document}: {module}"
        assert {name.strip() for name in names.split(",")} <= set(DOORS[module].__all__), f"{document}: {names}"
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import featcache, head; dir(featcache), dir(head); featcache.FeatcacheError, head.TrainSettings",
        "import cli; cli.main(['--help'], standalone_mode=False)",
    ],
    ids=["import", "help"],
)
def test_what_is_heavy_is_not_loaded_before_it_is_asked_for(code: str) -> None:
    show = f"import json, sys; print(); print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{code}; {show}"], cwd=ROOT, capture_output=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
