"""A whole small night, once for all tests that look at what it leaves behind."""

import pytest
from small_nights import Small, play


@pytest.fixture(scope="session")
def small_night(tmp_path_factory) -> Small:
    path = tmp_path_factory.mktemp("night") / "run"
    ears, seconds = play(path)
    return Small(path, seconds, ears.heard, ears.phases)
