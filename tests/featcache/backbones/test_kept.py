"""What OpenVINO compiled is kept for the next process, computes the same to the bit, and is replaced where damaged."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch

from featcache.backbones import kept, runner
from featcache.backbones.backbone import build_backbone
from featcache.backbones.execution import has_openvino

pytestmark = pytest.mark.skipif(not has_openvino(), reason="needs OpenVINO")
PIXELS = (torch.arange(2 * 32 * 32 * 3) % 251).to(torch.uint8).reshape(2, 32, 32, 3)


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each network that is converted."""
    export, done = torch.export.export, []

    def counted(*arguments: Any) -> Any:
        done.append("converted")
        return export(*arguments)

    monkeypatch.setattr(runner.torch.export, "export", counted)
    return done


def failing_as_without_a_home(path: Path) -> NoReturn:
    raise RuntimeError("Could not determine home directory.")


def features(layer: str = "layer1", seed: int = 0) -> torch.Tensor:
    asked = {"weights": "random", "image_size": 32, "seed": seed, "precision": "fp32", "batch_size": 2, "threads": 1}
    return build_backbone("resnet18", layers=[layer], runtime="openvino", **asked)(PIXELS)[layer]


def test_a_network_is_converted_once_and_computes_the_same(conversions: list[str]) -> None:
    first = features()
    assert torch.equal(features(), first)
    assert conversions == ["converted"]
    assert len(list(kept.kept_folder().iterdir())) == 1


def test_another_layer_or_other_weights_are_another_network(conversions: list[str]) -> None:
    different = [features(), features("conv1"), features(seed=1)]
    assert len(conversions) == len(different)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:100], lambda data: b"x" + data[1:]])
def test_a_damaged_file_is_replaced(conversions: list[str], damage: Callable[[bytes], bytes]) -> None:
    first = features()
    (path,) = kept.kept_folder().iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert torch.equal(features(), first)
    assert len(conversions) == 2
    features()
    assert len(conversions) == 2


def test_where_nothing_can_be_written_it_is_converted_each_time(
    conversions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert torch.equal(features(), features())
    assert len(conversions) == 2


def test_what_another_user_may_have_written_is_not_read(conversions: list[str]) -> None:
    features()
    (path,) = kept.kept_folder().iterdir()
    path.chmod(0o666)
    features()
    assert len(conversions) == 2


def test_a_file_whose_time_cannot_be_set_is_read(conversions: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    features()
    monkeypatch.setattr(os, "utime", failing)
    features()
    assert conversions == ["converted"]


def test_a_user_without_a_home_converts_each_time(conversions: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", failing_as_without_a_home)
    assert torch.equal(features(), features())
    assert len(conversions) == 2


def test_an_address_in_the_text_of_a_network_is_no_part_of_its_name() -> None:
    core: Any = SimpleNamespace(get_property=lambda device, name: name)

    class Odd(torch.nn.Module):
        def extra_repr(self) -> str:
            return object.__repr__(self)

    one, other = Odd(), Odd()
    assert repr(one) != repr(other)
    assert kept._key(one, core, {}, "") == kept._key(other, core, {}, "")


def test_the_longest_unused_go_where_all_take_too_much(conversions: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    features()
    (first,) = kept.kept_folder().iterdir()
    size = first.stat().st_size
    monkeypatch.setattr(kept, "MOST_BYTES", 2 * size + size // 2)
    features(seed=1)
    features()  # used again
    features(seed=2)
    assert len(list(kept.kept_folder().iterdir())) == 2
    assert first.is_file()
    monkeypatch.setattr(kept, "MOST_BYTES", size)
    features(seed=3)
    assert len(list(kept.kept_folder().iterdir())) == 2  # too large to be kept


def test_a_relative_cache_home_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert kept.kept_folder() == tmp_path / ".cache/amnet/openvino"
