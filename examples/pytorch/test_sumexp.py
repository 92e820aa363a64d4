"""Tests sumexp.py with the standard library alone: values, gradients, strides, refusals. NumPy's arrays too, if it is there."""
import array
import math
import sys

import sumexp


def f32(values):
    return array.array("f", values)


def shaped(buffer, *shape):
    """A buffer as a tensor of this shape."""
    view = memoryview(buffer)
    return view.cast("B").cast(view.format, shape)


def near(got, want, tolerance=1e-6):
    got, want = list(got), list(want)
    assert len(got) == len(want), (got, want)
    for index, (g, w) in enumerate(zip(got, want)):
        assert abs(g - w) <= tolerance * max(1.0, abs(w)), f"[{index}] got {g}, want {w}"


def refused(code, part, call):
    try:
        call()
    except sumexp.Error as error:
        assert error.code == code and part in str(error), (error.code, str(error))
    else:
        raise AssertionError(f"not refused: {part}")


def softmax():
    x, y, dx = f32([1, 2, 3, 0, 0, 9]), f32([0] * 6), f32([0] * 6)
    sumexp.softmax(shaped(x, 2, 3), shaped(y, 2, 3))
    weights = [math.exp(v) for v in (1, 2, 3)]
    near(y[:3], [w / sum(weights) for w in weights])
    # Columns of the same memory, and a temperature.
    sumexp.softmax(shaped(x, 2, 3), shaped(y, 2, 3), dim=0, temperature=2.0)
    near([y[0] + y[3], y[1] + y[4], y[2] + y[5]], [1, 1, 1])
    near(y[:1], [1 / (1 + math.exp(-0.5))])
    keep = array.array("B", [1, 1, 0])
    sumexp.softmax(shaped(x, 2, 3), shaped(y, 2, 3), keep=keep)
    near(y[3:], [0.5, 0.5, 0.0])
    # Gradients: dx = y (dy - sum(dy y)).
    dy = f32([1, 0, 0, 0, 2, 0])
    sumexp.softmax_backward(shaped(y, 2, 3), shaped(dy, 2, 3), shaped(dx, 2, 3))
    near(dx[3:], [-0.5, 0.5, 0.0])
    logs = f32([0] * 6)
    sumexp.log_softmax(shaped(x, 2, 3), shaped(logs, 2, 3))
    near(logs[:3], [math.log(w / sum(weights)) for w in weights])
    sumexp.log_softmax_backward(shaped(logs, 2, 3), shaped(dy, 2, 3), shaped(dx, 2, 3))
    near(dx[:3], [1 - weights[0] / sum(weights), -weights[1] / sum(weights), -weights[2] / sum(weights)])


def strides():
    """Every second number of a buffer: the description says so, and nothing is copied."""
    x, y = f32([1, 99, 2, 99, 3, 99]), f32([0] * 3)
    every_second = sumexp.describe(x)
    part = sumexp.DLTensor(x, every_second.data, "float32", (3,), (2,), (sumexp.CPU, 0))
    sumexp.softmax(part, y)
    x[2] = 5
    again = f32([0] * 3)
    sumexp.softmax(part, again)
    assert again[1] > y[1]
    near([sum(again)], [1])


def cross_entropy():
    logits, targets = f32([0, 0, 0, 5, 1, 1]), array.array("q", [2, 0])
    loss, lse, dlogits = f32([0]), f32([0, 0]), f32([0] * 6)
    options = sumexp.cross_entropy_options(label_smoothing=0.1, class_weights=f32([1, 1, 2]))
    sumexp.cross_entropy(shaped(logits, 2, 3), targets, loss, lse, options)
    lses = [math.log(3), math.log(math.exp(5) + 2 * math.e)]
    near(lse, lses)

    def mean(x):
        total = 0.0
        for row, target in enumerate(targets):
            values = x[3 * row : 3 * row + 3]
            l = math.log(sum(math.exp(v) for v in values))
            for c, v in enumerate(values):
                total += (1, 1, 2)[c] * ((0.9 if c == target else 0.0) + 0.1 / 3) * (l - v)
        return total / (2 + 1)

    near(loss, [mean(logits)])
    dloss = f32([1])
    sumexp.cross_entropy_backward(shaped(logits, 2, 3), targets, lse, sumexp_scalar(dloss), shaped(dlogits, 2, 3), options)
    for index in range(6):
        moved = [[v + (step if i == index else 0) for i, v in enumerate(logits)] for step in (1e-5, -1e-5)]
        near([dlogits[index]], [(mean(moved[0]) - mean(moved[1])) / 2e-5], 1e-5)
    ignoring = sumexp.cross_entropy_options(ignore_index=2, reduction="sum")
    sumexp.cross_entropy(shaped(logits, 2, 3), targets, loss, lse, ignoring)
    near(loss, [lses[1] - 5])


