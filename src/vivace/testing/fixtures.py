"""pytest fixtures: write `pytest_plugins = ["vivace.testing.fixtures"]` into a `conftest.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from vivace.testing.fake_llm import FakeModel


@pytest.fixture
def fake_model() -> Iterator[FakeModel]:
    """A fake model server that answers from the documents."""
    with FakeModel() as fake:
        yield fake


@pytest.fixture
def fake_models() -> Iterator[Callable[..., FakeModel]]:
    """Makes fake model servers, with the arguments of `FakeModel`; all stop after the test."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> FakeModel:
            return stack.enter_context(FakeModel(**arguments))

        yield make
