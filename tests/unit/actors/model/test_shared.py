"""A model that several use in turns: turns have an order, and whoever measures batch by batch lets others in between."""

import threading

from actors.model.shared import SharedModel


def test_turns_are_given_in_the_order_in_which_they_are_asked_for(base_config, lora):
    shared, order = SharedModel(base_config, lora), []

    def take(name: str, begun: threading.Event) -> None:
        begun.set()
        with shared.turn():
            order.append(name)

    with shared.turn() as model:
        threads = []
        for name in ("first", "second", "third"):
            begun = threading.Event()
            threads.append(threading.Thread(target=take, args=(name, begun)))
            threads[-1].start()
            begun.wait()
            while shared._asked < len(threads) + 1:  # the thread stands in the queue
                pass
        assert order == []
    for thread in threads:
        thread.join()
    assert order == ["first", "second", "third"]
    assert shared.model is model


def test_a_turn_that_fails_ends_too(base_config, lora):
    shared = SharedModel(base_config, lora)
    try:
        with shared.turn():
            raise ValueError
    except ValueError:
        pass
    with shared.turn() as model:
        assert model is shared.model
