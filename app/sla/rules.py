"""Statutory clocks: when a request is due, and how it stands against that.

Dates are counted as the law counts them, in calendar months or days from receipt, and every clock
explains itself in one paragraph for the DPO. Not legal advice. Suspensions are not computed here:
Art. 12 GDPR has no text for them, and the California clock runs on while identity is verified.
"""

from calendar import monthrange
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from types import MappingProxyType
from typing import Final, Literal

import holidays

SlaStatus = Literal["on_track", "at_risk", "breached", "met"]
_LAST_SECOND: Final = time(23, 59, 59)
_SATURDAY: Final = 5
_DAY: Final = timedelta(days=1)


class UnknownRegime(ValueError):
    """No such regime is registered."""

    def __init__(self) -> None:
        super().__init__(f"Unknown regime. Give one of: {', '.join(sorted(REGIMES))}")


class UnknownCountry(ValueError):
    """No public holidays are known for this country or subdivision."""

    def __init__(self) -> None:
        super().__init__(
            "No public holidays are known for this country or subdivision. Give ISO 3166 codes,"
            " such as country DE with subdivision BE, or no country to count weekends only"
        )


@dataclass(frozen=True, slots=True)
class Regime:
    """How one law counts: a period, and one extension that starts where the period ends."""

    name: str
    law: str
    unit: Literal["month", "day"]
    period: int
    extension: int
    moves_to_working_day: bool
    acknowledge_business_days: int | None
    rule: str


