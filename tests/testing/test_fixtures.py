"""The shipped fixtures."""

from __future__ import annotations

from collections.abc import Callable

from vivace.testing.fake_llm import FakeModel
from vivace.testing.fixtures import fake_model, fake_models

__all__ = ["fake_model", "fake_models"]


def test_one(fake_model: FakeModel) -> None:
    assert fake_model.statistics().requests == 0


def test_several(fake_models: Callable[..., FakeModel]) -> None:
    one, two = fake_models(dim=8), fake_models(mode="scripted")
    assert one.url != two.url
