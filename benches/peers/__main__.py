"""python3 -m peers [--device cuda|cpu] [--quick] [--json FILE] [--seconds N] [--without NAMES] [WORDS...]

Times sumexp and every peer that is installed on the same tensors, in one process, and writes FILE. Words filter the cases: one is run
if it has all of them. A result is compared with float64 before it is timed. A case that no time was left for is listed; the short table
comes last. Exits with 1 if sumexp failed or was wrong somewhere, or if time ran out. The library is SUMEXP_LIBRARY, or target/capi's.
"""

import argparse
import datetime
import gc
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]


def find_library():
    """The C library and its Python module: beside this package in the bundle, in its places in the repository."""
    sys.path.append(str(ROOT / "examples/pytorch"))
    built = ROOT / "target/capi/libsumexp.so"
    if "SUMEXP_LIBRARY" not in os.environ and built.exists():
        os.environ["SUMEXP_LIBRARY"] = str(built)


def revision():
    """The commit: of the bundle, or of this repository."""
    note = pathlib.Path(__file__).parents[1] / "revision.txt"
    if note.exists():
        return note.read_text().strip()
    done = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write(path, data):
    """Whole or not at all: a run that is ended from outside leaves what it had."""
    if path:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(data, indent=0, allow_nan=False))
        part.replace(path)


def arguments(words):
    parser = argparse.ArgumentParser(prog="peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORDS")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a small case of each kind")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--seconds", type=float, default=540, help="begin no case after so many; 540")
    parser.add_argument("--without", default="", metavar="NAMES", help="contestants to leave out: torch.compile,triton")
    return parser.parse_args(words)


def main(words):
    options = arguments(words)
    started = time.monotonic()
    find_library()
    # Not before: --help works without PyTorch.
    import sumexp
    import torch

    from . import cases, classes, contest, heads, machine, rows, timing

    if options.device == "cuda" and not torch.cuda.is_available():
        print("peers: PyTorch sees no GPU (--device cpu --quick runs on the host)", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    # float32 means float32, for everybody.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    clock = timing.Gpu() if options.device == "cuda" else timing.Cpu()
    tiny, out = torch.zeros(1, 64, device=options.device), torch.zeros(1, 64, device=options.device)
    ceilings = machine.ceilings(options.device, clock, options.quick, lambda: sumexp.softmax(tiny, out))
    data = {
        "revision": revision(), "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": machine.name(options.device), "gpu": machine.gpu(options.device), "ok": False, "complete": False, "left_out": [],
        "versions": {"sumexp": sumexp.library().sumexp_version().decode(), **machine.versions()},
        "ceilings": ceilings, "clocks": [], "rows": [],
    }
    print(f"{data['device']}: copy {ceilings['copy']['gb_per_s']:.1f} GB/s, read {ceilings['read']['gb_per_s']:.1f} GB/s, "
          + ", ".join(f"{dtype} products {rate['tflop_per_s']:.4g} TFLOP/s" for dtype, rate in ceilings["matmul"].items())
          + f", launch {ceilings['launch']['seconds'] * 1e6:.1f} us (sumexp {ceilings['launch_of_sumexp']['seconds'] * 1e6:.1f})")
    kinds = {cases.Rows: rows.Family, cases.Classes: classes.Loss, cases.Heads: heads.Attention}
    without = options.without.split(",")
    for case in cases.quick() if options.quick else cases.full():
        name = f"{case.op} {case.dtype} {case.words}"
        if not all(word in name for word in options.words):
            continue
        if time.monotonic() - started > options.seconds:
            data["left_out"].append(name)
            continue
        before = machine.clocks(options.device)
        try:
            kind = kinds[type(case)](case, options.device)
            contestants = [(who, start) for who, start in kind.contestants() if who not in without]
        except torch.OutOfMemoryError as error:
            # No room for the inputs: nobody's failure, and nobody's result.
            data["left_out"].append(f"{name}: {contest.message(error)}")
            continue
        held = contest.hold(case, [(who, tidy(start)) for who, start in contestants], kind.judge, clock, ceilings)
        for row in held:
            print(contest.line(row), flush=True)
        data["rows"] += held
        data["clocks"].append({"case": name, "before": before, "after": machine.clocks(options.device)})
        del kind, contestants
        write(options.json, data)
    ours = [row for row in data["rows"] if row["who"] == contest.OURS]
    data["complete"] = not data["left_out"]
    data["ok"] = data["complete"] and all(row["state"] == "ok" for row in ours)
    write(options.json, contest.check(data))
    print("\n-- peers: sumexp beside the best of them")
    print("\n".join(contest.table(data["rows"], options.quick)))
    if data["left_out"]:
        print(f"no time or room was left for {len(data['left_out'])} cases, the first: {data['left_out'][0]}")
    print(f"{len(ours)} cases, {time.monotonic() - started:.0f} s, {'everything is right' if data['ok'] else 'something FAILED'}")
    return 0 if data["ok"] else 1


def tidy(start):
    """A contestant that begins with the memory of those before it."""
    import torch

    def begin():
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return start()

    return begin


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
