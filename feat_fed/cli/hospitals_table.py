"""What virtual hospitals have, as a table on the screen."""

from __future__ import annotations

from rich.table import Table

from feat_fed.report.data_summary import DataSummary

_MOST_ROWS = 40


def hospitals_table(summary: DataSummary) -> Table:
    """Return hospitals by row, patients by label or modality in columns; counts only."""
    names, counts = summary.table()
    table = Table(title=f"{summary.partition}; patients by {summary.by}", title_justify="left")
    table.add_column("hospital")
    for heading in ("patients", "clips", *names):
        table.add_column(heading, justify="right")
    for each in summary.hospitals[:_MOST_ROWS]:
        numbers = (each.patients, each.clips, *counts[each.site])
        table.add_row(each.site, *(str(number) if number else "·" for number in numbers))
    if len(summary.hospitals) > _MOST_ROWS:
        table.add_row(f"and {len(summary.hospitals) - _MOST_ROWS} more")
    sums = (
        sum(each.patients for each in summary.hospitals),
        sum(each.clips for each in summary.hospitals),
        *map(sum, zip(*counts.values(), strict=True)),
    )
    table.add_section()
    table.add_row("all", *map(str, sums))
    return table
