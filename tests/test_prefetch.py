import threading
import time

import pytest

from automl_cxr.prefetch import Prefetched


def test_items_are_in_order_and_prepared_in_another_thread():
    threads = set()

    def prepare(number):
        threads.add(threading.current_thread())
        return number * number

    assert list(Prefetched(prepare, 5)) == [0, 1, 4, 9, 16]
    assert len(threads) == 1
    assert threading.main_thread() not in threads
    assert list(Prefetched(prepare, 0)) == []


def test_items_are_prepared_while_the_first_is_used():
    prepared = []
    items = iter(Prefetched(prepared.append, 9, n_ahead=3))
    next(items)
    deadline = time.monotonic() + 2
    while len(prepared) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert prepared == [0, 1, 2, 3]  # the item in use and three others
    items.close()
    assert len(prepared) == 4


def test_an_error_is_raised_where_its_item_is_expected():
    items = iter(Prefetched(lambda number: 1 // (2 - number), 4))
    assert next(items) == 0
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_items_can_be_requested_again_and_in_any_order():
    items = Prefetched(lambda number: 10 * number, 6, n_ahead=2)
    assert [items[number] for number in (0, 1, 0, 1, 2, 5, 3, 0)] == [0, 10, 0, 10, 20, 50, 30, 0]
    assert len(items) == 6
