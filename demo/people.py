"""The made-up people who own all of the demo's data: the same ones on every machine."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

PEOPLE = 150
DOMAINS = ("example.org", "example.com", "example.net")

# 25 and 23 have no common factor, so a pair comes again only after 575 people. All are of ASCII
# letters, so that a name is also the local part of an address.
_FIRST = (
    "Ana Bruno Clara Dario Elif Farid Greta Hugo Ines Jonas Karin Lukas Mira Nils Olga Pavel Rosa "
    "Samir Tilda Umar Vera Walid Yara Zeno Alma"
)
_LAST = (
    "Abel Berger Costa Dahl Eriksen Fischer Galli Haddad Ivanov Jansen Keller Lopez Moreau Novak "
    "Okafor Petrov Quist Rossi Sato Toth Ulrich Vogel Weber"
)
FIRST_NAMES, LAST_NAMES = tuple(_FIRST.split()), tuple(_LAST.split())
DOCTORS = ("Amari", "Brandt", "Chen", "Diaz", "Eskola", "Farkas", "Grimm", "Hoxha", "Iqbal")
COMPLAINTS = (
    "a stiff left knee",
    "a cough at night",
    "a rash on the wrist",
    "headaches after work",
    "a sore right shoulder",
    "ringing in one ear",
    "a swollen ankle",
    "trouble with sleep",
    "a dry eye",
)
MONTHS = ("January", "March", "April", "May", "June", "August", "October", "November")
DRINKS = ("black tea", "mint tea", "strong coffee", "cold water", "warm milk", "apple juice")
PLACES = ("the old harbour", "the library", "the north park", "the market", "the river bridge")
ALLERGIES = ("penicillin", "walnuts", "latex", "birch pollen", "shellfish", "bee stings")
PETS = ("a grey cat", "a small dog", "two finches", "a tortoise", "a lame pony", "a white rabbit")
STREETS = ("Mill Lane", "Station Road", "Lime Street", "Castle Hill", "Ferry Row", "Abbey Close")


@dataclass(frozen=True, slots=True)
class Person:
    """One made-up person."""

    person_id: str
    name: str
    email: str


def people(tag: str = "") -> list[Person]:
    """Return all people; no two share a name, an address or an id.

    Another `tag` gives people of other ids and addresses, for a service that knows these already.
    """
    return [_person(number, tag) for number in range(PEOPLE)]


def _person(number: int, tag: str) -> Person:
    first = FIRST_NAMES[number % len(FIRST_NAMES)]
    last = LAST_NAMES[number % len(LAST_NAMES)]
    # Domains that belong to nobody (RFC 2606 section 3).
    domain = DOMAINS[number % len(DOMAINS)]
    return Person(
        person_id=f"P{number + 1:04d}{tag}",
        name=f"{first} {last}",
        email=f"{first}.{last}{tag}@{domain}".lower(),
    )


def notes(person: Person) -> list[str]:
    """Return the four to six short records that a surgery keeps of a person.

    Their words are drawn by a hash of the person's id. Each holds the person's card number, which
    nobody else has: something that a model can only know by having learned it.
    """
    draw = _Draw(person.person_id)
    name = f"{person.name} ({draw.number(899) + 100}-{draw.number(899) + 100})"
    written = [
        f"{name} saw Dr. {draw.one(DOCTORS)} on {draw.number(28)} {draw.one(MONTHS)} about "
        f"{draw.one(COMPLAINTS)}.",
        f"{name} lives at {draw.number(99)} {draw.one(STREETS)} with {draw.one(PETS)}.",
        f"{name} is allergic to {draw.one(ALLERGIES)} and asked for a card that says so.",
        f"{name} drinks {draw.one(DRINKS)} and walks to {draw.one(PLACES)} every "
        f"{draw.number(9) + 1} days.",
        f"{name} comes again on {draw.number(28)} {draw.one(MONTHS)} at "
        f"{draw.number(9) + 8}:{draw.number(49) + 10} to see Dr. {draw.one(DOCTORS)}.",
        f"{name} asked for calls after {draw.number(8) + 12} o'clock, because of work at "
        f"{draw.one(PLACES)}.",
    ]
    return written[: 4 + draw.number(3) - 1]


class _Draw:
    """Choices that follow from a seed alone."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._drawn = 0

    def number(self, largest: int) -> int:
        """Draw a number from 1 to `largest`."""
        self._drawn += 1
        digest = hashlib.sha256(f"{self._seed} {self._drawn}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % largest + 1

    def one(self, words: Sequence[str]) -> str:
        """Draw one of the words."""
        return words[self.number(len(words)) - 1]
