"""One rule for all questions: yes, no, or too few networks to tell."""

from __future__ import annotations

from collections.abc import Mapping

YES, NO, TOO_FEW = "yes", "no", "too few networks to tell"

ALPHA = 0.05
ENOUGH = 80.0
"""Percent of studies of this size that would find the stated effect: with less, finding nothing says nothing."""

RULE = (
    "Yes: p (Holm) is below 0.05, or the 95 % interval excludes what chance gives. "
    "No: neither, and the interval lies within the stated margin, or 80 % of studies of this size would find the "
    "stated effect. "
    "Else there are too few networks to tell."
)


def by_test(p: float | None, power: float | None, is_near: bool = False, alpha: float = ALPHA) -> str:
    """From a test.

    p: corrected by Holm. power: in percent, to find the effect that the question states. is_near: whether the interval
    of the effect lies within the margin that the question states. alpha: where the study's plan has another level.
    """
    if p is None:
        return TOO_FEW
    if p < alpha:
        return YES
    return NO if is_near or (power is not None and power >= ENOUGH) else TOO_FEW


def by_interval(low: float, high: float, chance: float, margin: float | None = None) -> str:
    """From a 95 % interval. margin: differences from chance up to this are none."""
    if low > chance or high < chance:
        return YES
    inside = margin is not None and chance - margin <= low and high <= chance + margin
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
