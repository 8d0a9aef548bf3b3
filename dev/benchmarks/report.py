"""The report of a run, as text and as JSON: medians, ranges, and ratios taken within rounds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, measured in one or several rounds."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.values)

    def as_dict(self) -> dict[str, Any]:
        """Return the figure for a script."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": round(self.median, 3),
            "min": round(min(self.values), 3),
            "max": round(max(self.values), 3),
            "values": [round(value, 3) for value in self.values],
        }


@dataclass(frozen=True, slots=True)
class Section:
    """The result of one scenario; a ratio is named `one/other`."""

    scenario: str
    about: str
    figures: Sequence[Figure]
    ratios: Mapping[str, float] = field(default_factory=dict)


def ratio(one: Figure, other: Figure) -> float:
    """Return the median of the per-round ratios: a slow round slows both, so its ratio stays comparable."""
    return statistics.median(a / b for a, b in zip(one.values, other.values, strict=True))


def as_text(sections: Sequence[Section], machine: Mapping[str, Any]) -> str:
    """Return the report for people, the ratios first."""
    lines = [
        f"{name if section.scenario == 'life' else f'{section.scenario}: {name}'} {value:.2f}"
        for section in sections
        for name, value in section.ratios.items()
    ]
    for section in sections:
        lines += ["", f"{section.scenario}: {section.about}"]
        width = max(len(figure.name) for figure in section.figures)
        lines += [f"  {figure.name.ljust(width)}  {_shown(figure)}" for figure in section.figures]
    lines += ["", "; ".join(f"{name} {value}" for name, value in machine.items())]
    return "\n".join(lines)


def as_json(sections: Sequence[Section], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report as one object."""
    return {
        "ratios": {name: round(value, 3) for section in sections for name, value in _named(section).items()},
        "scenarios": {
            section.scenario: {
                "about": section.about,
                "ratios": {name: round(value, 3) for name, value in section.ratios.items()},
                "figures": [figure.as_dict() for figure in section.figures],
            }
            for section in sections
        },
        "machine": dict(machine),
    }


def _named(section: Section) -> Mapping[str, float]:
    if section.scenario == "life":
        return section.ratios
    return {f"{section.scenario}: {name}": value for name, value in section.ratios.items()}


def _shown(figure: Figure) -> str:
    shown = f"{_number(figure.median):>10} {figure.unit}"
    if len(figure.values) == 1:
        return shown
    return f"{shown}  ({_number(min(figure.values))} .. {_number(max(figure.values))} in {len(figure.values)} rounds)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"  # noqa: PLR2004 - three digits that mean something
