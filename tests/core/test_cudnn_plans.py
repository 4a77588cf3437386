"""Which shapes are worth a plan: those that come again, of which there are a few."""

import threading

from rope_core.backends import cudnn_plans as plans
from rope_core.backends.cudnn_plans import CALLS_BEFORE_PLAN, MAX_COUNTED, MAX_SHAPES, PlannedShapes


def test_a_shape_recurs_once_it_has_come_several_times():
    shapes = PlannedShapes()
    assert [shapes.recurs("a") for _ in range(CALLS_BEFORE_PLAN + 2)] == [
        False
    ] * CALLS_BEFORE_PLAN + [True] * 2
    assert not shapes.recurs("b")


def test_a_shape_that_has_not_come_for_long_is_forgotten():
    shapes = PlannedShapes()
    for _ in range(CALLS_BEFORE_PLAN):
        shapes.recurs("a")
    for other in range(MAX_COUNTED):
        shapes.recurs(other)
    assert not shapes.recurs("a")
    assert len(shapes._counts) == MAX_COUNTED


def test_odd_shapes_between_do_not_hide_one_that_comes_often():
    shapes = PlannedShapes()
    found = []
    for turn in range(CALLS_BEFORE_PLAN + 1):
        found.append(shapes.recurs("often"))
        for odd in range(MAX_COUNTED // 2):
            shapes.recurs((turn, odd))
    assert found == [False] * CALLS_BEFORE_PLAN + [True]


def test_admitted_shapes_are_bounded_and_stay():
    shapes = PlannedShapes()
    assert all(shapes.admit(shape) for shape in range(MAX_SHAPES))
    assert not shapes.admit("one more")
    assert shapes.admit(0)
    assert shapes.recurs(0), "it has a plan"


def test_threads_that_ask_at_once_are_all_counted(monkeypatch):
    monkeypatch.setattr(plans, "CALLS_BEFORE_PLAN", 400)
    shapes = PlannedShapes()
    threads = [
        threading.Thread(target=lambda: [shapes.recurs("a") for _ in range(100)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes.recurs("a")
