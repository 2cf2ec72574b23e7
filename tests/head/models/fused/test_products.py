"""Products of matrices are in bfloat16 where it was asked for, or where the hardware multiplies it."""

import pytest
import torch

from head.models.fused.products import autocast_type, resolve_products

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_asked_for_is_done(precision: str) -> None:
    assert [resolve_products(precision, device) for device in (CPU, CUDA)] == [precision, precision]


@pytest.mark.parametrize(("there", "products"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bfloat16_where_the_hardware_has_it(
    there: bool, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featcache.backbones.execution.has_bfloat16", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: there)
    assert resolve_products("auto", CPU) == products
    assert resolve_products("auto", CUDA) == products
    assert resolve_products("auto", torch.device("mps")) == "fp32"


def test_the_type_of_autocast_counts_where_it_is_on() -> None:
    assert autocast_type("cpu", torch.float64) == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert autocast_type("cpu", torch.float64) == torch.bfloat16
