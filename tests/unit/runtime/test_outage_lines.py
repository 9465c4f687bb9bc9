"""An outage is said at once and once a minute while it lasts, by each who sees it."""

from relay.runtime.outage import JOINED_WITHIN_SECONDS, OutageLog
from relay.runtime.process import ProcessRecord
from relay.runtime.repeats import REPEAT_SECONDS


def test_an_outage_repeats_itself_every_minute_while_it_lasts() -> None:
    now = [0.0]
    outages = OutageLog(ProcessRecord("relay"), clock=lambda: now[0])

    def said_at(seconds: float) -> bool:
        now[0] = seconds
        return outages.began("broker", TimeoutError("away"))

    tried = [at / 2 for at in range(2 * 185)]  # twice a second for three minutes
    assert [at for at in tried if said_at(at)] == [0, 60, 120, 180]
    assert REPEAT_SECONDS == 60
    assert outages.ended("broker") == 184.5
    # One that comes again after it was back for good is news; one that only seemed to end is not.
    now[0] += 1
    assert not said_at(now[0])
    outages.ended("broker")
    assert said_at(now[0] + JOINED_WITHIN_SECONDS + 1)
