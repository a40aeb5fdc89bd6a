"""gradio, imported so that it asks nobody for anything: no analytics, no telemetry of the hub's client."""

from __future__ import annotations

import importlib
import os
from typing import Any

from groundprune.errors import GroundPruneError

_SWITCHES = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def gradio() -> Any:
    """The module. Raises GroundPruneError where the extra is not installed."""
    os.environ.update(_SWITCHES)  # read when gradio is imported, and when a server starts
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise GroundPruneError(f"the app needs gradio: pip install 'groundprune[app]' ({error})") from error
