"""Settings of levels, gate and guard. Defaults are the paper's (docs/method.md sections 3 and 4)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from defense.guard import GuardConfig
from defense.levels import LEVELS
from defense.levels.canary import CanarySettings
from defense.levels.client import ClientSettings
from defense.levels.consensus import ConsensusSettings
from defense.levels.evidence import EvidenceSettings
from defense.levels.live import LiveSettings
from defense.levels.shadow import ShadowSettings
from defense.levels.spectrum import SpectrumSettings
from defense.levels.step import StepSettings
from defense.levels.utility import UtilitySettings
from defense.levels.zeno import ZenoSettings
from defense.preservation import PreservationConfig
from defense.settings import Settings


def _joined(level: object) -> str:
    """Levels as one text with `+` between them, from that or from a list; raises ValueError when they cannot compose."""
    names = [str(name) for name in level] if isinstance(level, (list, tuple)) else str(level).split("+")
    if unknown := [name for name in names if name not in LEVELS]:
        raise ValueError(f"{unknown[0]!r} is no level; there are {', '.join(LEVELS)}, and compositions such as live+canary")
    if len(set(names)) < len(names) or ("none" in names and len(names) > 1) or not names:
        raise ValueError(f"level={'+'.join(names)}: name each level once, and `none` alone")
    if {"shadow", "evidence"} <= set(names):
        raise ValueError(f"level={'+'.join(names)}: evidence is shadow with fewer of them; leave one of the two out")
    return "+".join(names)


class DefenseConfig(Settings):
    """Who counts, and how much."""

    level: Annotated[str, BeforeValidator(_joined)] = "live+canary+spectrum+consensus"
    """A level, or several: `live+canary`, in YAML also a list. A client weighs the least of what they say. Paper: shadow, which
    clients that lie in their shadow, or hide in later layers, defeat."""
    min_weight: float = Field(default=0.0, ge=0, le=1)
    """Lower bound of weights computed from valid evidence, applied after the skip gate."""
    skip_below: float = Field(default=0.2, ge=0, le=1)
    """A round whose mean weight is below this is skipped."""
    false_positive_rate: float = Field(default=0.01, gt=0, lt=0.5)
    """Share of honest client-rounds that the bounds of all levels together may exclude; split evenly over the levels that have
    one. Each bound that no key sets follows from it and the server's reference clients (docs/method.md section 8)."""
    step: StepSettings = StepSettings()
    client: ClientSettings = ClientSettings()
    shadow: ShadowSettings = ShadowSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    live: LiveSettings = LiveSettings()
    canary: CanarySettings = CanarySettings()
    preservation: PreservationConfig = PreservationConfig()
    guard: GuardConfig = GuardConfig()
    spectrum: SpectrumSettings = SpectrumSettings()
    consensus: ConsensusSettings = ConsensusSettings()
    zeno: ZenoSettings = ZenoSettings()
    utility: UtilitySettings = UtilitySettings()

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels one by one."""
        return tuple(self.level.split("+"))

    @property
    def preserves(self) -> bool:
        """Whether the server mends what a round has lost of its refusals."""
        return self._has_refusals if self.preservation.enabled is None else self.preservation.enabled

    @property
    def guards(self) -> bool:
        """Whether a round can be rolled back."""
        return self._has_refusals if self.guard.enabled is None else self.guard.enabled

    @property
    def _has_refusals(self) -> bool:
        return "canary" in self.levels
