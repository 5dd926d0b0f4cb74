"""``pytest claims --plan``: what a run could decide, and what it would cost, before anything runs.

For every claim, at the sizes that its cells will have, the rates of `caploc.power`: simulated data through the
experiment's statistics and the claim's own rule. Time comes from the operations that the store lacks.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from caploc.audit.cells import CLAIM_TEST, PLANNED, REQUEST, will_run
from caploc.audit.claims import experiment_of
from caploc.audit.families import family_lines
from caploc.audit.results import Result
from caploc.audit.settings import AuditSettings
from caploc.audit.text import duration, in_ascii, plural, table_row

if TYPE_CHECKING:
    from caploc.audit.running import Run
    from caploc.findings import Cell
    from caploc.papers import Claim, Paper
    from caploc.power import Design, Rates
    from caploc.power.stopping import Stopping
    from caploc.store import Store

WANTED = 0.8
"""The power that a cell ought to have."""
OF_PEAK = 0.45
"""The share of a core's rate at large matrix products that small models reach: attributing 480 prompts of facts on
tiny-llama took 26 CPU-seconds for 1.63 TFLOP, .65 of it; training and evaluation, in short rows, reach less."""
MOST_SIMULATED_AGAIN = 12
"""Claims for which larger sizes are tried: each costs a second or two."""
ADVICE = "    "
HEAD = ("claim", "cells", "supp", "ref", "power", "against", "false s", "false r", "time")
WIDTHS = (36, 5, 5, 4, 6, 8, 8, 8, 10)


@dataclass
class Row:
    """The cells of one claim that have the same sizes."""

    claim: Claim
    design: Design | None
    why_none: str = ""
    covered: bool = True
    rates: Rates | None = None
    stopping: Stopping | None = None
    """Under ``--samples auto``, where the claim is looked at early."""
    advice: str = ""
    cells: list[tuple[str, float]] = field(default_factory=list)
    """Test id and operations."""

    @property
    def operations(self) -> float:
        return sum(one for _, one in self.cells)

    @property
    def expected(self) -> tuple[float, float]:
        """Operations where the effect is as stated, and where there is none."""
        shares = (self.stopping.share, self.stopping.share_null) if self.stopping else (1.0, 1.0)
        return self.operations * shares[0], self.operations * shares[1]

    @property
    def powered(self) -> bool:
        return self.rates is not None and self.rates.power >= WANTED


def write_plan(
    reporter: Any,
    items: Sequence[pytest.Item],
    settings: AuditSettings,
    papers: Mapping[str, Paper],
    run: Run,
) -> None:
    """The plan in the terminal, at most 100 columns wide."""
    claims = [item for item in items if PLANNED in item.stash]
    running = [item for item in claims if will_run(item)]
    left_out = Counter(_skip_reason(item) for item in claims if not will_run(item))
    began = time.monotonic()
    costs = run.costs(running)
    rows = _rows(running, settings, papers, {item: cost.flops for item, cost in costs.items()})
    rate = _operations_a_second()
    reporter.write_sep("=", "plan: nothing was run")
    for line in _lines(rows, rate, reporter.verbosity > 0):
        reporter.write_line(line)
    reporter.write_line("")
    for line in family_lines(claims, costs, settings, rate, _gigabytes()):
        reporter.write_line(line)
    reporter.write_line("")
    for line in _totals(rows, rate, left_out):
        reporter.write_line(line)
    if settings.samples == "auto":
        for line in _saved(rows, rate):
            reporter.write_line(line)
    reporter.write_line(f"planned in {duration(time.monotonic() - began)}; rates are kept in the store")


def _rows(
    items: Iterable[pytest.Item],
    settings: AuditSettings,
    papers: Mapping[str, Paper],
    operations: Mapping[pytest.Item, float],
) -> list[Row]:
    from caploc.power import kept_rates
    from caploc.store import Store

    store = Store(settings.store)
    found: dict[object, Row] = {}
    for item in items:
        planned, request, declared = item.stash[PLANNED], item.stash[REQUEST], item.stash[CLAIM_TEST]
        paper = papers.get(planned.paper)
        claim = paper.claims.get(planned.claim) if paper else None
        if claim is None:
            continue
        model = request.each[0].model if request.each else request.model
        device = settings.placement(model)[0] if model else "cpu"
        experiment = experiment_of(declared)
        design, covered, why = _designed(claim, planned.cell, experiment, settings, device)
        key = (planned.paper, claim.id, design, covered, why)
        if key not in found:
            found[key] = Row(claim, design, why, covered)
            if design is not None:
                found[key].rates = kept_rates(claim, design, store, covered)
            if design is not None and settings.samples == "auto":
                found[key].stopping = _stopping(claim, design, experiment, store, covered)
        found[key].cells.append((planned.test, operations.get(item, 0.0)))
    rows = list(found.values())
    for row in [row for row in rows if row.rates is not None and not row.powered][:MOST_SIMULATED_AGAIN]:
        row.advice = _advice(row)
    return rows


def _stopping(claim: Claim, design: Design, experiment: str, store: Store, covered: bool) -> Stopping | None:
    """What looking early saves, where that is done."""
    from caploc.power.stopping import kept_stopping
    from caploc.rules.looks import EARLY

    return kept_stopping(claim, design, store, covered) if experiment in EARLY else None


def rates_of(
    results: Iterable[Result],
    experiments: Mapping[str, str],
    settings: AuditSettings,
    papers: Mapping[str, Paper],
) -> dict[tuple[str, str], Rates]:
    """The rates of every claim and model whose cells were judged, by the names of claims' ``experiments``, where a
    plan has left them in the store: a report simulates nothing."""
    from caploc.power import known_rates
    from caploc.store import Store

    store = Store(settings.store)
    looked_up: dict[object, Rates | None] = {}
    found: dict[tuple[str, str], Rates] = {}
    for result in results:
        cell, name = result.planned.cell, result.planned.claim
        paper, used = papers.get(result.planned.paper), (result.finding or {}).get("settings", {})
        claim = paper.claims.get(name) if paper else None
        if claim is None or (name, cell.model) in found:
            continue
        device = str(used.get("device", "cpu"))
        design, covered, _ = _designed(claim, cell, experiments.get(name, ""), settings, device)
        if design is None:
            continue
        key = (result.planned.paper, name, design, covered)
        if key not in looked_up:
            looked_up[key] = known_rates(claim, design, store, covered)
        rates = looked_up[key]
        if rates is not None:
            found[name, cell.model] = rates
    return found


def _designed(
    claim: Claim, cell: Cell, experiment: str, settings: AuditSettings, device: str
) -> tuple[Design | None, bool, str]:
    """The design that a cell's numbers arise by on this device, and whether the printed numbers are about the cell; no
    design, and why, where nothing is simulated."""
    from caploc.power import NO_SAMPLING, Counted, Sizes, design_of

    covered, why = claim.covers(cell) or bool(claim.cells), NO_SAMPLING.get(claim.rule.kind, "")
    if not why and (nothing := _nothing_to_judge(claim, cell)):
        why = f"measured only: {nothing}"
    if why:
        return None, covered, why
    sizes = Sizes.of(settings.most_samples, settings.draws, len(settings.datasets), device.startswith("cuda"))
    design = design_of(experiment, sizes, claim.id, cell.dataset is None)
    if design is None:
        return None, covered, "no design is stated for this experiment: caploc/power/experiments.py"
    return (None, covered, design.shown) if isinstance(design, Counted) else (design, covered, "")


def _advice(row: Row) -> str:
    """Which option would give the power that is wanted."""
    from caploc.power import more_units
    from caploc.statistics import minimum_draws

    design = row.design
    assert design is not None
    needed = minimum_draws(row.claim.level, design.comparisons)
    draws = getattr(design, "draws", 0)
    if 0 < draws < needed:
        return f"--draws {needed}: p of {draws} random sets cannot fall below the level over {design.comparisons}"
    assert row.rates is not None
    units = more_units(row.claim, design, row.rates, row.covered)
    if units is None:
        return f"no number of {design.unit} tried gives 80 %: the effect is too close to the rule's threshold"
    if design.by_samples:
        return f"about --samples {units} gives 80 %"
    return f"about {units} {design.unit} would give 80 %; their number is no option of this run"


def _nothing_to_judge(claim: Claim, cell: Cell) -> str | None:
    """Why the rule will find nothing to judge in this cell, whatever is measured: it is asked, about a finding that has
    every number that the paper prints for the claim."""
    from caploc.findings import Finding, Measurement, Number, Part, Reading

    column = cell.dataset or "average"
    parts: dict[str, Part] = {one.key: Number() for one in claim.numbers}
    for one in claim.cells:
        if one.dataset == column:
            at = {"dataset": column, "method": one.method, "epoch": one.epoch, "quantity": one.quantity}
            parts[one.id] = Number(at=at)
    if claim.rule.kind == "readings":
        parts = {"a reading": Reading()}
    published = claim.published(cell, column)
    return claim.rule.nothing_to_judge(
        claim, Finding(claim.id, cell, Measurement("", parts=parts), published)
    )


def _skip_reason(item: pytest.Item) -> str:
    marker = item.get_closest_marker("skip")
    return str(marker.kwargs.get("reason", "skipped")) if marker else "skipped"


def _operations_a_second() -> float:
    """What this core does of large matrix products, times the share that small models reach."""
    import numpy as np

    one = np.ones((384, 384), np.float32)
    best = 0.0
    for _ in range(5):
        began = time.thread_time()  # which other processes do not lengthen
        one @ one
        best = max(best, 2 * 384**3 / max(1e-9, time.thread_time() - began))
    return OF_PEAK * best


def _lines(rows: Sequence[Row], rate: float, each_cell: bool) -> Iterator[str]:
    yield table_row(HEAD, WIDTHS)
    for row in rows:
        seconds = duration(row.operations / rate) if row.operations else "-"
        shown = [in_ascii(row.claim.id, WIDTHS[0]), str(len(row.cells))]
        found = row.rates
        if found is None:
            yield table_row([*shown, "-", "-", "-", "-", "-", "-", seconds], WIDTHS)
            yield f"{ADVICE}{row.why_none}"
        else:
            reach = ["yes" if one else "NO" for one in (found.can_support, found.can_refute)]
            share = [
                f"{one:.0%}"
                for one in (found.power, found.against, found.false_supported, found.false_refuted)
            ]
            yield table_row([*shown, *reach, *share, seconds], WIDTHS)
            at = "" if found.stated is None else f" at {found.stated:.3g}"
            sizes = row.design.shown if row.design else ""
            yield f"{ADVICE}{sizes}{at}" + (f"; {row.advice}" if row.advice else "")
        if row.stopping is not None:
            yield f"{ADVICE}{row.stopping.words}"
        if each_cell:
            yield from (
                f"{ADVICE}{ADVICE}{in_ascii(test, 78)}" + (f"  {duration(one / rate)}" if one else "")
                for test, one in row.cells
            )


def _totals(rows: Sequence[Row], rate: float, left_out: Mapping[str, int]) -> Iterator[str]:
    judged = [row for row in rows if row.rates is not None]
    cells = sum(len(row.cells) for row in judged)
    powered = sum(len(row.cells) for row in judged if row.powered)
    out_of_reach = sum(
        len(row.cells)
        for row in judged
        if row.rates is not None and not (row.rates.can_support and row.rates.can_refute)
    )
    biased = sum(len(row.cells) for row in judged if row.rates is not None and not row.rates.calibrated)
    others = sum(len(row.cells) for row in rows if row.rates is None)
    operations = sum(row.operations for row in rows)
    yield (
        f"{plural(cells + others, 'cell')}: {cells} judged from samples, of which {powered} have a power of 80 % or "
        f"more"
    )
    alone = [row for row in judged if not row.claim.repeats]
    yield (
        f"({sum(len(row.cells) for row in alone if row.powered)} of the {sum(len(row.cells) for row in alone)} whose "
        f"statistic is no other claim's),"
    )
    yield f"{out_of_reach} cannot reach one of the verdicts, and {biased} err more often than 5 %;"
    yield f"{others} are measured only, or without sampling error"
    time_ = f"about {duration(operations / rate)} on one core" if operations else "nothing to compute"
    yield f"to compute: {operations / 1e12:.3g} TFLOP, {time_}; memory: at least {_gigabytes():.1f} GB a process"
    for reason, count in left_out.items():
        yield in_ascii(f"{plural(count, 'cell')} left out: {reason}", 100)


def _saved(rows: Sequence[Row], rate: float) -> Iterator[str]:
    """What ``--samples auto`` is expected to take of the time above."""
    early = [row for row in rows if row.stopping is not None]
    yield (
        f"--samples auto: {plural(sum(len(row.cells) for row in early), 'cell')} looked at early; all others take only "
        "the last look,"
    )
    yield "at the full number, as curves, the paper's sizes and scores of items do (caploc/rules/looks.py)"
    stated, none = (sum(row.expected[which] for row in rows) / rate for which in (0, 1))
    if stated:
        yield (
            f"of the time above, about {duration(stated)} where effects are as stated, {duration(none)} where there "
            "are none (simulated)"
        )


def _gigabytes() -> float:
    """What a process holds that has planned the run, with room for a model, its twin and the rows of a batch."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9 + 0.5
