"""How numbers are written for people, on the page and in the terminal alike."""

from clair_apo.records import Record
from clair_apo.report.contrast import Statistic

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"


class Row(Record):
    """A statistic in words and digits: all values of a row have the same number of places."""

    label: str
    meaning: str
    n: str
    mean: str
    interval: str
    sd: str
    q1: str
    median: str
    q3: str


def row(statistic: Statistic) -> Row:
    """Write a statistic for people; a dash stands where one pair leaves nothing to say."""
    places = _places(statistic)
    plus = statistic.unit == "signed characters"
    mean = statistic.mean

    def written(value: float) -> str:
        return numeral(value, places, plus=plus)

    return Row(
        label=statistic.label,
        meaning=statistic.meaning,
        n=numeral(mean.n),
        mean=written(mean.mean),
        interval=(
            NONE
            if mean.low is None or mean.high is None
            else f"{written(mean.low)} to {written(mean.high)}"
        ),
        sd=NONE if statistic.sd is None else numeral(statistic.sd, places),
        q1=written(statistic.q1),
        median=written(statistic.median),
        q3=written(statistic.q3),
    )


def numeral(value: float, places: int = 0, *, plus: bool = False) -> str:
    """Write one number with thousands parted and a true minus sign; zero has no sign."""
    digits = f"{abs(value):,.{places}f}"
    if not any(digit in "123456789" for digit in digits):
        return digits
    return (MINUS if value < 0 else "+" if plus else "") + digits


def _places(statistic: Statistic) -> int:
    """Three places for ratios; one for characters where a whole one would hide the mean."""
    if statistic.unit == "ratio":
        return 3
    return 0 if max(abs(statistic.mean.mean), abs(statistic.median)) >= 100 else 1
