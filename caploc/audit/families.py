"""What a run would take, family by family: the second table of ``pytest claims --plan``.

A family is a file of experiments. On a GPU, time is that of one H100 at the rate that long passes are taken to reach
(`caploc.experiments.evaluating.RATES`), with tokens that are written counted for what they hold up (`caploc.costs`); on
a CPU that of a core like this one. Both are estimates from counted work: a run corrects them by what its first shards
took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from caploc.audit.cells import CLAIM_TEST, REQUEST, will_run
from caploc.audit.claims import experiment_of
from caploc.audit.settings import AuditSettings
from caploc.audit.text import in_ascii, plural, table_row

if TYPE_CHECKING:
    from caploc.audit.running import Cost

HEAD = ("family", "cells", "warm", "TFLOP", "time", "memory", "disk")
WIDTHS = (28, 6, 6, 10, 14, 9, 9)


@dataclass
class Family:
    """The cells of one family on one kind of device."""

    device: str
    cells: int = 0
    warm: int = 0
    flops: float = 0.0
    gigabytes: float = 0.0
    size: float = 0.0
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, item: pytest.Item, cost: Cost | None, process: float) -> None:
        """Takes in a test: ``cost`` None where it cannot run here; ``process`` is what one on a CPU holds, in GB."""
        self.cells += 1
        if cost is None:
            marker = item.get_closest_marker("skip")
            self.left_out[str(marker.kwargs.get("reason", "skipped")) if marker else "skipped"] += 1
            return
        least = item.get_closest_marker("min_gb")
        self.warm += cost.warm
        self.flops += cost.flops
        self.size += cost.size
        if not cost.warm:
            self.gigabytes = max(self.gigabytes, least.args[0] if least else process)

    def hours(self, rate: float) -> str:
        """By its device."""
        unit = "core" if self.device == "cpu" else "GPU"
        return f"{self.flops / rate / 3600:.2g} {unit} h" if self.flops else "-"


def family_lines(
    items: Iterable[pytest.Item],
    costs: Mapping[pytest.Item, Cost],
    settings: AuditSettings,
    core: float,
    process: float,
) -> Iterator[str]:
    """The table, and under a family what of it cannot run here and why. ``core``: operations a second of a core."""
    from caploc.experiments.evaluating import RATES

    found: dict[tuple[str, str], Family] = {}
    for item in items:
        request = item.stash[REQUEST]
        model = request.each[0].model if request.each else request.model
        device = settings.placement(model)[0].partition(":")[0] if model else "cpu"
        name = experiment_of(item.stash[CLAIM_TEST]).partition(".")[0]
        cost = costs.get(item) if will_run(item) else None
        found.setdefault((name, device), Family(device)).add(item, cost, process)
    yield table_row(HEAD, WIDTHS)
    rates = {"cpu": core, "cuda": RATES["cuda"]}
    for (name, device), one in sorted(found.items()):
        yield table_row(
            (
                in_ascii(name, WIDTHS[0]),
                str(one.cells),
                str(one.warm),
                f"{one.flops / 1e12:.3g}" if one.flops else "-",
                one.hours(rates[device]),
                f"{one.gigabytes:.3g} GB" if one.gigabytes else "-",
                f"{one.size / 1e9:.2g} GB" if one.size else "-",
            ),
            WIDTHS,
        )
        for reason, count in one.left_out.items():
            yield in_ascii(f"    {plural(count, 'cell')} cannot run here: {reason}", 100)
    for device in dict.fromkeys(device for _, device in found):
        whole = Family(device, flops=sum(one.flops for one in found.values() if one.device == device))
        if whole.flops:
            total = ("in all", "", "", f"{whole.flops / 1e12:.3g}", whole.hours(rates[device]), "", "")
            yield table_row(total, WIDTHS)
