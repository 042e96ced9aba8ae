"""How the pictures of sweeps and benches look; for `matplotlib.rc_context`."""

PLOT_STYLE = {
    "font.size": 9,
    "text.parse_math": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}
