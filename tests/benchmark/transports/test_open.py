"""``--via``: what opens which transport, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekd.benchmark.transports.open import open_transport
from edgekd.devices.profiles import load_profile
from edgekd.errors import EdgekdError, UsageError
from tests.benchmark.transports.hostile import FIXED

HOST = load_profile("host")


@pytest.mark.parametrize(
    "via",
    [
        "local",
        "emulated",
        "adb",
        "adb:emulator-5554",
        "adb:10.0.0.7:5555",
        "ssh://pi@pi4",
        "ssh://pi4.local:2222",
        "ssh://pi@[::1]:22",
    ],
)
def test_ways_to_a_device(via: str) -> None:
    assert open_transport(via, HOST).name == via


@pytest.mark.parametrize(
    "via", [*FIXED, "ssh", "ssh:", "ssh:host", "adb:", "adb://x", "local:x", "local ", "emulated:x", "Local", "ssh://-h"]
)
def test_what_is_none(via: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_transport(via, HOST)
    assert caught.value.exit_code == 2
    assert caught.value.message.isprintable(), "one line, and nothing that a terminal acts on"


@pytest.mark.parametrize(
    ("via", "nearest"), [("shs://pi@pi4", "ssh"), ("abd", "adb"), ("loacl", "local"), ("emulate", "emulated")]
)
def test_the_nearest_is_named(via: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{nearest}'"):
        open_transport(via, HOST)


@pytest.mark.parametrize(("kind", "via"), [("ios", "ssh://me@phone"), ("raspberry-pi", "adb"), ("jetson", "adb:1234")])
def test_ways_that_lead_to_no_such_device(kind: str, via: str) -> None:
    with pytest.raises(EdgekdError) as caught:
        open_transport(via, replace(HOST, kind=kind))  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
