from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import holidays
import pytest
from dateutil.relativedelta import relativedelta  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from app.sla.rules import (
    REGIMES,
    Clock,
    Sla,
    UnknownCountry,
    UnknownRegime,
    can_extend,
    clock,
    sla,
)

DAYS = st.dates(date(2000, 1, 1), date(2060, 12, 31))


def noon(day: date | str) -> datetime:
    day = date.fromisoformat(day) if isinstance(day, str) else day
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def end_of(day: date | str) -> datetime:
    return noon(day).replace(hour=23, minute=59, second=59)


def gdpr(received: date | str, *, country: str | None = None, extended: bool = False) -> Clock:
    return clock("gdpr", noon(received), country=country, extended=extended)


# The vectors without holidays: a month is not 30 days, the last day rule, the weekend rule.
@pytest.mark.parametrize(
    ("received", "extended", "due"),
    [
        ("2025-01-31", False, "2025-02-28"),
        ("2024-01-31", False, "2024-02-29"),
        ("2025-03-05", False, "2025-04-07"),
        ("2025-12-31", False, "2026-02-02"),
        ("2025-11-30", True, "2026-03-02"),
        ("2022-03-05", False, "2022-04-05"),
        ("2022-08-31", False, "2022-09-30"),
        ("2018-09-03", False, "2018-10-03"),
        ("2025-01-31", True, "2025-04-28"),
    ],
)
@pytest.mark.parametrize("regime", ["gdpr", "uk_gdpr"])
def test_month_vectors(regime: str, received: str, extended: bool, due: str) -> None:
    result = clock(regime, noon(received), country=None, extended=extended)
    assert result.due_at == end_of(due)
    assert result.extended is extended


def test_california_vectors() -> None:
    first = clock("ccpa", noon("2026-03-01"), country=None, extended=False)
    assert first.acknowledge_by == end_of("2026-03-13")
    assert first.due_at == end_of("2026-04-15")
    assert first.extended_due_at == end_of("2026-05-30")
    longer = clock("ccpa", noon("2026-03-01"), country="US", extended=True)
    assert longer.due_at == longer.extended_due_at == end_of("2026-05-30")


def test_california_deadline_stays_on_a_sunday_but_business_days_skip_holidays() -> None:
    # 14 May 2026 + 45 days is Sunday 28 June; 25 May is Memorial Day.
    result = clock("ccpa", noon("2026-05-14"), country="US", extended=False)
    assert result.due_at == end_of("2026-06-28")
    assert result.due_at.weekday() == 6
    assert result.acknowledge_by == end_of("2026-05-29")
    plain = clock("ccpa", noon("2026-05-14"), country=None, extended=False)
    assert plain.acknowledge_by == end_of("2026-05-28")


def test_public_holidays_of_the_country_and_subdivision() -> None:
    # One month from 18 March 2025 is Good Friday; Easter Monday follows the weekend.
    assert gdpr("2025-03-18").due_at == end_of("2025-04-18")
    assert gdpr("2025-03-18", country="DE").due_at == end_of("2025-04-22")
    # Corpus Christi, 19 June 2025, is a holiday in Bavaria and not in Berlin.
    for subdivision, due in (("BE", "2025-06-19"), ("BY", "2025-06-20")):
        result = clock(
            "gdpr", noon("2025-05-19"), country="DE", subdivision=subdivision, extended=False
        )
        assert result.due_at == end_of(due)


@given(DAYS, st.booleans())
def test_month_clock_equals_the_obvious_version(received: date, extended: bool) -> None:
    german = holidays.country_holidays("DE")
    day = received + relativedelta(months=1)
    if extended:
        day = day + relativedelta(months=2)
    while day.weekday() in {5, 6} or day in german:
        day += timedelta(days=1)
    assert gdpr(received, country="DE", extended=extended).due_at == end_of(day)


@given(DAYS)
def test_extension_is_never_later_than_three_months_from_receipt(received: date) -> None:
    extended = gdpr(received).extended_due_at.date()
    direct = received + relativedelta(months=3)
    while direct.weekday() in {5, 6}:
        direct += timedelta(days=1)
    assert gdpr(received).due_at.date() < extended <= direct


@given(DAYS)
def test_every_clock_keeps_its_promises(received: date) -> None:
    for regime in REGIMES:
        first = clock(regime, noon(received), country=None, extended=False)
        longer = clock(regime, noon(received), country=None, extended=True)
        assert first.received_at < first.due_at < longer.due_at == first.extended_due_at
        assert (first.acknowledge_by is None) is (regime != "ccpa")
        assert first.law == REGIMES[regime].law
        assert f"Received on {received}" in first.explanation


