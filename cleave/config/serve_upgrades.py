"""What happens after another version of a role was put in use."""

from pydantic import Field

from cleave.config.base import Config


class UpgradesConfig(Config):
    """When `cleave serve promote` goes back by itself."""

    watch_s: float = Field(0.0, ge=0)
    """Seconds for which `cleave serve promote` stays after going over and watches the problems that fail; 0: it does not."""
    max_error_rate: float = Field(0.05, ge=0, lt=1)
    """Share of the new version's problems that may fail by a server's error (5xx); beyond it what was before is put back in use."""
    min_requests: int = Field(20, ge=1)
    """Problems that have to be done with before the share is looked at."""
