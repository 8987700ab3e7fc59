"""Stop signals set a flag; a second one ends at once."""

import signal

import pytest

from edgekd.errors import Interrupted
from edgekd.safe.stop import check_stop, stop_requested, stop_signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_waits_for_a_safe_place(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with stop_signals():
        check_stop()
        signal.raise_signal(number)
        assert stop_requested()
        with pytest.raises(Interrupted) as stopped:
            check_stop()
        assert stopped.value.exit_code == code
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_each_run_starts_unstopped() -> None:
    with stop_signals():
        signal.raise_signal(signal.SIGINT)
    with stop_signals():
        check_stop()
