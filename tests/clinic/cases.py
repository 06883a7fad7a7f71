"""All planted cases of the clinic, by name."""

from __future__ import annotations

from tests.clinic import healthy, landscapes, networks, steps
from tests.clinic.case import Case

CASES: dict[str, Case] = {
    case.name: case for case in (*landscapes.CASES, *steps.CASES, *networks.CASES, *healthy.CASES)
}
