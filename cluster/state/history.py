"""What a run has reported: it grows with rounds and clients, so a checkpoint names it and does not hold it.

A file has what was new at a commit, and the name of the file before, which is its hash. So a commit costs what its rounds have,
nothing is written twice, and the name of the newest file vouches for all.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from cluster.errors import CheckpointError
from cluster.state.manifest import digest
from cluster.state.place import UNREADABLE, Place

FOLDER = "reports"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """Each in order of rounds."""

    rounds: tuple[RoundReport, ...] = ()
    probe_rounds: tuple[ProbeRound, ...] = ()
    evaluations: tuple[EvaluationReport, ...] = ()

    def since(self, known: Reports) -> Reports:
        """What has come after `known`, with which these begin."""
        return Reports(
            rounds=self.rounds[len(known.rounds) :],
            probe_rounds=self.probe_rounds[len(known.probe_rounds) :],
            evaluations=self.evaluations[len(known.evaluations) :],
        )

    def __add__(self, later: Reports) -> Reports:
        return Reports(
            rounds=self.rounds + later.rounds,
            probe_rounds=self.probe_rounds + later.probe_rounds,
            evaluations=self.evaluations + later.evaluations,
        )


_REPORTS = TypeAdapter(Reports)


class History:
    """The reports of one run, beside its checkpoints."""

    def __init__(self, place: Place) -> None:
        """`place`: that of the checkpoints."""
        self._place = place
        self._names: list[str] = []
        self._known = Reports()

    def write(self, reports: Reports) -> str:
        """Write what is new since the last `write` or `read`; returns the name for `read`, empty where nothing was ever reported.

        Raises:
            CheckpointError: it cannot be written.
        """
        new = reports.since(self._known)
        if new != Reports():
            before = self._names[-1] if self._names else ""
            content = json.dumps({"before": before, **asdict(new)}, default=dict).encode()
            self._place.write(_path(name := digest(content)), content)
            self._names.append(name)
            self._known = reports
        return self._names[-1] if self._names else ""

    def read(self, name: str) -> Reports:
        """All reports up to a `write` that returned this name; the next `write` goes on from there.

        Raises:
            CheckpointError: a file is missing or damaged; names it.
        """
        names: list[str] = []
        parts: list[Reports] = []
        while name:
            before, part = self._part(name)
            names.append(name)
            parts.append(part)
            name = before
        self._names, self._known = names[::-1], sum(reversed(parts), Reports())
        return self._known

    def remove_others(self) -> None:
        """Remove what was written after the reports that were read, and what was never committed.

        Raises:
            CheckpointError: a file cannot be removed.
        """
        kept = {_path(name) for name in self._names}
        for file, _ in self._place.entries(FOLDER):
            if (path := f"{FOLDER}/{file}") not in kept:
                self._place.remove(path)

    def _part(self, name: str) -> tuple[str, Reports]:
        """The name of the file before, and what the file itself has."""
        path = self._place.path(_path(name))
        try:
            content = self._place.read(_path(name))
        except UNREADABLE as error:
            raise CheckpointError(f"{path} cannot be read: {error}; put it back, or go back with --from-round") from error
        if digest(content) != name:
            raise CheckpointError(f"{path} is damaged (hash mismatch); put back what was there, or go back with --from-round")
        plain = json.loads(content)
        return plain.pop("before"), _REPORTS.validate_python(plain)


def _path(name: str) -> str:
    return f"{FOLDER}/{name}.json"
