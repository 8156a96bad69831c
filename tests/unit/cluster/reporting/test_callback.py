"""Every event reaches every callback."""

import inspect

import pytest

from cluster.reporting.callback import Callbacks, RunCallback

EVENTS = [name for name in vars(RunCallback) if not name.startswith("_")]


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_is_handed_on_to_all_callbacks_in_order(event):
    received = []

    def record(callback, *arguments):
        received.append((callback, arguments))

    first, second = [type("Recorder", (RunCallback,), {event: record})() for _ in range(2)]
    num_arguments = len(inspect.signature(getattr(RunCallback, event)).parameters) - 1
    arguments = tuple(object() for _ in range(num_arguments))
    getattr(Callbacks(first, second), event)(*arguments)
    assert received == [(first, arguments), (second, arguments)]
