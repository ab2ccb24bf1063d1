"""N2N learning as Gymnasium environments: a teacher network becomes a small student.

Importing it registers the environments; torch is imported when one is made.
"""

import os

from envs_registry import register

__version__ = "0.1.0"

# ONNX Runtime's Linux builds tell its maker about each network they open, from 1.29 on,
# and leave a file in the temporary folder. Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
register()
