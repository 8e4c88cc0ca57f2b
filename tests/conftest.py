"""The toolkit of the tests is the CPU device of this installation, and it is strict whatever the environment says."""

import pytest

import acl_binding
import moe_native


@pytest.fixture(scope="session")
def acl_library():
    return acl_binding.open(moe_native.ascend_home())


@pytest.fixture
def acl_mode():
    return "strict"
