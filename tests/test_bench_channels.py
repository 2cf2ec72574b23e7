"""The measurement of fewer channels runs and prints one JSON line; its figures are for people, not for assertions."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import bench.channels
import bench.features
from head.data.resident import Resident


@pytest.mark.parametrize("resident", ["no", "yes"])
def test_rates_of_all_channels_and_of_fewer_are_compared(resident: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.features, "POSITIONS", 9)
    monkeypatch.setattr(bench.features, "CHANNELS", 8)
    words = ["--channels", "3", "--images", "12", "--batch", "4", "--rounds", "1", "--resident", resident]
    held, own = [], Resident.__init__
    monkeypatch.setattr(Resident, "__init__", lambda self, *given: (held.append(self), own(self, *given))[1])
    done = CliRunner().invoke(bench.channels.main, words, catch_exceptions=False)
    found = json.loads(done.stdout)
    assert set(found["images_per_second"]) == {"all", "channels", "derived"}
    assert len(held) == (2 if resident == "yes" else 0)  # projected features are kept in any case
    rate = found["images_per_second"]
    assert found["rounds_over_all"] == [pytest.approx(rate["channels"] / rate["all"], rel=0.02)]
    assert found["lamem_epoch_seconds_extrapolated"]["channels"] > 45_000 / rate["channels"] * 0.99


def test_rho_of_fewer_channels_is_compared_by_seed(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def rho(cache: object, home: Path, *, seed: int, channels: int, **settings: Any) -> float:
        asked.append({"seed": seed, "channels": channels, **settings})
        return 0.5 + 0.01 * seed - (0.002 if channels else 0)

    monkeypatch.setattr(bench.channels, "mean_rho", rho)
    words = ["--cache", str(tiny_cache), "--channels", "7", "--seeds", "3", "--layer", "layer3", "--epochs", "2"]
    found = json.loads(CliRunner().invoke(bench.channels.main, words, catch_exceptions=False).stdout)
    assert (found["mean_difference"], found["half_width_95"]) == (-0.002, 0)
    assert {one["channels"] for one in asked} == {0, 7}
    assert asked[0] == {"seed": 0, "channels": 0, "layers": ("layer3",), "epochs": 2}
