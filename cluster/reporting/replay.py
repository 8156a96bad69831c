"""A run's events.jsonl told again to a callback: what a run that goes on elsewhere looks like, from its directory alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from actors.messages import ClientRound, EvaluationReport, RoundReport
from cluster.config.loading import load_config
from cluster.reporting.status import LiveStatus, Status, first_status

_CLIENT, _ROUND, _EVALUATION = TypeAdapter(ClientRound), TypeAdapter(RoundReport), TypeAdapter(EvaluationReport)


class ReplayedStatus:
    """The status of the run in a directory. Each look reads only what its log has gained."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError: no run has begun there."""
        self._log = path / "events.jsonl"
        self._config, self._read, self._time = load_config(path / "config.yaml"), 0, datetime.fromtimestamp(0).astimezone()
        self._name = self._config.name or path.resolve().name
        self._begin(str(path))

    def _begin(self, directory: str) -> None:
        self._newest, self._rows = first_status(self._name, directory), list[ClientRound]()
        self._status = LiveStatus(self._name, directory, self._take, lambda: self._time)
        self._status.starting(self._config)

    def _take(self, status: Status) -> None:
        self._newest = status

    def look(self) -> Status:
        """The newest status. A line that does not say what it should is passed over: a killed driver may leave a part of one."""
        if not self._log.is_file():
            return self._newest
        if self._log.stat().st_size < self._read:  # another log has taken its place
            self._read = 0
            self._begin(self._newest["directory"])
        with self._log.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                self._tell(line)
        return self._newest

    def _tell(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            self._time = datetime.fromisoformat(event["time"])
            self._replay(event["event"], event)
        except (ValueError, KeyError, TypeError):
            return

    def _replay(self, kind: str, event: Mapping[str, Any]) -> None:
        status = self._status
        match kind:
            case "state":
                status.state_changed(event["state"])
            case "members":
                status.members_changed(event["client_ids"])
            case "round_started":
                self._rows = []
                status.round_started(event["round"], event["client_ids"])
            case "waiting":
                status.clients_waiting(event["round"], event["client_ids"])
            case "client_done":
                status.client_done(event["client_id"], event["reason"])
            case "client":
                self._rows.append(_CLIENT.validate_python(event))
            case "round":
                status.round_finished(_ROUND.validate_python({**event, "clients": self._rows}))
            case "evaluation":
                status.evaluated(_EVALUATION.validate_python(event))
