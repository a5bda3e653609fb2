"""What holds for every test."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # others compile
settings.load_profile("busy")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What is measured is kept apart from the user's; other processes inherit this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SPARSEC_RATES", "shipped")  # plans that do not depend on the machine
        yield
