"""Black-box tests of the platform on whatever cluster the current context names."""

import pytest

# So that a failed check there shows its numbers.
pytest.register_assert_rewrite("tests.e2e.deployed")
