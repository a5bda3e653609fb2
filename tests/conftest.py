"""What holds for every test."""

import os
import zlib

import pytest
from hypothesis import HealthCheck, settings

LONG = bool(os.environ.get("SPARSEC_LONG"))  # only there are examples drawn anew, so that no change fails by chance
settings.register_profile("busy", deadline=None, derandomize=not LONG,
                          suppress_health_check=[HealthCheck.too_slow])  # others compile
settings.load_profile("busy")


def pytest_collection_modifyitems(config, items):
    """Of a crossing marked `sampled(share)`, keep a fixed share; all of it if SPARSEC_LONG is set or one is named."""
    if LONG or any("[" in argument for argument in config.args):
        return
    left_out = [item for item in items if (mark := item.get_closest_marker("sampled"))
                and zlib.crc32(item.name.encode()) % 1000 >= 1000 * mark.args[0]]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What is measured is kept apart from the user's; other processes inherit this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SPARSEC_RATES", "shipped")  # plans that do not depend on the machine
        yield
