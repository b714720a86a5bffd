"""The options of `cleave ask`."""

from cleave.config.base import Config
from cleave.config.reasoning import ReasoningConfig
from cleave.config.roles import RolesConfig


class AskConfig(Config):
    """Who answers one question, and how."""

    roles: RolesConfig = RolesConfig()
    """The cast."""
    reasoning: ReasoningConfig = ReasoningConfig()
    """Strategy, samples, selection and limits."""
