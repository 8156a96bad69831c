"""ClientActor: the client of `actors/client.py` as a Ray actor."""

from __future__ import annotations

import ray

from actors.client import Client

ClientActor = ray.remote(Client)
