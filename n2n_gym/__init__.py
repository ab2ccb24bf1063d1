"""N2N learning as Gymnasium environments: a teacher network becomes a small student.

Importing the package registers the environments. The names in ``__init__.pyi`` are
imported at their first use, because importing torch takes seconds.
"""

import os

import lazy_loader

from envs_registry import register

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# From 1.29 on, ONNX Runtime's Linux builds report each network they open to their
# maker, and leave a file in the temporary folder. The value 0 allows this.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
register()
