"""N2N learning as Gymnasium environments: a teacher network becomes a small student.

Importing it registers the environments; torch is imported when one is made.
"""

from envs_registry import register

__version__ = "0.1.0"

register()
