"""tflite-support, the independent reference for TFLite metadata; tests that need it are skipped where it is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest


@dataclass(frozen=True)
class Official:
    """Parts of tflite-support: the schema's generated tables, what finds the parser version, what shows metadata, its module."""

    tables: Any
    version: Callable[[bytes], str]
    shown: Callable[[bytes], str]
    module: Any


def official() -> Official:
    """Return tflite-support, or skip the test."""
    why = "tflite-support is not installed (pip install --no-deps tflite-support; its native modules need libusb-1.0)"
    # It would load TensorFlow, only to open files with it.
    hidden = {} if "tensorflow" in sys.modules else {"tensorflow": None}
    try:
        with mock.patch.dict(sys.modules, hidden):
            from tensorflow_lite_support.metadata import metadata_schema_py_generated as tables
            from tensorflow_lite_support.metadata.cc.python import _pywrap_metadata_version
            from tensorflow_lite_support.metadata.python import metadata
    except ImportError as error:
        pytest.skip(f"{why}: {error}")
    return Official(tables, _pywrap_metadata_version.GetMinimumMetadataParserVersion, metadata.convert_to_json, metadata)


def rounded(value: Any) -> Any:
    """Return JSON with its numbers to six digits, as the displayer prints them."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return f"{value:.6g}" if isinstance(value, float) else value