def test_the_controllers_time_zone_decides_the_day() -> None:
    received = datetime(2025, 3, 31, 22, 30, tzinfo=UTC)
    utc = clock("gdpr", received, country=None, extended=False)
    assert utc.due_at == end_of("2025-04-30")
    berlin = clock(
        "gdpr", received, country=None, extended=False, time_zone=ZoneInfo("Europe/Berlin")
    )
    assert berlin.due_at == datetime(2025, 5, 1, 21, 59, 59, tzinfo=UTC)
    assert berlin.due_at.tzinfo is UTC
    shifted = received.astimezone(timezone(timedelta(hours=9)))
    assert clock("gdpr", shifted, country=None, extended=False) == utc


def test_a_clock_explains_itself() -> None:
    plain = gdpr("2025-03-05")
    assert "ends on Saturday, 2025-04-05" in plain.explanation
    assert "due by the end of Monday, 2025-04-07" in plain.explanation
    assert "no country is set" in plain.explanation
    assert "Extended" not in plain.explanation
    extended = gdpr("2025-11-28", country="DE", extended=True)
    assert "Extended once, by 2 months" in extended.explanation
    assert "no country is set" not in extended.explanation
    weekday = gdpr("2025-03-03", country="DE")
    assert "working day" not in weekday.explanation
    assert (
        "by 45 days" in clock("ccpa", noon("2025-03-03"), country=None, extended=True).explanation
    )
    assert "1182/71" in plain.law


def test_refusals() -> None:
    with pytest.raises(UnknownRegime, match="ccpa, gdpr, uk_gdpr"):
        clock("hipaa", noon("2025-01-01"), country=None, extended=False)
    with pytest.raises(UnknownCountry, match="ISO 3166"):
        gdpr("2025-01-01", country="XX")
    with pytest.raises(UnknownCountry):
        clock("gdpr", noon("2025-01-01"), country="DE", subdivision="ZZ", extended=False)
    with pytest.raises(ValueError, match="UTC offset"):
        clock("gdpr", noon("2025-01-01").replace(tzinfo=None), country=None, extended=False)


def test_standing_of_an_open_request() -> None:
    request_clock = gdpr("2025-01-31")
    due = request_clock.due_at
    assert sla(request_clock, noon("2025-01-31")) == Sla("on_track", 28)
    # A quarter of 28.5 days is 7.125 days, which comes before "fewer than 7 days".
    quarter = (due - request_clock.received_at) * 0.25
    assert sla(request_clock, due - quarter - timedelta(seconds=1)).status == "on_track"
    assert sla(request_clock, due - quarter) == Sla("at_risk", 7)
    assert sla(request_clock, due) == Sla("at_risk", 0)
    assert sla(request_clock, due + timedelta(seconds=1)) == Sla("breached", -1)
    assert sla(request_clock, due + timedelta(days=2)) == Sla("breached", -2)


def test_at_risk_limits_are_arguments() -> None:
    request_clock = gdpr("2025-01-31")
    due = request_clock.due_at

    def status(left: timedelta, days: int, share: float) -> str:
        return sla(request_clock, due - left, at_risk_days=days, at_risk_share=share).status

    assert status(timedelta(days=7), 7, 0) == "on_track"
    assert status(timedelta(days=7, seconds=-1), 7, 0) == "at_risk"
    assert status(timedelta(days=10), 0, 0.25) == "on_track"
    assert status(timedelta(days=10), 0, 0.5) == "at_risk"
    assert status(timedelta(days=10), 12, 0) == "at_risk"


def test_standing_of_a_closed_request_does_not_change() -> None:
    request_clock = gdpr("2025-01-31")
    due = request_clock.due_at
    much_later = due + timedelta(days=400)
    early = due - timedelta(days=3)
    assert sla(request_clock, much_later, closed_at=early) == Sla("met", 3)
    assert sla(request_clock, much_later, closed_at=due) == Sla("met", 0)
    late = due + timedelta(hours=1)
    assert sla(request_clock, much_later, closed_at=late) == Sla("breached", -1)


@pytest.mark.parametrize(
    ("regime", "received", "last_day"),
    [("gdpr", "2025-03-05", "2025-04-07"), ("ccpa", "2026-03-01", "2026-04-15")],
)
def test_extension_notice_must_be_inside_the_first_period(
    regime: str, received: str, last_day: str
) -> None:
    last = end_of(last_day)
    assert can_extend(regime, noon(received), last, country=None)
    assert not can_extend(regime, noon(received), last + timedelta(seconds=1), country=None)


def test_extension_notice_follows_country_and_time_zone() -> None:
    received, now = noon("2025-05-19"), end_of("2025-06-20")
    assert can_extend("gdpr", received, now, country="DE", subdivision="BY")
    assert not can_extend("gdpr", received, now, country="DE", subdivision="BE")
    west = ZoneInfo("America/Los_Angeles")
    assert can_extend("gdpr", received, now, country="DE", subdivision="BY", time_zone=west)
    after_utc_midnight = now + timedelta(hours=3)
    assert not can_extend("gdpr", received, after_utc_midnight, country="DE", subdivision="BY")
    assert can_extend(
        "gdpr", received, after_utc_midnight, country="DE", subdivision="BY", time_zone=west
    )
