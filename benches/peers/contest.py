"""One case and everybody who can do it: results are checked first, and only a right one is timed. Needs no PyTorch."""

import statistics

from . import cases

OURS = "sumexp"
#: ||result - reference|| / ||reference|| in float64 above which a result is wrong. bfloat16 has 8 bits, of which products lose a few.
TOLERANCE = {"bfloat16": 2e-2, "float16": 4e-3, "float32": 1e-4}


class Absent(Exception):
    """Somebody who is not there, or was never made for this case."""


def summary(times):
    """Median and quartiles of repeated measurements, in seconds."""
    ordered = sorted(times)
    low, _, high = statistics.quantiles(ordered, n=4) if len(ordered) > 1 else (ordered[0],) * 3
    return {"seconds": statistics.median(ordered), "low": low, "high": high, "repetitions": len(ordered)}


def message(error):
    """An exception as one line, short enough for a table."""
    words = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {words}"[:300]


def attempt(case, start, judge, clock):
    """What one contestant achieved. `start()` gives the call that is timed, `judge(result)` the error of what it returns, and
    `clock(call)` its times with what else is known about them."""
    try:
        call = start()
        error = judge(call())
        # NaN is not below anything.
        if not error <= TOLERANCE[case.dtype]:
            return {"state": "wrong", "message": f"off by {error:.3g}, {TOLERANCE[case.dtype]:.3g} is allowed"}
        times, facts = clock(call)
        return {"state": "ok", "error": error, **summary(times), **facts}
    except Absent as absent:
        return {"state": "absent", "message": str(absent)}
    except Exception as failure:  # Whatever a peer raises is its result.
        return {"state": "failed", "message": message(failure)}


def hold(case, contestants, judge, clock, ceilings):
    """The rows of one case: an attempt of each contestant, beside the machine's ceiling and the best peer."""
    rows = []
    for who, start in contestants:
        row = {
            "op": case.op, "dtype": case.dtype, "shape": case.words, "headline": cases.headline(case), "who": who,
            "bytes": case.read + case.written, "flop": case.flop, **attempt(case, start, judge, clock),
        }
        if row["state"] == "ok":
            speed = ("tflop_per_s", row["flop"] / 1e12) if case.products and not case.decode else ("gb_per_s", row["bytes"] / 1e9)
            row[speed[0]] = speed[1] / row["seconds"]
            least, row["ceiling"] = cases.floor(case, ceilings)
            row["percent_of_ceiling"] = 100 * least / row["seconds"]
        rows.append(row)
    compare(rows)
    return rows


def compare(rows):
    """Adds to the timed rows of a case how many times as fast as the best peer they are."""
    timed = [row for row in rows if row["state"] == "ok"]
    peers = [row for row in timed if row["who"] != OURS]
    if peers:
        best = min(peers, key=lambda row: row["seconds"])
        for row in timed:
            row["best_peer"], row["times_best_peer"] = best["who"], best["seconds"] / row["seconds"]


def speed(row):
    """(value, unit) of a timed row."""
    return (row["gb_per_s"], "GB/s") if "gb_per_s" in row else (row["tflop_per_s"], "TFLOP/s")


def line(row):
    """A row for people."""
    name = f"{row['op']} {row['dtype']} {row['shape']} {row['who']}"
    if row["state"] != "ok":
        return f"{name}: {row['state'].upper()}, {row['message']}"
    value, unit = speed(row)
    beside = f", {row['times_best_peer']:.2f} x {row['best_peer']}" if "best_peer" in row else ""
    waiting = ", bound by the host" if row.get("host_bound") else ""
    return f"{name}: {row['seconds'] * 1e6:.1f} us, {value:.4g} {unit}, {row['percent_of_ceiling']:.1f} % of {row['ceiling']}{beside}{waiting}"


def table(rows, every):
    """The short table: of the headlines, or of every case, ours; and what somebody got wrong anywhere."""
    shown = [line(row) for row in rows if row["who"] == OURS and (every or row["headline"] or row["state"] != "ok")]
    return shown + [line(row) for row in rows if row["who"] != OURS and row["state"] == "wrong"]


def check(data):
    """Raises ValueError unless `data` is what a run writes; pictures of half a file would be half true."""
    kinds = {"revision": str, "date": str, "device": str, "gpu": str, "ok": bool, "complete": bool, "left_out": list,
             "versions": dict, "ceilings": dict, "clocks": list, "rows": list}
    for field, kind in kinds.items():
        if not isinstance(data.get(field), kind):
            raise ValueError(f'peers: "{field}" is missing or not a {kind.__name__}')
    for name, field in [("copy", "gb_per_s"), ("read", "gb_per_s"), ("launch", "seconds")]:
        if field not in data["ceilings"].get(name, {}):
            raise ValueError(f'peers: "ceilings" has no {field} of {name}')
    if not isinstance(data["ceilings"].get("matmul"), dict):
        raise ValueError('peers: "ceilings" has no matmul')
    for number, row in enumerate(data["rows"]):
        needed = {"op", "dtype", "shape", "headline", "who", "bytes", "flop", "state"}
        needed |= {"seconds", "low", "high", "repetitions", "error", "ceiling", "percent_of_ceiling"} if row.get("state") == "ok" else {"message"}
        if missing := sorted(needed - row.keys()):
            raise ValueError(f"peers: row {number} lacks {', '.join(missing)}")
        if row["state"] not in ("ok", "wrong", "failed", "absent"):
            raise ValueError(f"peers: row {number} has the state {row['state']}")
        if row["state"] == "ok" and ("gb_per_s" in row) == ("tflop_per_s" in row):
            raise ValueError(f"peers: row {number} has to have one of gb_per_s and tflop_per_s")
    return data
