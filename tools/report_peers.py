"""What `report.py` shows of a comparison with peers: bars against them, the roofline, the table of the README. Needs the standard library
and benches/peers/contest.py, which knows the format."""

import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benches"))
from peers.contest import OURS, check, speed  # noqa: F401 (check is part of what this offers)


def cases(rows):
    """[(name, rows)] of the rows of each case, in their order."""
    found = {}
    for row in rows:
        found.setdefault(f"{row['op']} {row['dtype']} {row['shape']}", []).append(row)
    return list(found.items())


def against(rows, draw):
    """Bars: of every case of the short table how fast each contestant is, as a percentage of the measured ceiling."""
    parts, left, scale, top = [], 420, 3.2, 40
    y = top
    for name, group in cases([row for row in rows if row["headline"]]):
        timed = [row for row in group if row["state"] == "ok"]
        if not timed:
            continue
        parts.append(draw.text(12, y + 12, name, size=13))
        y += 20
        for row in sorted(timed, key=lambda row: row["seconds"]):
            value, unit = speed(row)
            width = row["percent_of_ceiling"] * scale
            parts += [draw.text(left - 8, y + 12, row["who"], "end"),
                      f'<rect x="{left}" y="{y}" width="{width:.1f}" height="15" fill="{draw.COLOURS[0 if row["who"] == OURS else 4]}"/>',
                      draw.text(left + width + 5, y + 12, f"{row['percent_of_ceiling']:.1f} % of {row['ceiling']}, {value:.4g} {unit}")]
            y += 18
        y += 8
    widest = max([100.0] + [row["percent_of_ceiling"] for row in rows if row["state"] == "ok" and row["headline"]])
    line = f'<line x1="{left + 100 * scale}" y1="{top}" x2="{left + 100 * scale}" y2="{y}" stroke="#999" stroke-dasharray="4 3"/>'
    return draw.picture("sumexp and its peers: percent of the measured ceiling", round(left + widest * scale + 260), y + 8, [line, *parts])


def roofline(data, draw):
    """Every case of sumexp: operations per byte against operations per second, both logarithmic, below the measured roofs."""
    points = [row for row in data["rows"] if row["who"] == OURS and row["state"] == "ok"]
    intensity = lambda row: row["flop"] / row["bytes"]
    rate = lambda row: row["flop"] / row["seconds"] / 1e12
    roofs = {f"{dtype} products": found["tflop_per_s"] for dtype, found in data["ceilings"]["matmul"].items()
             if any(row["dtype"] == dtype and row["ceiling"] == "matmul" for row in points)}
    bandwidth = data["ceilings"]["copy"]["gb_per_s"] / 1e3
    left, top, width, height = 80, 45, 620, 360
    low_x, high_x = (round_down(min(map(intensity, points))), round_up(max(map(intensity, points))))
    low_y, high_y = round_down(min(map(rate, points))), round_up(max([bandwidth * low_x, *roofs.values(), *map(rate, points)]))
    x = lambda value: left + width * math.log(value / low_x) / math.log(high_x / low_x)
    y = lambda value: top + height * (1 - math.log(max(value, low_y) / low_y) / math.log(high_y / low_y))
    parts = [draw.text(12, top - 6, "TFLOP/s", size=11), draw.text(left + width, top + height + 34, "FLOP per byte", "end", 11)]
    for exponent in range(round(math.log10(low_x)), round(math.log10(high_x)) + 1):
        parts += [f'<line x1="{x(10**exponent):.1f}" y1="{top}" x2="{x(10**exponent):.1f}" y2="{top + height}" stroke="#ddd"/>',
                  draw.text(x(10**exponent), top + height + 18, f"{10**exponent:g}", "middle", 11)]
    for exponent in range(round(math.log10(low_y)), round(math.log10(high_y)) + 1):
        parts += [f'<line x1="{left}" y1="{y(10**exponent):.1f}" x2="{left + width}" y2="{y(10**exponent):.1f}" stroke="#ddd"/>',
                  draw.text(left - 6, y(10**exponent) + 4, f"{10**exponent:g}", "end", 11)]
    for at, (name, roof) in enumerate([*roofs.items()] or [("copy", bandwidth * high_x)]):
        ridge = min(max(roof / bandwidth, low_x), high_x)
        path = [(low_x, min(bandwidth * low_x, roof)), (ridge, min(bandwidth * ridge, roof)), (high_x, min(roof, bandwidth * high_x))]
        parts.append(f'<polyline class="roof" fill="none" stroke="#555" stroke-width="2" points="{" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in path)}"/>')
        parts.append(draw.text(left + 6, top + 14 + 15 * at, f"{name}: {roof:.4g} TFLOP/s; copy {bandwidth * 1e3:.4g} GB/s", size=11, colour="#555"))
    ops = sorted({row["op"] for row in points})
    for row in points:
        colour = draw.COLOURS[ops.index(row["op"]) % len(draw.COLOURS)]
        parts.append(f'<circle cx="{x(intensity(row)):.1f}" cy="{y(rate(row)):.1f}" r="3.5" fill="{colour}" fill-opacity="0.7"/>')
    parts += [draw.text(left + width + 16, top + 16 * at + 10, op, colour=draw.COLOURS[at % len(draw.COLOURS)]) for at, op in enumerate(ops)]
    return draw.picture("sumexp below the measured roofs", left + width + 220, top + height + 46, parts)


def round_down(value):
    return 10.0 ** math.floor(math.log10(value))


def round_up(value):
    """The next power of ten above, and not the value itself: no range is empty."""
    return 10.0 ** (math.floor(math.log10(value)) + 1)


def pictures(data, draw):
    """{file name: SVG}, without pictures of nothing."""
    rows, made = data["rows"], {}
    if any(row["headline"] and row["state"] == "ok" for row in rows):
        made["peers.svg"] = against(rows, draw)
    if any(row["who"] == OURS and row["state"] == "ok" for row in rows):
        made["roofline.svg"] = roofline(data, draw)
    return made


def table(rows, every=False):
    """Markdown: a line per case of the short table (or of all), and what was wrong or failed of ours."""
    body = ["| op | dtype | shape | time | speed | of the ceiling | the best peer | times as fast |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        if row["who"] != OURS or not (every or row["headline"] or row["state"] != "ok"):
            continue
        start = f"| {row['op']} | {row['dtype']} | {row['shape']} |"
        if row["state"] != "ok":
            body.append(f"{start} {row['state']} | – | – | – | – |")
            continue
        value, unit = speed(row)
        peer = f"{row['best_peer']} | {row['times_best_peer']:.2f}" if "best_peer" in row else "– | –"
        body.append(f"{start} {row['seconds'] * 1e3:.4f} ms | {value:.4g} {unit} | {row['percent_of_ceiling']:.1f} % of {row['ceiling']} | {peer} |")
    return "\n".join(body)
