"""What is timed: operations, shapes, and the work that any implementation has to do. Needs no PyTorch."""

import dataclasses
from dataclasses import dataclass

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
HIDDEN = ("none", "causal", "tenth", "documents")
#: Documents per sequence of the mask "documents".
DOCUMENTS = 8


@dataclass(frozen=True)
class Rows:
    """The softmax family: rows along `dim` of a tensor of this shape."""

    op: str
    dtype: str
    shape: tuple
    dim: int = -1
    products = False
    #: Per element: maximum, difference, exponential, sum and quotient; product, sum, difference and product for a gradient. Nobody
    #: is judged by these numbers. They say where a case stands in the picture of the roofline.
    PER_ELEMENT = {"softmax": 5, "log_softmax": 5, "softmax_backward": 4, "log_softmax_backward": 5}

    @property
    def words(self):
        return f"{list(self.shape)} dim {self.dim % len(self.shape)}"

    @property
    def elements(self):
        elements = 1
        for length in self.shape:
            elements *= length
        return elements

    @property
    def length(self):
        return self.shape[self.dim]

    @property
    def flop(self):
        return self.PER_ELEMENT[self.op] * self.elements

    @property
    def read(self):
        return self.elements * BYTES[self.dtype] * (2 if self.op.endswith("_backward") else 1)

    @property
    def written(self):
        return self.elements * BYTES[self.dtype]


@dataclass(frozen=True)
class Classes:
    """The mean cross-entropy of rows of logits: the loss alone, or the loss and the gradient of the logits (`_training`)."""

    op: str
    dtype: str
    rows: int
    vocabulary: int
    products = False

    @property
    def words(self):
        return f"[{self.rows}, {self.vocabulary}]"

    @property
    def elements(self):
        return self.rows * self.vocabulary

    @property
    def flop(self):
        return self.elements * (7 if self.op.endswith("_training") else 4)

    @property
    def read(self):
        return self.elements * BYTES[self.dtype] + 8 * self.rows

    @property
    def written(self):
        return self.elements * BYTES[self.dtype] if self.op.endswith("_training") else 4


@dataclass(frozen=True)
class Heads:
    """Attention of q [batch, heads, queries, head] and k, v [batch, key_heads, keys, head], all of them [B, S, H, D] in memory."""

    op: str
    dtype: str
    batch: int
    heads: int
    key_heads: int
    queries: int
    keys: int
    head: int
    hidden: str = "none"
    products = True

    @property
    def words(self):
        lengths = f"S {self.keys}" if self.queries == self.keys else f"Sq {self.queries} Sk {self.keys}"
        return f"B {self.batch} H {self.heads}/{self.key_heads} {lengths} D {self.head} {self.hidden}"

    @property
    def decode(self):
        return self.queries == 1

    @property
    def flop(self):
        """Of the products, by the field's count: 4 B H Sq Sk D, half of it for a causal mask, backward 2.5 times as many. Hidden pairs
        count where nothing can be saved by skipping blocks of them; of documents only their own pairs count."""
        flop = 4 * self.batch * self.heads * self.queries * self.keys * self.head
        flop //= {"none": 1, "causal": 2, "tenth": 1, "documents": DOCUMENTS}[self.hidden]
        return flop // 2 * 5 if self.op.endswith("_backward") else flop

    @property
    def _sizes(self):
        """Bytes of q (and out), of k (and v), of the lse, and of the mask."""
        q = self.batch * self.heads * self.queries * self.head * BYTES[self.dtype]
        k = self.batch * self.key_heads * self.keys * self.head * BYTES[self.dtype]
        mask = self.queries * self.keys if self.hidden in ("tenth", "documents") else 0
        return q, k, 4 * self.batch * self.heads * self.queries, mask

    @property
    def read(self):
        q, k, lse, mask = self._sizes
        return 3 * q + 2 * k + lse + mask if self.op.endswith("_backward") else q + 2 * k + mask

    @property
    def written(self):
        q, k, lse, _ = self._sizes
        return q + 2 * k if self.op.endswith("_backward") else q + lse


FAMILY = ("softmax", "softmax_backward", "log_softmax", "log_softmax_backward")


def ceiling(case):
    """The bandwidth that a case is compared with: what mostly reads with that of reading."""
    return "copy" if 10 * case.written >= case.read else "read"


