"""A judge sweep as table, CSV and picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from secateur.runtime.console import CsvValue, write_csv
from secateur.runtime.pictures import PLOT_STYLE
from trainers.sweep.summary import FIGURES, Effect, Sweep, SweepFigure, SweepRow

WIDTH = 112
# Okabe & Ito: told apart by people with any common colour blindness.
_COLOURS = {(True, True): "#0072b2", (True, False): "#56b4e9", (False, True): "#d55e00", (False, False): "#e69f00"}
_CUTS = {"words": "k-th reasoning word", "tokens": "first k tokens"}
_TITLES = {
    "auroc": "AUROC\nall pairs",
    "auroc_unfinished": "AUROC\nunfinished pairs",
    "tnr_at_fnr20": "TNR at FNR 0.2\nall pairs",
    "tnr_at_fnr20_unfinished": "TNR at FNR 0.2\nunfinished",
}


def variant_name(focal: bool, oversampling: bool) -> str:
    """How a loss is called in table and legend.

    >>> variant_name(True, False)
    'focal'
    """
    return f"{'focal' if focal else 'cross-entropy'}{' + oversampling' if oversampling else ''}"


def _number(figure: SweepFigure | None, interval: bool) -> str:
    if figure is None:
        return "–"
    low, high = figure.ci95
    return f"{figure.value:.3f}" + (f" {low:.3f}–{high:.3f}" if interval else "")


def sweep_table(sweep: Sweep) -> Table:
    """One line per setting; the best AUROC over unfinished pairs is green."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, title_justify="left")
    table.title = f"judge {sweep.kind}: {sweep.problems} test problems, {sweep.pairs:,} pairs"
    for name in ("cut", "loss"):
        table.add_column(name, no_wrap=True)
    for name in ("AUROC\nall", "AUROC unfinished\n95 % interval", "TNR\nall", "TNR unfinished\n95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("whole\ncuts", "median\nof trace"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for row in sweep.rows:
        cut = (row.cut, row.k)
        if before not in (None, cut):
            table.add_section()
        best = row.setting == sweep.best_unfinished
        table.add_row(*_cells(row, cut != before), style="green" if best else None)
        before = cut
    return table


def _cells(row: SweepRow, names_cut: bool) -> list[str]:
    return [
        f"{row.cut} {row.k}" if names_cut else "",
        variant_name(row.focal, row.oversampling),
        _number(row.auroc, False),
        _number(row.auroc_unfinished, True),
        _number(row.tnr_at_fnr20, False),
        _number(row.tnr_at_fnr20_unfinished, True),
        f"{row.whole_cut_share:.1%}",
        f"{row.median_cut_share:.0%}",
    ]


def print_sweep(sweep: Sweep, console: Console) -> None:
    """The table, what the losses change, and what the columns mean."""
    if sweep.rows:
        if console.width < WIDTH and not console.is_terminal:  # a log file reports 80 columns, yet has room for more
            console = Console(width=WIDTH, highlight=False, soft_wrap=True)
        console.print(sweep_table(sweep))
        for effect in sweep.effects:
            if effect.figure.endswith("_unfinished"):
                console.print(f" {_effect_line(effect)}")
        console.print(
            "whole cuts: traces that ended before their cut, which shows the answer; unfinished pairs hold none of "
            "them.\nTNR: share of different-answer pairs kept apart where 20 % of the same-answer pairs are missed.",
            style="dim",
        )
    if sweep.missing_cells:
        console.print(f"{sweep.missing_cells} cells are still to be trained: run the command again")


def _effect_line(effect: Effect) -> str:
    low, high = effect.ci95
    name = "AUROC" if effect.figure.startswith("auroc") else "TNR"
    return (
        f"{effect.cut}: {variant_name(effect.focal, effect.oversampling)} − cross-entropy: {name} "
        f"{effect.value:+.3f} (95 % CI {low:+.3f} … {high:+.3f}; unfinished pairs, mean over k, paired)"
    )


def write_sweep_csv(sweep: Sweep, path: Path) -> None:
    """One line per setting; intervals as two columns."""
    write_csv(path, [_csv_line(row) for row in sweep.rows])


def _csv_line(row: SweepRow) -> dict[str, CsvValue]:
    line = {**vars(row.setting), "seeds": row.seeds}
    shares = ("whole_cut_share", "median_cut_share", "mean_cut_tokens", "unfinished_pairs", "training_cpu_s")
    line |= {key: getattr(row, key) for key in shares}
    for key in FIGURES:
        figure = getattr(row, key)
        value, (low, high) = (figure.value, figure.ci95) if figure else (None, (None, None))
        line |= {key: value, f"{key}_low": low, f"{key}_high": high}
    return line


def write_plot(sweep: Sweep, path: Path) -> None:
    """One column per kind of cut: each figure over k for every loss, and below how much of the traces is cut."""
    cuts = list(dict.fromkeys(row.cut for row in sweep.rows))
    if not cuts:
        return
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(4.6 * len(cuts) + 0.6, 10.5), layout="constrained")
        grid = figure.subplots(len(FIGURES) + 1, len(cuts), sharey="row", squeeze=False)
        for column, cut in enumerate(cuts):
            _draw_column(grid[:, column], [row for row in sweep.rows if row.cut == cut], named=column == 0)
        grid[0, 0].legend(fontsize=8)
        grid[-1, 0].legend(fontsize=8)
        figure.suptitle(
            f"judge {sweep.kind}, {sweep.problems} test problems; bars: 95 % intervals over problems",
            fontsize=9,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp.png")
        figure.savefig(temporary, dpi=130)
        temporary.replace(path)


def _draw_column(column: Sequence[Axes], rows: Sequence[SweepRow], named: bool) -> None:
    """The rows of one kind of cut; `named`: with what the vertical axes show."""
    ks = sorted({row.k for row in rows})
    for axes, name in zip(column, FIGURES, strict=False):
        _draw_figure(axes, rows, ks, name)
        axes.set_ylabel(_TITLES[name] if named else "")
    _draw_shares(column[-1], rows, ks)
    column[-1].set_ylabel("share" if named else "")
    column[-1].set_xlabel(f"k ({_CUTS[rows[0].cut]})")
    for axes in column:
        axes.set_xticks(range(len(ks)), [str(k) for k in ks])
        axes.set_xlim(-0.5, len(ks) - 0.5)


def _draw_figure(axes: Axes, rows: Sequence[SweepRow], ks: Sequence[int], name: str) -> None:
    variants = [variant for variant in _COLOURS if any((row.focal, row.oversampling) == variant for row in rows)]
    for index, variant in enumerate(variants):
        own = [row for row in rows if (row.focal, row.oversampling) == variant and getattr(row, name)]
        own.sort(key=lambda row: row.k)
        figures = [getattr(row, name) for row in own]
        offset = 0.1 * (index - (len(variants) - 1) / 2)  # side by side, or their bars would hide one another
        axes.errorbar(
            [ks.index(row.k) + offset for row in own],
            [figure.value for figure in figures],
            yerr=[[abs(figure.ci95[side] - figure.value) for figure in figures] for side in (0, 1)],
            color=_COLOURS[variant],
            marker="o",
            markersize=3.5,
            linewidth=1.2,
            elinewidth=0.8,
            label=variant_name(*variant),
        )


def _draw_shares(axes: Axes, rows: Sequence[SweepRow], ks: Sequence[int]) -> None:
    by_k = {row.k: row for row in rows}
    axes.bar(range(len(ks)), [by_k[k].whole_cut_share for k in ks], color="#999999", label="whole cuts")
    medians = [by_k[k].median_cut_share for k in ks]
    axes.plot(range(len(ks)), medians, color="black", marker="o", markersize=3.5, label="median cut ÷ trace")
    axes.set_ylim(0, 1)
