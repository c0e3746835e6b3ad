"""Which worker gets which shard."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aminoglot.jobs.dispatch import LOSSES, TRIES, Dispatch


def test_in_the_order_given() -> None:
    dispatch: Dispatch[str] = Dispatch([3, 1, 2])
    for name in "ab":
        dispatch.joined(name)
    assert (dispatch.take("a"), dispatch.take("b")) == (3, 1)
    assert dispatch.done("b") == 1
    assert dispatch.take("b") == 2
    assert not dispatch.finished
    dispatch.done("a")
    dispatch.done("b")
    assert dispatch.take("a") is None
    assert dispatch.finished


def test_what_failed_is_tried_elsewhere_first() -> None:
    dispatch: Dispatch[str] = Dispatch([1, 2, 3])
    dispatch.joined("a")
    dispatch.joined("b")
    dispatch.take("a")
    assert dispatch.failed("a", "no") is None
    assert dispatch.take("a") == 2, "not the one it failed"
    assert dispatch.take("b") == 1
    dispatch.failed("b", "no")
    dispatch.done("a")
    assert dispatch.take("a") == 1, "every worker has tried it: again"
    assert dispatch.failed("a", "never") == 1
    assert dispatch.aside == {1: "never"}
    assert dispatch.take("a") == 3


def test_a_worker_waits_for_another_that_has_not_tried() -> None:
    dispatch: Dispatch[str] = Dispatch([1, 2])
    dispatch.joined("a")
    dispatch.joined("b")
    dispatch.take("a")
    dispatch.take("b")
    dispatch.failed("a", "no")
    assert dispatch.take("a") is None
    assert not dispatch.finished
    dispatch.left("b", None)
    assert dispatch.take("a") == 1, "b, which had not tried it, is gone"


def test_a_machine_that_is_taken_away_is_no_shards_fault() -> None:
    dispatch: Dispatch[str] = Dispatch([1])
    for time in range(2 * TRIES):
        dispatch.joined(f"{time}")
        assert dispatch.take(f"{time}") == 1
        assert dispatch.left(f"{time}") is None
    assert not dispatch.aside
    dispatch.left("was never ready", "why")


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.data())
def test_everything_is_done_once_or_set_aside(shards: int, workers: int, data: st.DataObject) -> None:
    """Whatever happens to workers: nothing is lost, nothing done twice, and it ends."""
    dispatch: Dispatch[str] = Dispatch(range(shards))
    names = [f"{number}" for number in range(workers)]
    for name in names:
        dispatch.joined(name)
    done: list[int] = []
    busy: set[str] = set()
    steps = 0
    while not dispatch.finished:
        steps += 1
        assert steps < 100 * (shards + workers)
        for name in dispatch.idle:
            if dispatch.take(name) is not None:
                busy.add(name)
        assert busy, "all workers are idle, and something is left"
        name = data.draw(st.sampled_from(sorted(busy)))
        busy.discard(name)
        happened = data.draw(st.sampled_from(["done", "done", "failed", "killed"]))
        if happened == "done":
            done.append(dispatch.done(name))
        elif happened == "failed":
            dispatch.failed(name, "no")
        else:
            dispatch.left(name, "killed")
            dispatch.joined(f"{name}'")
    assert sorted([*done, *dispatch.aside]) == list(range(shards))


def test_a_shard_that_takes_machines_with_it_is_set_aside_in_the_end() -> None:
    """Each loss of a machine is nobody's fault; but what has lost thirty of them would lose the next."""
    dispatch: Dispatch[int] = Dispatch([7])
    for number in range(TRIES * LOSSES):
        assert not dispatch.aside
        dispatch.joined(number)
        assert dispatch.take(number) == 7
        dispatch.left(number)
    assert dispatch.aside == {7: f"its worker was lost {TRIES * LOSSES} times"}
    assert dispatch.finished
