"""What the tests of the watch share with those of the lottery."""

from lottery.fixtures import cache, text  # noqa: F401 (fixtures)
