"""Feeds that were recorded at one moment, as they would stand at another: for demonstrations.

Dates in the text (RFC 822 and ISO 8601, in UTC) move by whole days. Those of the recording's last day keep
their order and fall between midnight and now, so that "today" stays today at any hour.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from email.utils import format_datetime, parsedate_to_datetime

_ISO = re.compile(r"\b\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_RFC_822 = re.compile(
    r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{2} "
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d{2}:\d{2}:\d{2} GMT"
)


def as_of(text: str, recorded: datetime, now: datetime) -> str:
    """The feed with its dates moved from `recorded` to `now` (both aware)."""
    text = _ISO.sub(
        lambda match: f"{moved(datetime.fromisoformat(match[0]), recorded, now):%Y-%m-%dT%H:%M:%SZ}", text
    )
    return _RFC_822.sub(
        lambda match: format_datetime(
            moved(parsedate_to_datetime(match[0]), recorded, now).astimezone(UTC), usegmt=True
        ),
        text,
    )


def moved(moment: datetime, recorded: datetime, now: datetime) -> datetime:
    """The moment as far before `now` as it was before `recorded`, in whole days; on the last day in
    proportion."""
    midnight, today = _midnight(recorded), _midnight(now)
    if moment < midnight:
        return moment.astimezone(UTC) + (today - midnight)
    # Over the same fraction of the day: what was recorded just before stays just before.
    length = max(recorded - midnight, timedelta(seconds=1))
    fraction = min(1.0, (moment - midnight) / length)
    return (today + fraction * (now - today)).replace(microsecond=0)


def _midnight(moment: datetime) -> datetime:
    return datetime.combine(moment.astimezone(UTC).date(), time(), UTC)
