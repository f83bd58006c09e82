"""One rule for all questions: yes, no, or too few networks to tell."""

from __future__ import annotations

from collections.abc import Mapping

YES, NO, TOO_FEW = "yes", "no", "too few networks to tell"
SMALL = ", within the margin"
"""Behind an answer: there is a difference, and it is too small to matter."""
NOT_ASKED = "not asked: no arm by global magnitude, rewound to the start"

ALPHA = 0.05
ENOUGH = 80.0
"""Percent of studies of this size that would find an effect as large as the margin."""

RULE = (
    "Yes: p (Holm) is below 0.05, or the 95 % interval excludes what chance gives. "
    "No: neither, and the interval lies within the margin that the section states; where a section gives the power for "
    "an effect of that size, it is at least 80 %. "
    "Else there are too few networks to tell."
)


def by_test(p: float | None, is_near: bool, power: float | None = None, alpha: float = ALPHA) -> str:
    """From a test.

    p: corrected by Holm. is_near: whether the 95 % interval of the effect lies within the margin that the question
    states. power: in percent, to find an effect of that size; None: the interval says it. alpha: where the study's plan
    has another level.
    """
    if p is None:
        return TOO_FEW
    if p < alpha:
        return YES
    return NO if is_near and (power is None or power >= ENOUGH) else TOO_FEW


def by_interval(low: float, high: float, chance: float, margin: float | None = None) -> str:
    """From a 95 % interval. margin: differences from chance up to this are too small to matter."""
    inside = margin is not None and chance - margin <= low and high <= chance + margin
    if low > chance or high < chance:
        return YES + SMALL * inside
    return NO if inside else TOO_FEW


def by_share(low: float, high: float, least: float = 0.5) -> str:
    """From the 95 % interval of a share: yes where it lies above ``least``, no where it lies below one half."""
    if low >= least:
        return YES
    return NO if high < 0.5 else TOO_FEW


def together(verdicts: Mapping[str, str]) -> str:
    """One answer for several arms: ``yes``, or ``yes at 20 % × 5; too few networks to tell at 10 % × 10``.

    verdicts: by arm; without any, there are too few networks.
    """
    ways = list(dict.fromkeys(verdicts.values())) or [TOO_FEW]
    if len(ways) == 1:
        return ways[0]
    return "; ".join(f"{way} at {', '.join(arm for arm, one in verdicts.items() if one == way)}" for way in ways)
