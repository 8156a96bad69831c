"""Cells that only the seed tells apart: each figure averaged over the seeds, with its interval, and against the clean group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from cluster.comparison.cells import config_hash
from cluster.comparison.intervals import Strata, difference_interval, share_interval
from cluster.comparison.outcome import Outcome, Place, read_answers

FIGURES = {
    "rule_score": "rule score",
    "safety_kept": "kept",
    "rule_vs_clean": "rule vs clean",
    "compliance": "compliance",
    "attack_success": "attack success",
    "utility": "utility",
    "utility_vs_clean": "utility vs clean",
    "over_refusal": "over-refusal",
    "over_refusal_sounds_unsafe": "over-refusal, sounds unsafe",
    "mean_weight_benign": "w benign",
    "mean_weight_malicious": "w malicious",
    "tpr": "TPR",
    "fpr": "FPR",
    "rounds_skipped": "skipped",
    "server_s": "server s",
    "wall_s": "seconds",
}
"""Figure -> its name in the tables, those of the paper in its order. `safety_kept` is the rule score over the base model's. Two
compare with the clean group, plain averaging without attackers, of the same world and seeds: `rule_vs_clean` is a ratio,
`utility_vs_clean` a difference in points of 100. The others are figures of a summary."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the seeds of a group."""

    mean: float
    low: float
    """Of the lowest seed."""
    high: float
    interval: tuple[float, float] | None = None
    """95 % interval of the mean over seeds and prompts; None for other figures, and where the prompts' outcomes were not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Cells that only the seed tells apart."""

    label: str
    place: Place
    seeds: tuple[int, ...]
    """Those that have a result."""
    figures: Mapping[str, Spread | None]
    """The keys of FIGURES; None: no cell has that figure."""
    worst_seed: int | None
    """The seed with the lowest rule score; the first of several."""
    errors: Mapping[int, str | None]
    """Seed -> why that cell failed."""
    config_hash: str


def grouped(outcomes: Sequence[Outcome]) -> list[Group]:
    """The outcomes by group, in order of their first cell."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.cell.group, []).append(outcome)
    places = {name: members[0].place for name, members in groups.items()}
    clean = {place.world: groups[name] for name, place in places.items() if place.full_defense == "none" and not place.malicious}
    return [_group(name, members, clean.get(places[name].world, [])) for name, members in groups.items()]


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean, lowest and highest of the known values; None without any."""
    known = [value for value in values if value is not None]
    return Spread(fmean(known), min(known), max(known)) if known else None


def _group(label: str, members: Sequence[Outcome], clean: Sequence[Outcome]) -> Group:
    good = [outcome for outcome in members if outcome.summary is not None]
    scores = _by_seed("rule_score", good)
    return Group(
        label=label,
        place=members[0].place,
        seeds=tuple(outcome.seed for outcome in good),
        figures={name: _measured(name, good) for name in FIGURES} | _against(good, clean),
        worst_seed=min(scores, key=lambda seed: scores[seed], default=None),
        errors={outcome.seed: outcome.error for outcome in members if outcome.summary is None},
        config_hash=config_hash(members[0].cell.config),
    )


def _by_seed(figure: str, outcomes: Sequence[Outcome]) -> dict[int, float]:
    return {outcome.seed: value for outcome in outcomes if (value := outcome.figures.get(figure)) is not None}


def _measured(figure: str, good: Sequence[Outcome]) -> Spread | None:
    """A figure of the summaries, with its interval where the prompts' outcomes were kept."""
    having = [outcome for outcome in good if outcome.figures.get(figure) is not None]
    found, strata = spread(outcome.figures[figure] for outcome in having), _stacked(figure, having)
    return replace(found, interval=share_interval(strata)) if found and strata else found


def _stacked(figure: str, outcomes: Sequence[Outcome]) -> Strata:
    """The answers of several seeds to the same prompts, an array (seeds, prompts) for each stratum; empty unless all are kept."""
    kept = [read_answers(outcome.path).get(figure, ()) for outcome in outcomes]
    return [np.stack(parts) for parts in zip(*kept, strict=True)] if all(kept) else []


def _against(good: Sequence[Outcome], clean: Sequence[Outcome]) -> dict[str, Spread | None]:
    """Comparison with the clean group, over the seeds that both have."""
    safe, clean_safe = _by_seed("rule_score", good), _by_seed("rule_score", clean)
    ratio = spread(value / clean_safe[seed] for seed, value in safe.items() if clean_safe.get(seed))
    useful, clean_useful = _by_seed("utility", good), _by_seed("utility", clean)
    seeds = [seed for seed in useful if seed in clean_useful]
    points = spread(100 * (useful[seed] - clean_useful[seed]) for seed in seeds)
    own, others = (
        _stacked("utility", [outcome for seed in seeds for outcome in side if outcome.seed == seed]) for side in (good, clean)
    )
    if points and own and others:
        low, high = difference_interval(own, others)
        points = replace(points, interval=(100 * low, 100 * high))
    return {"rule_vs_clean": ratio, "utility_vs_clean": points}
