"""From ``--via`` to a device: ``local``, ``ssh://[user@]host[:port]``, ``adb[:serial]`` or ``emulated``."""

from __future__ import annotations

from edgekd.benchmark.transports import Transport
from edgekd.devices.profiles import Profile
from edgekd.errors import UsageError
from edgekd.names import did_you_mean

_SCHEMES = ("local", "ssh", "adb", "emulated")
_HINT = "write local, ssh://user@host, ssh://user@host:port, adb, adb:serial or emulated"


def open_transport(via: str, profile: Profile) -> Transport:
    """Return the way to a device; nothing is connected before the ``with`` block.

    Args:
        via: ``local``, ``ssh://[user@]host[:port]``, ``adb``, ``adb:serial`` or ``emulated``.
        profile: The device that should be there.

    Raises:
        UsageError: ``via`` is something else, or no way to a device of this kind.
    """
    scheme = via.partition(":")[0]
    if scheme not in _SCHEMES:
        raise UsageError(f"no way to a device is called {via!r}{did_you_mean(scheme, _SCHEMES)}", _HINT)
    _refuse_impossible(scheme, profile)
    if scheme == "ssh":
        from edgekd.benchmark.transports.ssh import ssh_transport

        return ssh_transport(via)
    if scheme == "adb":
        from edgekd.benchmark.transports.adb import adb_transport

        if via == "adb":
            return adb_transport()
        return adb_transport(via.removeprefix("adb:"))
    if via != scheme:
        raise UsageError(f"{via!r}: {scheme} takes no address", _HINT)
    if scheme == "emulated":
        from edgekd.benchmark.transports.emulated import emulated_transport

        return emulated_transport()
    from edgekd.benchmark.transports.local import LocalTransport

    return LocalTransport()


def _refuse_impossible(scheme: str, profile: Profile) -> None:
    if profile.kind == "ios":
        raise UsageError(f"{profile.name} cannot be reached: neither ssh nor adb runs on iOS", "its latency can be predicted")
    if scheme == "adb" and profile.kind in {"raspberry-pi", "jetson"}:
        raise UsageError(f"{profile.name} has no adb", "reach it by ssh://user@host")
