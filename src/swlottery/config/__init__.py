"""Every setting once: its name, default, unit, limits, and what it does. A file a command.

May import only errors.py. ``flags.py`` turns settings into flags.
"""

from swlottery.config.find import EVALUATED, FindSettings
from swlottery.config.setting import KAPPA, MAX_WEIGHTS, Settings, flag_of
from swlottery.config.sweep import SweepSettings
from swlottery.config.trace import TraceSettings
from swlottery.config.train import AFTER_ROUND_1, OPERATIONAL, TrainSettings, other_first_training

__all__ = [
    "AFTER_ROUND_1",
    "EVALUATED",
    "KAPPA",
    "MAX_WEIGHTS",
    "OPERATIONAL",
    "FindSettings",
    "Settings",
    "SweepSettings",
    "TraceSettings",
    "TrainSettings",
    "flag_of",
    "other_first_training",
]
