"""The command line: ``n2n-gym``."""

from n2n_gym.cli.main import app

__all__ = ["app"]
