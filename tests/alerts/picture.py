#!/usr/bin/env python3
"""Draws the dashboard's data of a live run, as live.py asked Prometheus for it (query_range): docs/dashboard.png.

    tests/alerts/setup.sh picture
    target/alerts/venv/bin/python tests/alerts/live.py --bin target/debug/sf-token-proxy
    target/alerts/venv/bin/python tests/alerts/picture.py
"""

import argparse
import json
import math
import pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  the backend comes first
from PIL import Image  # noqa: E402  comes with matplotlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
PANELS = [
    "Calls", "How calls ended", "Errors that count", "Duration of calls", "Refusals by the org", "Time to expiry",
    "Logins", "Login budget left", "Repeats", "API calls of 24 hours used", "Cache", "Memory",
]
LOGARITHMIC = {"Duration of calls"}
PERCENT = {"Errors that count", "API calls of 24 hours used"}
LINES = 7  # in one panel: those that are highest


def points(series, since):
    return [(float(at) - since, float(value)) for at, value in series["values"] if math.isfinite(float(value))]


def name(labels):
    short = {**labels}
    short.pop("__name__", None)
    return " ".join(value.removeprefix("sf-token-proxy-") for key, value in sorted(short.items()) if key in ("org", "outcome", "result", "reason", "job", "state"))


def draw(axes, shown, run):
    lines = sorted(((name(series["metric"]), points(series, run["since"])) for one in shown for series in one["series"]), key=lambda line: -max((value for _, value in line[1]), default=0))
    lines = [line for line in lines if any(value for _, value in line[1])][:LINES]
    quantiles = ["median", "95 %", "99 %"] if shown[0]["query"].startswith("histogram_quantile") else None
    if quantiles:
        lines = [(label, points(next(series for series in one["series"] if series["metric"].get("org") == "main"), run["since"])) for label, one in zip(quantiles, shown)]
    for label, line in lines:
        axes.plot([at for at, _ in line], [value * (100 if shown[0]["title"] in PERCENT else 1) for _, value in line], linewidth=1, label=label[:34])
    unit = " (%)" if shown[0]["title"] in PERCENT else " (s, org main)" if quantiles else " (s)" if shown[0]["title"] == "Time to expiry" else " (MiB)" if shown[0]["title"] == "Memory" else ""
    axes.set_title(shown[0]["title"] + unit, fontsize=8, loc="left", fontweight="bold")
    if shown[0]["title"] in LOGARITHMIC:
        axes.set_yscale("log")
    if shown[0]["title"] == "Memory":
        for line in axes.get_lines():
            line.set_ydata([value / 2**20 for value in line.get_ydata()])
        axes.relim()
        axes.autoscale_view()
    if shown[0]["title"] == "Time to expiry":
        axes.set_yscale("symlog", linthresh=60)
    axes.legend(fontsize=5, loc="upper right", framealpha=0.8, edgecolor="none")


def draw_alerts(axes, run):
    """One bar for each alert of each job, as long as it fired."""
    rows = {}
    for series in run["alerts"]:
        labels = series["metric"]
        row = f"{labels.get('job', '').removeprefix('sf-token-proxy-')}: {labels['alertname'].removeprefix('SfTokenProxy')}"
        times = [at for at, _ in points(series, run["since"])]
        rows.setdefault((row, labels["severity"]), []).extend(times)
    step = max(1, round((run["until"] - run["since"]) / 240))
    for y, ((row, severity), times) in enumerate(sorted(rows.items(), reverse=True)):
        axes.broken_barh([(at, step) for at in times], (y - 0.35, 0.7), color="tab:red" if severity == "page" else "tab:orange", linewidth=0)
    axes.set_yticks(range(len(rows)), [row for row, _ in sorted(rows, reverse=True)], fontsize=5)
    axes.set_title("Alerts that fire, by what goes wrong: pages red, tickets orange", fontsize=8, loc="left", fontweight="bold")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--run", type=pathlib.Path, default=ROOT / "target/alerts/run/shown.json")
    options.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/dashboard.png")
    asked = options.parse_args()
    run = json.loads(asked.run.read_text())
    figure = pyplot.figure(figsize=(13, 13.5), layout="constrained")
    grid = figure.add_gridspec(6, 3, height_ratios=[1, 1, 1, 1, 1, 1])
    places = [figure.add_subplot(grid[n // 3, n % 3]) for n in range(len(PANELS))] + [figure.add_subplot(grid[4:, :])]
    for title, axes in zip(PANELS, places):
        draw(axes, [one for one in run["panels"] if one["title"] == title], run)
    draw_alerts(places[-1], run)
    for axes in places:
        axes.set_xlim(0, run["until"] - run["since"])
        axes.tick_params(labelsize=6)
        axes.grid(linewidth=0.3)
    places[-1].set_xlabel(f"seconds; every duration of the rules divided by {run['factor']:g}", fontsize=7)
    figure.savefig(asked.out, dpi=100)
    # Few colours, so that it is small.
    with Image.open(asked.out) as picture:
        picture.convert("RGB").quantize(48).save(asked.out, optimize=True)
    print(f"{asked.out}: {asked.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