def floor(case, ceilings):
    """(seconds, name of the ceiling) below which this machine cannot do a case: the longer of its bytes and its products."""
    name = ceiling(case)
    least = (case.read + case.written) / (ceilings[name]["gb_per_s"] * 1e9), name
    if case.products and case.dtype in ceilings["matmul"]:
        least = max(least, (case.flop / (ceilings["matmul"][case.dtype]["tflop_per_s"] * 1e12), "matmul"))
    return least


def both_ways(case):
    """A case of attention, and its gradient."""
    return [case, dataclasses.replace(case, op="attention_backward")]


def headline(case):
    """What stands in a short table: one shape of each kind."""
    if case.dtype != "bfloat16":
        return False
    if isinstance(case, Rows):
        return case.dim == -1 and "log" not in case.op and case.shape in [(32768, 1024), (32768, 16384), (8192, 262144)]
    if isinstance(case, Classes):
        return case.vocabulary == 128256
    square = case.queries == case.keys
    masked = case.hidden in ("tenth", "documents")
    return masked or (case.keys == 131072 if not square else case.keys in (4096, 16384) and (case.head == 128 or case.heads != case.key_heads))


def full():
    """Every case for a GPU; the short table's first, in case time runs out."""
    cases = []
    for dtype in ("bfloat16", "float32"):
        for length in [1 << power for power in range(6, 19, 2)] + [1 << 13, 1 << 15, 1 << 17]:
            # As many rows as the published pictures of others have.
            rows = 32768 if length <= 65536 else 16384 if length <= 131072 else 8192
            # Every length for softmax, every second power of four for its relatives.
            family = FAMILY if length in (256, 4096, 16384, 65536) else FAMILY[:2]
            cases += [Rows(op, dtype, (rows, length)) for op in family]
        # A dim that is not the last: channels of pictures, keys of [keys, heads], a vocabulary in front.
        for shape in [(256, 64, 16384), (64, 1024, 4096), (16, 16384, 1024)]:
            cases += [Rows(op, dtype, shape, 1) for op in FAMILY[:2]]
        # Few huge rows: less than one for each multiprocessor.
        for shape in [(1, 1 << 26), (16, 1 << 22), (64, 1 << 20)]:
            cases += [Rows(op, dtype, shape) for op in FAMILY[:2]]
        for vocabulary, rows in [(32768, 16384), (50257, 16384), (128256, 16384), (262144, 8192)]:
            cases += [Classes(op, dtype, rows, vocabulary) for op in ("cross_entropy", "cross_entropy_training")]
    for head in (64, 128, 256):
        heads = 2048 // head
        for length in (512, 1024, 2048, 4096, 8192, 16384, 32768):
            for hidden in ("none", "causal"):
                case = Heads("attention", "bfloat16", max(1, 16384 // length), heads, heads, length, length, head, hidden)
                cases += both_ways(case)
    for length in (2048, 4096, 8192, 16384, 32768):
        for hidden in ("none", "causal"):
            case = Heads("attention", "bfloat16", max(1, 16384 // length), 64, 8, length, length, 128, hidden)
            cases += both_ways(case)
    for hidden in ("tenth", "documents"):
        cases += both_ways(Heads("attention", "bfloat16", 2, 16, 16, 8192, 8192, 128, hidden))
    for keys in (1024, 8192, 32768, 131072):
        for batch in (1, 16):
            cases.append(Heads("attention", "bfloat16", batch, 64, 8, 1, keys, 128))
    return sorted(cases, key=lambda case: not headline(case))


def quick():
    """One small case of each kind, which a host does in a moment."""
    cases = [Rows(op, dtype, (64, 320)) for dtype in ("bfloat16", "float32") for op in FAMILY]
    cases += [Rows(op, "float32", (4, 96, 16), 1) for op in FAMILY[:2]] + [Rows("softmax", "bfloat16", (1, 1 << 16))]
    for dtype in ("bfloat16", "float32"):
        cases += [Classes(op, dtype, 32, 1111) for op in ("cross_entropy", "cross_entropy_training")]
    for hidden in HIDDEN:
        cases += both_ways(Heads("attention", "float16", 1, 2, 2, 160, 160, 64, hidden))
    cases += both_ways(Heads("attention", "bfloat16", 1, 2, 2, 160, 160, 128, "causal"))
    cases += both_ways(Heads("attention", "float32", 2, 8, 2, 96, 96, 32, "causal"))
    cases.append(Heads("attention", "bfloat16", 2, 8, 1, 1, 500, 64))
    return cases
