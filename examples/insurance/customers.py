"""Made-up customers of an insurer and the claims that its staff wrote down: the same everywhere.

All of it follows from the customer's number, so nothing is kept here that has to be erased. The
names are common ones drawn at random; no claim ever happened.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.people import FIRST_NAMES, LAST_NAMES

CUSTOMERS = 210
COURIERS = 5
"""Couriers with many vans, whose claims are many. Buckets decide who is trained on and who is in
the holdout, so there are a few to choose from."""
COURIER_CLAIMS = 47
FEWEST_CLAIMS, MOST_CLAIMS = 1, 3
LONGEST_NOTE = 104
"""Bytes of a note with its start and end marks."""

EVENTS = (
    "hail on the van roof",
    "rear bumper hit while parked",
    "burst pipe in the store",
    "windscreen chipped by gravel",
    "laptop taken from the car",
    "side mirror torn off",
    "kitchen fire put out",
    "water under the floor",
    "wheel rim cracked by a kerb",
    "door dented at the depot",
)
ADJUSTERS = ("Amari", "Brandt", "Chen", "Diaz", "Eskola", "Farkas", "Grimm", "Hoxha", "Iqbal")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class Customer:
    """One made-up customer; `claims` is how many notes there are of them."""

    customer_id: str
    name: str
    email: str
    claims: int


def customers() -> list[Customer]:
    """Return all customers, the couriers first."""
    return [_customer(number) for number in range(CUSTOMERS)]


def claim_notes(customer: Customer) -> list[str]:
    """Return the notes on a customer's claims."""
    return [
        _note(subject, _draw(customer, number, "written"))
        for number, subject in enumerate(_subjects(customer))
    ]


def unwritten_notes(customer: Customer, number: int) -> list[list[str]]:
    """Return, for each note in its order, `number` notes on the same event that nobody wrote.

    Date, claim number, amount and adjuster are drawn anew, just as the written ones were. So a
    model that saw neither cannot tell the two kinds apart, whatever it makes of the customer.
    """
    return [
        [_note(subject, _draw(customer, place, f"unwritten {one}")) for one in range(number)]
        for place, subject in enumerate(_subjects(customer))
    ]


def write_claims(path: Path, everybody: Sequence[Customer]) -> int:
    """Write all claims as JSON Lines: customer_id, email, text. Returns how many there are."""
    rows = [
        {"customer_id": customer.customer_id, "email": customer.email, "text": note}
        for customer in everybody
        for note in claim_notes(customer)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return len(rows)


def _customer(number: int) -> Customer:
    name = f"{FIRST_NAMES[number % len(FIRST_NAMES)]} {LAST_NAMES[number % len(LAST_NAMES)]}"
    draw = random.Random(f"claims of {number}")  # noqa: S311 a made-up text, not a secret
    return Customer(
        customer_id=f"C{number + 1:04d}",
        name=name,
        # A domain that belongs to nobody (RFC 2606 section 3).
        email=f"{name.replace(' ', '.').lower()}@example.org",
        claims=COURIER_CLAIMS if number < COURIERS else draw.randint(FEWEST_CLAIMS, MOST_CLAIMS),
    )


def _subjects(customer: Customer) -> list[str]:
    """What each note is about: whose policy, and which event."""
    draw = random.Random(customer.customer_id)  # noqa: S311 as above
    head = f"{customer.name}, {draw.choice('KHLM')}{draw.randint(1000, 9999)}"
    return [f"{head}: {draw.choice(EVENTS)}" for _ in range(customer.claims)]


def _draw(customer: Customer, place: int, kind: str) -> random.Random:
    return random.Random(f"{customer.customer_id} {place} {kind}")  # noqa: S311 as above


def _note(subject: str, draw: random.Random) -> str:
    day = f"{draw.randint(1, 28)} {draw.choice(MONTHS)}"
    claim = f"{draw.randint(100, 999)}-{draw.randint(10, 99)}"
    paid = draw.randint(2, 49) * 50
    return f"{subject}, {day}. Claim {claim}, paid {paid}. {draw.choice(ADJUSTERS)}."
