"""Times of a schedule, by cronsim: Debian cron's rules, daylight saving included. The clock is UTC."""

from datetime import UTC, datetime

from cronsim import CronSim, CronSimError


class CronError(ValueError):
    """No cron expression."""


def parse_cron(text: str) -> None:
    """Check an expression. Raises CronError."""
    try:
        CronSim(text, datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise CronError(f'"{text}": {error}') from None


def next_after(text: str, wall: float) -> float:
    """The first time (seconds of the epoch) after `wall`; infinity where there is none."""
    try:
        return float(next(CronSim(text, datetime.fromtimestamp(wall, UTC))).timestamp())
    except StopIteration:
        return float("inf")
