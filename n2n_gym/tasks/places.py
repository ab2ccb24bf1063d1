"""Folders that data and what is made of them are kept in."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def data_folder() -> Path:
    """Where data sets are looked for and downloaded to: ``N2N_DATA`` or the cache."""
    named = os.environ.get("N2N_DATA")
    return Path(named) if named else cache_folder() / "data"


def cache_folder() -> Path:
    """Where what is made once is kept: ``N2N_CACHE`` or the user's cache folder."""
    named = os.environ.get("N2N_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("n2n-gym"))
