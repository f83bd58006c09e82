"""A tiny model in which one weight of a down-projection grows: the same network at eight sizes of that weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from odd import model
from planted import plant_input, plant_weight
from swlottery.find import probe as probes
from swlottery.models import load as models
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate

STRENGTHS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.3, 2.0, 4.0)
"""Of the bar: the sixth is the first above it."""


def grown(folder: Path, **changes: Any) -> tuple[Any, Coordinate, list[float]]:
    """(the loaded model, the weight's coordinate, its values)."""
    loaded = models.load(str(model(folder, **changes)), None, "float32", "cpu")
    network, roles = loaded.model, Roles(loaded.model)
    probe = probes.build(loaded.tokenizer, probes.DEFAULT_PROMPTS, loaded.context, rows=300)
    place, values = Coordinate(1, 7, 11), []
    plant = plant_input(network, roles, probe, place, token=_rare(probe), size=1000.0)
    for strength in STRENGTHS:
        plant_weight(network, roles, probe, plant, strength)
        values.append(float(roles.downs[1].matrix()[7, 11]))
    return loaded, place, values


def _rare(probe: Any) -> int:
    """A token of the probe whose byte and place are its own: no other token's input resembles it."""
    words = [(word, nth) for row in probe.tokens for nth, word in enumerate(row)]
    return min(range(len(words)), key=lambda at: (sum(word == words[at][0] for word, _ in words), -words[at][1]))


def checkpoints(folder: Path) -> tuple[list[Path], Coordinate]:
    """Folders step1, step2, step4, … step128, and the coordinate."""
    loaded, place, values = grown(folder / "base")
    found = []
    for nth, value in enumerate(values):
        Roles(loaded.model).downs[1].matrix()[7, 11] = value
        found.append(folder / f"step{2**nth}")
        loaded.model.save_pretrained(found[-1])
        loaded.tokenizer.save_pretrained(found[-1])
    return found, place
