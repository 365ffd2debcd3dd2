"""A penalty at work inside an optimizer, and cuts while training goes on."""

from gammaslim.training.attachment import Attachment
from gammaslim.training.connecting import attach
from gammaslim.training.decay_groups import param_groups
from gammaslim.training.forecasting import Forecast, suggest_strength
from gammaslim.training.retraining import distillation_loss, reset_parameters
from gammaslim.training.shrinking import Shrinker, shrink_every
from gammaslim.training.stats import Stats

__all__ = [
    "Attachment",
    "Forecast",
    "Shrinker",
    "Stats",
    "attach",
    "distillation_loss",
    "param_groups",
    "reset_parameters",
    "shrink_every",
    "suggest_strength",
]
