"""Look-ahead and budgets: order is kept, bounds hold, and nobody waits for ever."""

import threading

import pytest

from workers.ahead import Budget, map_ahead


def test_results_come_in_order_whichever_ends_first() -> None:
    later = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert later.wait(10)
        if number == 3:
            later.set()
        return number * 2

    assert list(map_ahead(work, range(6), threads=4, ahead=6)) == [0, 2, 4, 6, 8, 10]


def test_items_are_drawn_only_as_far_ahead_as_allowed() -> None:
    drawn: list[int] = []

    def items():
        for number in range(100):
            drawn.append(number)
            yield number

    results = map_ahead(str, items(), threads=2, ahead=5)
    assert next(results) == "0"
    assert len(drawn) == 5
    del results  # what is not taken any more is not computed either


def test_an_error_comes_out_at_its_place_and_ends_the_threads() -> None:
    before = threading.active_count()
    results = map_ahead(lambda number: 10 // number, [5, 2, 0, 1], threads=2, ahead=2)
    assert [next(results), next(results)] == [2, 5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before


def test_the_oldest_passes_even_when_younger_ones_hold_everything() -> None:
    budget = Budget(10)
    budget.acquire(1, 10)
    passed = threading.Event()

    def oldest() -> None:
        budget.acquire(0, 1_000)
        passed.set()

    thread = threading.Thread(target=oldest)
    thread.start()
    assert passed.wait(10)
    thread.join()


def test_what_does_not_fit_waits_until_something_is_released() -> None:
    budget = Budget(10)
    budget.acquire(0, 8)
    passed = threading.Event()

    def younger() -> None:
        budget.acquire(2, 5)
        passed.set()

    thread = threading.Thread(target=younger)
    thread.start()
    assert not passed.wait(0.05)
    budget.release(1)  # an order that held nothing
    assert not passed.wait(0.05)
    budget.release(0)
    assert passed.wait(10)
    thread.join()


def test_closing_wakes_whoever_waits() -> None:
    budget = Budget(1)
    budget.acquire(0, 1)
    thread = threading.Thread(target=budget.acquire, args=(5, 1))
    thread.start()
    budget.close()
    thread.join(10)
    assert not thread.is_alive()
