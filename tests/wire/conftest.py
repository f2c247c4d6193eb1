"""What the tests of a wire's cores share."""

import pytest

from tests.support.wire.redir import Host


@pytest.fixture
def host() -> Host:
    """A usbredir device side that has a device in use."""
    return Host()
