"""What environment tests share: a cache of their own, in which each game is made once."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("AGENTGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()