REGIMES: Final[Mapping[str, Regime]] = MappingProxyType(
    {
        regime.name: regime
        for regime in (
            Regime(
                name="gdpr",
                law="Regulation (EU) 2016/679 Art. 12(3); Regulation (EEC, Euratom) 1182/71 Art. 3",
                unit="month",
                period=1,
                extension=2,
                moves_to_working_day=True,
                acknowledge_business_days=None,
                rule="One calendar month from receipt, by any official channel, to the same date"
                " number, or to the last day of a month that lacks it.",
            ),
            Regime(
                name="uk_gdpr",
                law="UK GDPR Art. 12(3) and 12A (Data (Use and Access) Act 2025 s. 76)",
                unit="month",
                period=1,
                extension=2,
                moves_to_working_day=True,
                acknowledge_business_days=None,
                rule="One calendar month from the latest of the request, the information that"
                " confirms identity and a fee, to the same date number, or to the last day of a"
                " month that lacks it.",
            ),
            Regime(
                name="ccpa",
                law="California Civil Code 1798.105 and 1798.130; 11 CCR 7021",
                unit="day",
                period=45,
                extension=45,
                moves_to_working_day=False,
                acknowledge_business_days=10,
                rule="45 calendar days from receipt, whatever time the verification of identity"
                " takes; a Saturday, Sunday or holiday at the end moves nothing.",
            ),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Clock:
    """When one request is due. All times are UTC; each deadline is the last second of its day.

    `due_at` is the deadline in force. `extended_due_at` is where the one extension that the law
    knows ends, whether or not it is in force. `acknowledge_by` is None where no law sets it.
    """

    received_at: datetime
    due_at: datetime
    extended_due_at: datetime
    acknowledge_by: datetime | None
    extended: bool
    law: str
    explanation: str


@dataclass(frozen=True, slots=True)
class Sla:
    """How a request stands. `days_left` are whole days of 24 hours; negative once it is late."""

    status: SlaStatus
    days_left: int


def clock(
    regime: str,
    received_at: datetime,
    *,
    country: str | None,
    extended: bool,
    subdivision: str | None = None,
    time_zone: tzinfo = UTC,
) -> Clock:
    """Returns the clock of a request.

    The day of receipt is not counted (Reg. 1182/71 Art. 3(1)), in California neither (Cal. Civ.
    Code 10; read as day one, 11 CCR 7021(b) would end a day earlier). A month ends on the same date
    number, or on the last day of a month that lacks it (Art. 3(2)(c)); an end on a Saturday, Sunday
    or public holiday moves to the end of the next working day (Art. 3(4)). An extension is chained,
    one month and then two, never three months at once: that is the same day or an earlier one, so
    neither way of counting finds it late.

    Args:
        regime: a key of `REGIMES`.
        received_at: aware. Under the UK GDPR, the latest of the request, what confirms the
            identity, and a fee.
        country: ISO 3166 alpha-2 of the controller, for its public holidays; None counts Saturdays
            and Sundays only, which can only make a deadline earlier.
        extended: whether the person was told of the extension in time.
        subdivision: of the country, for its holidays.
        time_zone: the controller's. It decides which day it was, and when a day ends.

    Raises:
        UnknownRegime: `regime` is not registered.
        UnknownCountry: there are no holidays for the country or subdivision.
        ValueError: `received_at` has no UTC offset.
    """
    rules = _regime(regime)
    if received_at.utcoffset() is None:
        raise ValueError("received_at needs a UTC offset")
    is_working_day = _calendar(country, subdivision)
    received_on = received_at.astimezone(time_zone).date()
    period_end = _add(received_on, rules.period, rules.unit)
    extension_end = _add(period_end, rules.extension, rules.unit)
    counted = extension_end if extended else period_end
    due_on = _due_on(counted, rules, is_working_day)

    def end_of(day: date) -> datetime:
        return datetime.combine(day, _LAST_SECOND, tzinfo=time_zone).astimezone(UTC)

    return Clock(
        received_at=received_at.astimezone(UTC),
        due_at=end_of(due_on),
        extended_due_at=end_of(_due_on(extension_end, rules, is_working_day)),
        acknowledge_by=None
        if rules.acknowledge_business_days is None
        else end_of(_business_days(received_on, rules.acknowledge_business_days, is_working_day)),
        extended=extended,
        law=rules.law,
        explanation=_explanation(rules, received_on, counted, due_on, country, extended),
    )


def sla(
    request_clock: Clock,
    now: datetime,
    *,
    closed_at: datetime | None = None,
    at_risk_days: int = 7,
    at_risk_share: float = 0.25,
) -> Sla:
    """Returns how a request stands at `now`, or stood when it was closed.

    A closed request is `met` up to and including its deadline, else `breached` for good. An open
    one is `at_risk` when fewer than `at_risk_days` days, or no more than `at_risk_share` of the
    whole clock from receipt, are left, whichever comes first.
    """
    moment = now if closed_at is None else closed_at
    left = request_clock.due_at - moment
    days_left = left // _DAY
    if left < timedelta(0):
        return Sla("breached", days_left)
    if closed_at is not None:
        return Sla("met", days_left)
    share = (request_clock.due_at - request_clock.received_at) * at_risk_share
    at_risk = left < timedelta(days=at_risk_days) or left <= share
    return Sla("at_risk" if at_risk else "on_track", days_left)


def can_extend(
    regime: str,
    received_at: datetime,
    now: datetime,
    *,
    country: str | None,
    subdivision: str | None = None,
    time_zone: tzinfo = UTC,
) -> bool:
    """Says whether the person can still be told of an extension, with the reasons for it.

    The notice must go out within the first period: month one (GDPR Art. 12(3)), the first 45 days
    (Cal. Civ. Code 1798.130). Whether the reasons are good is for the DPO.

    Raises:
        UnknownRegime, UnknownCountry, ValueError: as `clock` does.
    """
    first = clock(
        regime,
        received_at,
        country=country,
        extended=False,
        subdivision=subdivision,
        time_zone=time_zone,
    )
    return now <= first.due_at


def _regime(name: str) -> Regime:
    if name not in REGIMES:
        raise UnknownRegime
    return REGIMES[name]


def _calendar(country: str | None, subdivision: str | None) -> Callable[[date], bool]:
    if country is None:
        return lambda day: day.weekday() < _SATURDAY
    try:
        public_holidays = holidays.country_holidays(country, subdiv=subdivision)
    except NotImplementedError:
        raise UnknownCountry from None
    return lambda day: day.weekday() < _SATURDAY and day not in public_holidays


def _add(day: date, count: int, unit: Literal["month", "day"]) -> date:
    if unit == "day":
        return day + timedelta(days=count)
    months = day.year * 12 + (day.month - 1) + count
    year, month = months // 12, months % 12 + 1
    return date(year, month, min(day.day, monthrange(year, month)[1]))


def _due_on(day: date, rules: Regime, is_working_day: Callable[[date], bool]) -> date:
    while rules.moves_to_working_day and not is_working_day(day):
        day += _DAY
    return day


def _business_days(day: date, count: int, is_working_day: Callable[[date], bool]) -> date:
    while count:
        day += _DAY
        count -= is_working_day(day)
    return day


def _explanation(
    rules: Regime,
    received_on: date,
    counted: date,
    due_on: date,
    country: str | None,
    extended: bool,
) -> str:
    sentences = [rules.rule, f"Received on {received_on}, a day that is not counted."]
    if extended:
        sentences.append(f"Extended once, by {rules.extension} {rules.unit}s from there.")
    sentences.append(f"The period ends on {counted:%A}, {counted}.")
    if due_on != counted:
        sentences.append(f"That is no working day: due by the end of {due_on:%A}, {due_on}.")
    if country is None and rules.moves_to_working_day:
        sentences.append("Public holidays were not looked at: no country is set.")
    return " ".join(sentences)
