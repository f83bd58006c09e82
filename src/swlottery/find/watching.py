"""The earlier place of `activations`, for those who still import it from here."""

from swlottery.find.activations import activations as activations
