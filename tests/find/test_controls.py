"""The controls of a weight: the nearest of its matrix in magnitude."""

import pytest
import torch

from swlottery.find.controls import nearest


@pytest.mark.parametrize("kinds", [3, 40, 10**6])
@pytest.mark.parametrize("count", [1, 7, 300, 5000])
def test_thenearest_are_those_of_a_full_stable_sort(kinds, count):
    """Quantised matrices hold few values, many times each: the place then decides."""
    torch.manual_seed(kinds)
    sizes = torch.randint(kinds, (40, 50)) / 7.0
    wanted = torch.sort((sizes - sizes[3, 4]).abs().flatten(), stable=True).indices[:count].tolist()
    assert nearest(sizes, sizes[3, 4], count) == wanted
