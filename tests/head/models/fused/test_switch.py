"""The switch between fused and plain: on by default, off in a block, in its own thread alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from head.models.amnet import AMNetHead, HeadShape
from head.models.fused.switch import fused_is_on, fused_off


def test_it_is_on_but_in_a_block_that_turns_it_off() -> None:
    assert fused_is_on()
    with fused_off():
        assert not fused_is_on()
        with fused_off():
            assert not fused_is_on()
        assert not fused_is_on()
    assert fused_is_on()


def test_an_error_in_the_block_turns_it_on_again() -> None:
    with pytest.raises(ZeroDivisionError), fused_off():
        1 / 0  # noqa: B018
    assert fused_is_on()


def test_other_threads_do_not_see_it() -> None:
    with ThreadPoolExecutor(1) as pool, fused_off():
        assert pool.submit(fused_is_on).result()


@pytest.mark.parametrize("attention", [True, False])
def test_a_head_takes_what_is_fused_only_where_it_is_on(attention: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    head, features = AMNetHead(HeadShape(2, 3, attention=attention)).eval(), torch.randn(5, 2, 3)
    monkeypatch.setattr(AMNetHead, "_fused_steps", None)
    with fused_off():
        assert head(features).maps.shape == (5, 3, 2)
    with pytest.raises(TypeError, match="not callable"):
        head(features)
