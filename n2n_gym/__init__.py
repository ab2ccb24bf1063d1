"""N2N learning as Gymnasium environments: a teacher network becomes a small student.

Importing it registers the environments. What ``__init__.pyi`` lists is imported when it
is first asked for, as torch takes seconds.
"""

import os

import lazy_loader

from envs_registry import register

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# ONNX Runtime's Linux builds tell its maker about each network they open, from 1.29 on,
# and leave a file in the temporary folder. Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
register()
