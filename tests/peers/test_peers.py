"""The parts of benches/peers that need no PyTorch: cases, statistics, what becomes of a contestant, the format of results."""

import json
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "benches"))
from peers import cases, contest

CEILINGS = {
    "copy": {"gb_per_s": 4000.0}, "read": {"gb_per_s": 4400.0}, "launch": {"seconds": 2e-6},
    "matmul": {"bfloat16": {"tflop_per_s": 800.0}},
}


class Cases(unittest.TestCase):
    def test_every_kind_is_there(self):
        full = cases.full()
        self.assertEqual(len({(case.op, case.dtype, case.words) for case in full}), len(full))
        rows = [case for case in full if isinstance(case, cases.Rows)]
        self.assertEqual({case.op for case in rows}, set(cases.FAMILY))
        self.assertEqual({case.dtype for case in rows}, {"bfloat16", "float32"})
        last = [case for case in rows if case.dim == -1 and case.shape[0] >= 8192]
        self.assertEqual((min(case.length for case in last), max(case.length for case in last)), (64, 262144))
        self.assertTrue(any(case.dim != -1 for case in rows))
        self.assertTrue(any(case.shape[0] < 132 and case.length >= 1 << 20 for case in rows))
        vocabularies = {case.vocabulary for case in full if isinstance(case, cases.Classes)}
        self.assertEqual(vocabularies, {32768, 50257, 128256, 262144})
        attention = [case for case in full if isinstance(case, cases.Heads)]
        square = [case for case in attention if not case.decode]
        self.assertEqual({case.head for case in square}, {64, 128, 256})
        self.assertEqual({case.hidden for case in square}, set(cases.HIDDEN))
        self.assertEqual((min(case.keys for case in square), max(case.keys for case in square)), (512, 32768))
        # As many tokens everywhere, but for a sequence that is longer than that.
        self.assertEqual({case.batch * case.keys for case in square}, {16384, 32768})
        self.assertEqual({(case.heads, case.key_heads) for case in square if case.heads == 64}, {(64, 8)})
        self.assertEqual({case.op for case in square}, {"attention", "attention_backward"})
        self.assertEqual(max(case.keys for case in attention if case.decode), 131072)

    def test_the_short_table_comes_first(self):
        flags = [cases.headline(case) for case in cases.full()]
        self.assertEqual(flags, sorted(flags, reverse=True))
        self.assertTrue(15 <= sum(flags) <= 40, sum(flags))
        self.assertEqual({type(case) for case in cases.full() if cases.headline(case)}, {cases.Rows, cases.Classes, cases.Heads})

    def test_a_quick_run_has_each_operation(self):
        self.assertEqual({case.op for case in cases.quick()}, {case.op for case in cases.full()})
        self.assertTrue(all(case.read < 1 << 20 for case in cases.quick()))

    def test_work_is_the_least_anybody_can_do(self):
        softmax = cases.Rows("softmax", "bfloat16", (4, 8))
        self.assertEqual((softmax.read, softmax.written, softmax.words), (64, 64, "[4, 8] dim 1"))
        gradient = cases.Rows("softmax_backward", "float32", (2, 8, 3), 1)
        self.assertEqual((gradient.read, gradient.written, gradient.length), (2 * 48 * 4, 48 * 4, 8))
        loss = cases.Classes("cross_entropy", "bfloat16", 10, 100)
        self.assertEqual((loss.read, loss.written), (2000 + 80, 4))
        self.assertEqual(cases.Classes("cross_entropy_training", "bfloat16", 10, 100).written, 2000)

    def test_products_are_counted_as_in_the_field(self):
        of = lambda op, hidden: cases.Heads(op, "bfloat16", 2, 16, 4, 1024, 1024, 128, hidden)
        every = 4 * 2 * 16 * 1024 * 1024 * 128
        self.assertEqual(of("attention", "none").flop, every)
        self.assertEqual(of("attention", "causal").flop, every // 2)
        self.assertEqual(of("attention", "tenth").flop, every)
        self.assertEqual(of("attention", "documents").flop, every // 8)
        self.assertEqual(of("attention_backward", "causal").flop, every // 2 * 5 // 2)
        q, k = 2 * 16 * 1024 * 128 * 2, 2 * 4 * 1024 * 128 * 2
        lse = 2 * 16 * 1024 * 4
        self.assertEqual((of("attention", "none").read, of("attention", "none").written), (q + 2 * k, q + lse))
        self.assertEqual(of("attention", "tenth").read, q + 2 * k + 1024 * 1024)
        backward = of("attention_backward", "none")
        self.assertEqual((backward.read, backward.written), (3 * q + 2 * k + lse, q + 2 * k))

    def test_the_floor_is_the_ceiling_that_bounds(self):
        self.assertEqual(cases.floor(cases.Rows("softmax", "bfloat16", (1000, 1000)), CEILINGS), (4e6 / 4e12, "copy"))
        loss = cases.Classes("cross_entropy", "bfloat16", 1000, 1000)
        self.assertEqual(cases.floor(loss, CEILINGS), ((2e6 + 8000 + 4) / 4.4e12, "read"))
        attention = cases.Heads("attention", "bfloat16", 1, 16, 16, 16384, 16384, 128)
        self.assertEqual(cases.floor(attention, CEILINGS), (attention.flop / 8e14, "matmul"))
        self.assertEqual(cases.floor(cases.Heads("attention", "bfloat16", 1, 64, 8, 1, 131072, 128), CEILINGS)[1], "read")
        # Operations that are no products bound nobody.
        self.assertEqual(cases.floor(cases.Rows("softmax", "bfloat16", (1, 1)), CEILINGS)[1], "copy")


class Contest(unittest.TestCase):
    case = cases.Rows("softmax", "bfloat16", (1000, 1000))

    def hold(self, *contestants):
        """Contestants are (name, result, seconds); the result is also its error. An exception is raised at the start."""

        def begin(result):
            if isinstance(result, Exception):
                raise result
            return lambda: (self.called.append(result), result)[1]

        self.called, self.clocked = [], []
        seconds = {result: time for _, result, time in contestants if not isinstance(result, Exception)}

        def clock(call):
            result = call()
            self.clocked.append(result)
            return [seconds[result] * factor for factor in (1, 3, 1, 0.5, 1)], {"host_bound": False}

        starts = [(who, lambda result=result: begin(result)) for who, result, _ in contestants]
        return contest.hold(self.case, starts, lambda result: result, clock, CEILINGS)

    def test_figures_of_the_timed(self):
        ours, slow, fast = self.hold(("sumexp", 1e-3, 1e-6), ("torch", 2e-3, 4e-6), ("triton", 3e-3, 2e-6))
        self.assertEqual([row["state"] for row in (ours, slow, fast)], ["ok"] * 3)
        self.assertEqual((ours["seconds"], ours["low"], ours["high"], ours["repetitions"]), (1e-6, 0.75e-6, 2e-6, 5))
        self.assertAlmostEqual(ours["gb_per_s"], 4000)
        self.assertAlmostEqual(ours["percent_of_ceiling"], 100)
        self.assertAlmostEqual(slow["percent_of_ceiling"], 25)
        self.assertEqual({row["best_peer"] for row in (ours, slow, fast)}, {"triton"})
        self.assertEqual([round(row["times_best_peer"], 9) for row in (ours, slow, fast)], [2, 0.5, 1])
        self.assertEqual(contest.line(ours), "softmax bfloat16 [1000, 1000] dim 1 sumexp: 1.0 us, 4000 GB/s, 100.0 % of copy, 2.00 x triton")

    def test_only_what_is_right_is_timed(self):
        nan = float("nan")
        ours, wrong, none = self.hold(("sumexp", 1e-3, 1e-6), ("torch", 0.5, 1e-9), ("triton", nan, 1e-9))
        self.assertEqual((wrong["state"], none["state"]), ("wrong", "wrong"))
        self.assertEqual(self.clocked, [1e-3])
        self.assertNotIn("seconds", wrong)
        self.assertIn("off by 0.5, 0.02 is allowed", wrong["message"])
        # Nor is it anybody's best peer.
        self.assertNotIn("best_peer", ours)
        self.assertEqual(len(contest.table([ours, wrong, none], False)), 2)

    def test_who_fails_and_who_is_absent(self):
        rows = self.hold(("sumexp", 1e-3, 1e-6), ("a", RuntimeError("no\n  kernel"), 0), ("b", contest.Absent("not installed"), 0), ("c", 2e-3, 1e-6))
        self.assertEqual([row["state"] for row in rows], ["ok", "failed", "absent", "ok"])
        self.assertEqual([row["message"] for row in rows[1:3]], ["RuntimeError: no kernel", "not installed"])
        self.assertIn("FAILED, RuntimeError: no kernel", contest.line(rows[1]))

    def test_attention_is_products_and_decoding_is_bytes(self):
        for keys, queries, field in [(1024, 1024, "tflop_per_s"), (1024, 1, "gb_per_s")]:
            self.case = cases.Heads("attention", "bfloat16", 1, 8, 8, queries, keys, 128)
            self.assertIn(field, self.hold(("sumexp", 1e-3, 1e-3))[0])


class Format(unittest.TestCase):
    def setUp(self):
        self.sample = json.loads((HERE.parent / "report/peers.json").read_text())

    def test_the_sample_is_what_a_run_writes(self):
        self.assertIs(contest.check(self.sample), self.sample)

    def test_half_a_file_is_an_error(self):
        for field in self.sample:
            with self.assertRaisesRegex(ValueError, field):
                contest.check({name: value for name, value in self.sample.items() if name != field})
        for name in ["copy", "read", "launch", "matmul"]:
            ceilings = {other: value for other, value in self.sample["ceilings"].items() if other != name}
            with self.assertRaisesRegex(ValueError, name):
                contest.check({**self.sample, "ceilings": ceilings})
        states = {row["state"]: row for row in self.sample["rows"]}
        self.assertEqual(set(states), {"ok", "wrong", "failed", "absent"})
        for state, field in [("ok", "percent_of_ceiling"), ("ok", "low"), ("failed", "message"), ("ok", "who")]:
            row = {name: value for name, value in states[state].items() if name != field}
            with self.assertRaisesRegex(ValueError, f"row 0 lacks {field}"):
                contest.check({**self.sample, "rows": [row]})
        both = {**states["ok"], "gb_per_s": 1, "tflop_per_s": 1}
        with self.assertRaisesRegex(ValueError, "one of"):
            contest.check({**self.sample, "rows": [both]})


if __name__ == "__main__":
    unittest.main()
