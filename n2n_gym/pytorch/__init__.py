"""Architectures to torch modules and back."""

from n2n_gym.pytorch.build import Network, build
from n2n_gym.pytorch.trace import TraceError, trace

__all__ = ["Network", "TraceError", "build", "trace"]