def attention():
    """Causal, with a bias and heads that share keys, against sums by hand; gradients against finite differences."""
    heads, queries, keys, size = 2, 3, 4, 2
    q = f32([0.3 * ((7 * i) % 5) - 0.5 for i in range(heads * queries * size)])
    k = f32([0.4 * ((5 * i) % 7) - 1.0 for i in range(keys * size)])
    v = f32([0.5 * ((3 * i) % 11) - 2.0 for i in range(keys * size)])
    bias = f32([0.1, -0.3, 0.5, 0.2])
    dout = f32([((11 * i) % 9) / 4 - 1.0 for i in range(heads * queries * size)])

    def out_of(q, k, v, bias):
        out = []
        for row in range(heads * queries):
            i = row % queries
            # The last query sees all keys.
            scores = [
                sum(q[row * size + d] * k[j * size + d] for d in range(size)) * 0.75 + bias[j]
                for j in range(keys - queries + i + 1)
            ]
            total = sum(math.exp(s) for s in scores)
            out += [sum(math.exp(s) / total * v[j * size + d] for j, s in enumerate(scores)) for d in range(size)]
        return out

    options = sumexp.attention_options(scale=0.75, causal="bottom_right", bias=shaped(bias, 1, keys))
    out, lse = f32([0] * len(q)), f32([0] * heads * queries)
    shapes = [(1, heads, queries, size), (1, 1, keys, size), (1, 1, keys, size), (1, keys)]
    tensors = [shaped(x, *shape) for x, shape in zip((q, k, v), shapes)]
    of_out, of_lse = shaped(out, *shapes[0]), shaped(lse, 1, heads, queries)
    sumexp.attention(*tensors, of_out, of_lse, options)
    near(out, out_of(q, k, v, bias))
    gradients = [f32([0] * len(x)) for x in (q, k, v, bias)]
    dq, dk, dv, dbias = (shaped(x, *shape) for x, shape in zip(gradients, shapes))
    sumexp.attention_backward(*tensors, of_out, of_lse, shaped(dout, *shapes[0]), dq, dk, dv, options, dbias=dbias)
    for number, gradient in enumerate(gradients):
        for index, got in enumerate(gradient):
            losses = []
            for step in (1e-5, -1e-5):
                moved = [list(x) for x in (q, k, v, bias)]
                moved[number][index] += step
                losses.append(sum(x * y for x, y in zip(out_of(*moved), dout)))
            near([got], [(losses[0] - losses[1]) / 2e-5], 1e-5)
    refused(4, "differ", lambda: sumexp.attention(tensors[0], shaped(k, 1, 1, 2, 4), tensors[2], of_out, of_lse, options))


def sumexp_scalar(buffer):
    """One number as a tensor without dims."""
    return sumexp.DLTensor(buffer, sumexp.describe(buffer).data, "float32", (), (), (sumexp.CPU, 0))


def refusals():
    x, y = f32([1, 2]), f32([0, 0])
    refused(9, "temperature", lambda: sumexp.softmax(x, y, temperature=0.0))
    refused(4, "shape", lambda: sumexp.softmax(x, f32([0])))
    refused(5, "dim 1", lambda: sumexp.softmax(x, y, dim=1))
    refused(8, "overlap", lambda: sumexp.softmax(x, x))
    options = sumexp.cross_entropy_options()
    bad = lambda: sumexp.cross_entropy(shaped(x, 1, 2), array.array("q", [2]), f32([0]), f32([0]), options)
    refused(10, "2", bad)
    sumexp.check(x)
    for wrong in [array.array("d", [1.0]), array.array("h", [1])]:
        try:
            sumexp.softmax(wrong, y)
        except TypeError:
            continue
        raise AssertionError("a type that does not exist was taken")


def numpy_arrays():
    try:
        import numpy
    except ImportError:
        return "NumPy is not there: its arrays are not tested"
    x = numpy.arange(12, dtype=numpy.float32).reshape(3, 4)
    y = numpy.zeros((4, 3), numpy.float32)
    sumexp.softmax(x.T, y, dim=-1)
    near(y.sum(axis=1), [1.0] * 4)
    return None


if __name__ == "__main__":
    for test in (softmax, strides, cross_entropy, attention, refusals):
        test()
    note = numpy_arrays()
    if note:
        print(note, file=sys.stderr)
    print(f"sumexp {sumexp.library().sumexp_version().decode()}: all is right")
