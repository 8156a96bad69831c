"""Each client's part in a run, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup
from rich.text import Text

from cluster.report.reading import Row, Run
from cluster.report.states import COUNTING, STATES, cause, state_of, why
from cluster.report.text import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One client over all rounds. A notebook and a terminal show it in words."""

    client_id: str
    rows: Sequence[Row] = field(repr=False)
    """In order of rounds."""
    attacker: bool | None
    """Whether it is a simulated attacker; None: nobody knows."""

    @property
    def counted(self) -> int:
        """Rounds in which it was admitted with half of the full weight or more, also where the round as a whole did not count."""
        return sum(state_of(row) in COUNTING for row in self.rows)

    @property
    def out(self) -> list[Row]:
        """The rounds in which it did not count."""
        return [row for row in self.rows if state_of(row) not in COUNTING]

    @property
    def is_out(self) -> bool:
        """Whether it did not count in most of its rounds."""
        return 2 * self.counted < len(self.rows)

    @property
    def main_cause(self) -> str:
        """What put it out most often; empty where nothing did."""
        causes = Counter(cause(row) for row in self.out)
        return causes.most_common(1)[0][0] if causes else ""

    @property
    def out_since(self) -> int | None:
        """The round, counted from 1, since which it has counted in none; None: it counted in the last of its rounds."""
        since = None
        for row in self.rows:
            is_in = state_of(row) in COUNTING
            since = None if is_in else since or row["round"] + 1
        return since

    def sentences(self) -> list[str]:
        """What a person should know of it."""
        said = [f"It took part in {len(self.rows)} rounds and counted in {self.counted}."]
        for state in STATES:
            rows = [row for row in self.rows if state_of(row) == state]
            if rows and state == "excluded":
                for level in dict.fromkeys(cause(row) for row in rows):
                    own = [row for row in rows if cause(row) == level]
                    said.append(f"Level {level} excluded it in {_rounds(own)}. Last: {_last(own)}.")
            elif rows and state != "counted":
                said.append(f"{state.capitalize()} in {_rounds(rows)}: {STATES[state]}. Last: {_last(rows)}.")
        return said

    def __str__(self) -> str:
        return " ".join([f"{shown(self.client_id)}:", *(shown(sentence) for sentence in self.sentences())])

    def __rich__(self) -> Text:
        return Text(str(self))

    def _repr_html_(self) -> str:
        said = Markup().join(Markup("<li>{}</li>").format(shown(sentence)) for sentence in self.sentences())
        return Markup("<p><strong>{}</strong></p><ul>{}</ul>").format(shown(self.client_id), said)


def histories(run: Run) -> list[History]:
    """Of all clients: those that count least come first."""
    rows: dict[str, list[Row]] = {}
    for row in run.clients:
        rows.setdefault(row["client_id"], []).append(row)
    found = [
        History(
            client_id=name,
            rows=sorted(own, key=lambda row: row["round"]),
            attacker=None if run.attackers is None else name in run.attackers,
        )
        for name, own in rows.items()
    ]
    return sorted(found, key=lambda item: (item.counted / len(item.rows), item.client_id))


def _rounds(rows: Sequence[Row]) -> str:
    return f"{'round' if len(rows) == 1 else 'rounds'} {ranges(row['round'] + 1 for row in rows)}"


def _last(rows: Sequence[Row]) -> str:
    return (rows[-1]["excluded_because"] or why(rows[-1])).rstrip(".")


def ranges(numbers: Iterable[int]) -> str:
    """Rising numbers with unbroken stretches drawn together.

    Example: 1, 2, 3, 5 is `1 to 3, 5`.
    """
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join(" to ".join(map(str, stretch)) for stretch in found)
