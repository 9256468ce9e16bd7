"""How long a request may wait, how many go into one micro-batch, and which rung of the ladder that means.

Deadlines alone would let the queue grow until each answer is as late as it may be. So the delay that is allowed is a
setting of its own, far below the deadlines, and it is for bursts that pass: a queue that stands makes every answer late
and gives no more of them (Nichols & Jacobson, "Controlling Queue Delay", 2012), so in a crowd no more waits than the
next micro-batch can take. One waits for the step under way and then for its own; a rung that economises keeps both
short. Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque

from recsys.engine.pressure import CHEAPER_FROM, RUNGS, Ladder
from recsys.engine.service_time import ServiceTime

STEPS_ALLOWED = 6  # steps of one request that may always be waited for, so that a slow device can work at all
STANDING = 3  # micro-batches that a delay must last to count: a pause of the machine passes, a crowd stands
CROWDED_FROM = 0.25  # pressure from which no more may wait than goes into one micro-batch
STANDING_S = 0.1  # time that refusals must last to count
AGAIN_S = 0.25  # refusals closer to each other than this are one row of them
DEARER = 0.97  # a rung must cost less than this share of the one below, or it is passed over on this machine
PROBE = 50  # micro-batches after which a rung that is passed over is tried again
STEP_SHARE = 0.5  # of the allowed delay that a step may take
BRISK_SHARE = 0.25  # the same on a rung that economises: part of what it saves makes answers sooner ...
SURPLUS = 1.3  # ... as long as it answers so many times as many per second as full effort
BATCH_SHARE = 0.5  # of the allowed delay for requests of priority `batch`, so that they are refused first


class Pace:
    """One per engine. `admits` is asked by whichever thread reads the socket; the rest belongs to the computing one.

    Args:
        wait_max_s: longest delay from arrival to answer that is allowed under load.
        batch_max: most requests in one micro-batch.
        ladder: whether pressure changes the effort.
    """

    def __init__(self, *, wait_max_s: float, batch_max: int, ladder: bool) -> None:
        self._wait_max_s = wait_max_s
        self._batch_max = batch_max
        self._follows = ladder
        self._ladder = Ladder()
        self.forget()
        self._height = 0
        self._batch = batch_max
        self._pressure = 0.0
        self._begun = 0
        self._busy_until_s = 0.0
        self._recent: deque[float] = deque([0.0] * STANDING, maxlen=STANDING)
        self._refused_s = (float("-inf"), float("-inf"))  # the first and the last of the newest row of refusals

    @property
    def pressure(self) -> float:
        """Delay in the queue / delay allowed, the least of the last few micro-batches; 1 while refusals stand."""
        return self._pressure

    @property
    def height(self) -> int:
        """Height of the ladder that the micro-batch under way has, or the last one had."""
        return self._height

    @property
    def allowed_s(self) -> float:
        """Longest delay from arrival to answer."""
        return max(self._wait_max_s, STEPS_ALLOWED * self._time.step_s(1))

    @property
    def batch(self) -> int:
        """Most requests in the next micro-batch."""
        return self._batch

    def step_s(self, requests: int) -> float:
        """Expected seconds of a micro-batch."""
        return self._time.step_s(requests)

    def wait_s(self, ahead: int, now_s: float) -> float:
        """Expected seconds until a request behind `ahead` others is answered."""
        return max(0.0, self._busy_until_s - now_s) + self._time.wait_s(ahead + 1, self._batch)

    def admits(self, ahead: int, left_s: float, now_s: float, *, interactive: bool = True) -> bool:
        """Whether a request with that much time left may wait. An idle engine always tries, or a bad estimate of what
        a step takes would stay for ever."""
        if not ahead and now_s >= self._busy_until_s:
            return True
        wait_s, allowed_s = self.wait_s(ahead, now_s), self.allowed_s
        if wait_s > allowed_s or (self._pressure >= CROWDED_FROM and ahead >= self._batch):
            first_s, last_s = self._refused_s
            self._refused_s = (first_s if now_s - last_s <= AGAIN_S else now_s, now_s)
            return False
        return wait_s <= min(left_s, allowed_s * (1.0 if interactive else BATCH_SHARE))

    def begin(self, requests: int, *, waited_s: float, behind: int, bounded: bool, now_s: float) -> None:
        """A micro-batch starts.

        Args:
            requests: in it.
            waited_s: how long the first of them waited.
            behind: requests that stay in the queue.
            bounded: whether its policy can do with fewer slots than asked for.
        """
        delay = (waited_s + self._time.wait_s(behind, self._batch)) / self.allowed_s
        self._feel(max(delay, float(self._refusals_stand(now_s))), now_s)
        self._height = self._worth(self._ladder.height_for(bounded=bounded))
        self._batch = self._largest()
        self._busy_until_s = now_s + self._time.step_s(requests)

    def _feel(self, pressure: float, now_s: float) -> None:
        self._recent.append(pressure)
        self._pressure = min(self._recent)
        if self._follows:
            self._ladder = self._ladder.update(self._pressure, now_s=now_s)

    def _refusals_stand(self, now_s: float) -> bool:
        """Whether some were refused for a while and until now: a short queue hides how many want to be in it."""
        first_s, last_s = self._refused_s
        return now_s - last_s <= AGAIN_S and last_s - first_s >= STANDING_S

    def _worth(self, height: int) -> int:
        """The height, or a lower one of those that economise or redirect, if it is as cheap."""
        self._begun += 1
        if self._begun % PROBE == 0:
            return height
        found = min(height, CHEAPER_FROM)
        for higher in range(found + 1, height + 1):
            if self._times[higher].step_s(self._batch_max) < DEARER * self._times[found].step_s(self._batch_max):
                found = higher
        return found

    def end(self, requests: int, seconds: float) -> None:
        """It took that long."""
        self._busy_until_s = 0.0
        self._time.observe(requests, seconds)
        self._batch = self._largest()

    def idle(self, now_s: float) -> None:
        """Nothing to do for a while."""
        self._feel(0.0, now_s)
        self._height = min(self._height, self._ladder.height)
        self._batch = self._largest()

    def forget(self) -> None:
        """Steps take another time from now on than all that was measured."""
        self._times = [ServiceTime(self._batch_max) for _ in RUNGS]  # what a step takes depends on the effort

    def learn(self, height: int, requests: int, seconds: float) -> None:
        """What a step at a height of the ladder took, while warming up."""
        self._times[height].observe(requests, seconds)
        self._batch = self._largest()

    def _largest(self) -> int:
        time, full = self._time, self._times[0]
        most = time.largest(STEP_SHARE * self.allowed_s)
        if not RUNGS[self._height].economises:
            return most
        whole = full.largest(STEP_SHARE * self.allowed_s)
        as_many = time.smallest(SURPLUS * whole / full.step_s(whole), most) if full.step_s(whole) else most
        return max(time.largest(BRISK_SHARE * self.allowed_s), as_many)

    @property
    def _time(self) -> ServiceTime:
        return self._times[self._height]
