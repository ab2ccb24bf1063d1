"""Architectures to torch modules and back."""

from n2n_gym.torch_layers.build import Network, build
from n2n_gym.torch_layers.trace import TraceError, trace

__all__ = ["Network", "TraceError", "build", "trace"]
