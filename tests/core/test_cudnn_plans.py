"""Shapes that recur get a plan, up to a limit."""

import threading

from rope_core.backends import cudnn_plans as plans
from rope_core.backends.cudnn_plans import (
    CALLS_BEFORE_PLAN,
    MAX_COUNTED,
    MAX_PLANNED,
    PlannedShapes,
)


def test_a_shape_may_get_a_plan_after_several_calls():
    shapes = PlannedShapes()
    assert [shapes.count_call("a") for _ in range(CALLS_BEFORE_PLAN + 2)] == [
        False
    ] * CALLS_BEFORE_PLAN + [True] * 2
    assert not shapes.count_call("b")


def test_the_least_recently_used_shape_is_dropped():
    shapes = PlannedShapes()
    for _ in range(CALLS_BEFORE_PLAN):
        shapes.count_call("a")
    for other in range(MAX_COUNTED):
        shapes.count_call(other)
    assert not shapes.count_call("a")
    assert len(shapes._counts) == MAX_COUNTED


def test_rare_shapes_between_do_not_drop_a_frequent_one():
    shapes = PlannedShapes()
    may_plan = []
    for turn in range(CALLS_BEFORE_PLAN + 1):
        may_plan.append(shapes.count_call("often"))
        for odd in range(MAX_COUNTED // 2):
            shapes.count_call((turn, odd))
    assert may_plan == [False] * CALLS_BEFORE_PLAN + [True]


def test_admitted_shapes_are_bounded_and_stay():
    shapes = PlannedShapes()
    assert all(shapes.admit(shape) for shape in range(MAX_PLANNED))
    assert not shapes.admit("one more")
    assert shapes.admit(0)
    assert shapes.count_call(0), "it has a plan"


def test_calls_of_all_threads_are_counted(monkeypatch):
    monkeypatch.setattr(plans, "CALLS_BEFORE_PLAN", 400)
    shapes = PlannedShapes()
    threads = [
        threading.Thread(target=lambda: [shapes.count_call("a") for _ in range(100)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes.count_call("a")
