"""Every request that enters the queue leaves it exactly once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.engine.admission import AdmissionQueue, Ticket
from recsys.wire import RankRequest


def ticket(name: str, *, deadline_s: float = 10.0, priority: int = 0, policy: str | None = None) -> Ticket:
    request = RankRequest(id=name, time_left_ms=1, k=1, priority=priority, policy=policy)
    return Ticket(b"peer", request, 0.0, deadline_s)


def ids(tickets: list[Ticket]) -> list[str]:
    return [t.request.id for t in tickets]


def test_a_full_queue_refuses_the_newcomer() -> None:
    queue = AdmissionQueue(2)
    assert queue.offer(ticket("a")) is None
    assert queue.offer(ticket("b")) is None
    refused = queue.offer(ticket("c"))
    assert refused is not None
    assert refused.request.id == "c"
    assert len(queue) == 2


def test_an_interactive_request_takes_the_place_of_a_batch_one() -> None:
    queue = AdmissionQueue(2)
    queue.offer(ticket("batch", priority=1))
    queue.offer(ticket("a"))
    refused = queue.offer(ticket("b"))
    assert refused is not None
    assert refused.request.id == "batch"
    assert ids(queue.take(5, now_s=0)[0]) == ["a", "b"]


def test_interactive_goes_first_and_order_is_kept() -> None:
    queue = AdmissionQueue(10)
    for name, priority in (("1", 1), ("2", 0), ("3", 1), ("4", 0)):
        queue.offer(ticket(name, priority=priority))
    assert ids(queue.take(10, now_s=0)[0]) == ["2", "4", "1", "3"]


def test_expired_requests_never_reach_a_batch() -> None:
    queue = AdmissionQueue(10)
    queue.offer(ticket("late", deadline_s=1.0))
    queue.offer(ticket("ok", deadline_s=3.0))
    batch, expired = queue.take(10, now_s=1.0)
    assert (ids(batch), ids(expired)) == (["ok"], ["late"])


def test_a_batch_has_one_policy() -> None:
    queue = AdmissionQueue(10)
    for name, policy in (("1", None), ("2", "topk"), ("3", None), ("4", "topk")):
        queue.offer(ticket(name, policy=policy))
    assert ids(queue.take(10, now_s=0)[0]) == ["1", "3"]
    assert ids(queue.take(10, now_s=0)[0]) == ["2", "4"]


def test_a_batch_grows_only_while_its_step_meets_the_earliest_deadline_in_it() -> None:
    queue = AdmissionQueue(10)
    for name, deadline_s in (("a", 9.0), ("b", 3.5), ("c", 9.0), ("d", 9.0), ("e", 2.2)):
        queue.offer(ticket(name, deadline_s=deadline_s))
    takes = [ids(queue.take(10, now_s=0, step_s=float)[0]) for _ in range(3)]
    assert takes == [["a", "b", "c"], ["d", "e"], []]
    queue.offer(ticket("hopeless", deadline_s=0.5))
    assert ids(queue.take(10, now_s=0, step_s=float)[0]) == ["hopeless"]  # the estimate may be wrong


def test_a_closed_queue_takes_nothing_and_gives_what_it_has() -> None:
    queue = AdmissionQueue(2)
    queue.offer(ticket("a"))
    queue.close()
    assert queue.offer(ticket("b")) is not None
    assert ids(queue.take(5, now_s=0)[0]) == ["a"]


@pytest.mark.parametrize("longest", [0, -1])
def test_the_bound_must_be_positive(longest: int) -> None:
    with pytest.raises(ValueError, match="longest"):
        AdmissionQueue(longest)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from([None, "topk"]), st.integers(0, 4)), max_size=40),
    st.integers(1, 8),
    st.integers(1, 5),
)
def test_nothing_is_lost_or_doubled(arrivals: list[tuple[int, str | None, int]], longest: int, most: int) -> None:
    queue = AdmissionQueue(longest)
    left: list[str] = []
    for n, (priority, policy, deadline) in enumerate(arrivals):
        refused = queue.offer(ticket(str(n), priority=priority, policy=policy, deadline_s=float(deadline)))
        if refused:
            left.append(refused.request.id)
        assert len(queue) <= longest
        if n % 5 == 4:
            batch, expired = queue.take(most, now_s=2.0)
            assert len(batch) <= most
            left += ids(batch) + ids(expired)
    while len(queue):
        batch, expired = queue.take(most, now_s=2.0)
        left += ids(batch) + ids(expired)
    assert sorted(left, key=int) == [str(n) for n in range(len(arrivals))]
