"""The C library of sumexp on tensors of PyTorch, arrays of NumPy and plain buffers, through ctypes alone.

    make capi
    SUMEXP_LIBRARY=target/capi/libsumexp.so python3 -c 'import sumexp; ...'

Nothing is copied: a tensor goes in as a DLTensor that describes its memory, strides included. Results are written into tensors
that the caller passes, contiguous and of the right shape. On a GPU work is enqueued on PyTorch's current stream, and nothing waits.
`torch_functions` makes autograd functions of this.
"""
import ctypes
import os

CPU, CUDA = 1, 2
# Type codes and bits of DLPack.
TYPES = {
    "float16": (2, 16),
    "bfloat16": (4, 16),
    "float32": (2, 32),
    "int32": (0, 32),
    "int64": (0, 64),
    "uint32": (1, 32),
    "uint8": (1, 8),
    "bool": (6, 8),
}
# Elements of the standard library's buffers.
FORMATS = {"e": "float16", "f": "float32", "i": "int32", "q": "int64", "l": "int64", "I": "uint32", "B": "uint8", "?": "bool"}


class Error(Exception):
    """A call that the library refused, with its code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class _Device(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class DLTensor(ctypes.Structure):
    """Memory of somebody else. `owner` keeps it, and the numbers below keep shape and strides."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]

    def __init__(self, owner, address, dtype, shape, strides, device):
        if dtype not in TYPES:
            raise TypeError(f"sumexp has no elements of type {dtype}")
        numbers = ctypes.c_int64 * max(len(shape), 1)
        self.owner, self.lengths, self.steps = owner, numbers(*shape), numbers(*strides)
        code, bits = TYPES[dtype]
        super().__init__(
            address, _Device(*device), len(shape), _DataType(code, bits, 1), self.lengths, self.steps, 0
        )


def describe(x):
    """A tensor of PyTorch, an array of NumPy or any writable buffer (array.array, memoryview) as a DLTensor."""
    if isinstance(x, DLTensor):
        return x
    if hasattr(x, "data_ptr"):
        device = (CUDA, x.device.index) if x.is_cuda else (CPU, 0)
        return DLTensor(x, x.data_ptr(), str(x.dtype).removeprefix("torch."), tuple(x.shape), x.stride(), device)
    if hasattr(x, "__array_interface__"):
        steps = tuple(step // x.itemsize for step in x.strides)
        return DLTensor(x, x.__array_interface__["data"][0], x.dtype.name, x.shape, steps, (CPU, 0))
    view = memoryview(x)
    if view.format not in FORMATS:
        raise TypeError(f"sumexp has no elements of format {view.format}")
    flat = view.cast("B") if view.contiguous else view.obj
    address = ctypes.addressof(ctypes.c_char.from_buffer(flat)) if view.nbytes else 0
    steps = tuple(step // view.itemsize for step in view.strides)
    return DLTensor(view, address, FORMATS[view.format], view.shape, steps, (CPU, 0))


class CrossEntropyOptions(ctypes.Structure):
    """`sumexp_cross_entropy_options`."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("dim", ctypes.c_int32),
        ("reduction", ctypes.c_int32),
        ("has_ignore_index", ctypes.c_int32),
        ("ignore_index", ctypes.c_int64),
        ("label_smoothing", ctypes.c_float),
        ("z_loss", ctypes.c_float),
        ("temperature", ctypes.c_float),
        ("class_weights", ctypes.POINTER(DLTensor)),
    ]


REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}


def cross_entropy_options(
    dim=-1, reduction="mean", ignore_index=-100, label_smoothing=0.0, z_loss=0.0, temperature=1.0, class_weights=None
):
    """Options of cross-entropy; `ignore_index=None` lets every row count."""
    options = CrossEntropyOptions()
    _call("sumexp_cross_entropy_options_init", ctypes.byref(options))
    options.dim, options.reduction = dim, REDUCTIONS[reduction]
    options.has_ignore_index = int(ignore_index is not None)
    options.ignore_index = ignore_index if ignore_index is not None else 0
    options.label_smoothing, options.z_loss, options.temperature = label_smoothing, z_loss, temperature
    if class_weights is not None:
        options.kept = describe(class_weights)
        options.class_weights = ctypes.pointer(options.kept)
    return options


class AttentionOptions(ctypes.Structure):
    """`sumexp_attention_options`."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("scale", ctypes.c_float),
        ("causal", ctypes.c_int32),
        ("window_left", ctypes.c_int64),
        ("window_right", ctypes.c_int64),
        ("softcap", ctypes.c_float),
    ] + [
        (name, ctypes.POINTER(DLTensor))
        for name in ("keep", "bias", "alibi_slopes", "key_lengths", "q_segments", "k_segments", "q_offsets", "k_offsets")
    ] + [("max_q", ctypes.c_int32), ("max_k", ctypes.c_int32)]


CAUSAL = {None: 0, "top_left": 1, "bottom_right": 2}


def attention_options(scale=None, causal=None, window=(-1, -1), softcap=0.0, **tensors):
    """Options of attention; `causal` is None, "top_left" or "bottom_right", `tensors` are keep, bias, alibi_slopes, key_lengths,
    q_segments with k_segments, q_offsets with k_offsets."""
    options = AttentionOptions()
    _call("sumexp_attention_options_init", ctypes.byref(options))
    if scale is not None:
        options.scale = scale
    options.causal, options.softcap = CAUSAL[causal], softcap
    options.window_left, options.window_right = window
    options.kept = {name: describe(x) for name, x in tensors.items() if x is not None}
    for name, described in options.kept.items():
        setattr(options, name, ctypes.pointer(described))
    return options


_library = None


def library():
    """The library, from SUMEXP_LIBRARY or wherever the loader finds it."""
    global _library
    if _library is None:
        _library = ctypes.CDLL(os.environ.get("SUMEXP_LIBRARY", "libsumexp.so"))
        _library.sumexp_last_error.restype = ctypes.c_char_p
        _library.sumexp_version.restype = ctypes.c_char_p
    return _library


def _call(name, *arguments):
    code = getattr(library(), name)(*arguments)
    if code != 0:
        raise Error(code, library().sumexp_last_error().decode())


def _tensor(x):
    return None if x is None else ctypes.byref(x)


def stream_of(x):
    """PyTorch's current stream on the device of a tensor, as the library takes it; NULL on the host."""
    if getattr(x, "is_cuda", False):
        import torch

        return ctypes.c_void_p(torch.cuda.current_stream(x.device).cuda_stream)
    return None


def _run(name, first, *arguments):
    """Calls a function with tensors and numbers in its order, behind them the stream."""
    described = [None if x is None else x if isinstance(x, ctypes._SimpleCData) else describe(x) for x in arguments]
    passed = [_tensor(x) if isinstance(x, DLTensor) else x for x in described]
    _call(name, *passed, stream_of(first))


def _options(options):
    """Options as an argument among tensors."""
    return ctypes.c_void_p(ctypes.addressof(options))


def softmax(x, y, dim=-1, temperature=1.0, keep=None):
    """y = softmax(x / temperature); `keep` is a mask of bytes or bools whose false entries are hidden."""
    _run("sumexp_softmax", x, x, ctypes.c_int32(dim), ctypes.c_float(temperature), keep, y)


def softmax_backward(y, dy, dx, dim=-1, temperature=1.0):
    """dx from the result and its gradient."""
    _run("sumexp_softmax_backward", y, y, dy, ctypes.c_int32(dim), ctypes.c_float(temperature), dx)


def log_softmax(x, y, dim=-1, temperature=1.0, keep=None):
    """y = log(softmax(x / temperature))."""
    _run("sumexp_log_softmax", x, x, ctypes.c_int32(dim), ctypes.c_float(temperature), keep, y)


def log_softmax_backward(y, dy, dx, dim=-1, temperature=1.0):
    """dx from the result and its gradient."""
    _run("sumexp_log_softmax_backward", y, y, dy, ctypes.c_int32(dim), ctypes.c_float(temperature), dx)


def cross_entropy(logits, targets, loss, lse, options):
    """The loss, and what the gradient is computed with; `options` from `cross_entropy_options`."""
    _run("sumexp_cross_entropy", logits, logits, targets, _options(options), loss, lse)


def cross_entropy_backward(logits, targets, lse, dloss, dlogits, options):
    """The gradient of the logits."""
    _run("sumexp_cross_entropy_backward", logits, logits, targets, lse, dloss, _options(options), dlogits)


def attention(q, k, v, out, lse, options, weights=None):
    """out = softmax(q k^T) v of [B, H, S, D], and the float32 lse of every query; `options` from `attention_options`."""
    _run("sumexp_attention_forward", q, q, k, v, _options(options), out, lse, weights)


def attention_backward(q, k, v, out, lse, dout, dq, dk, dv, options, dlse=None, dbias=None):
    """The gradients of q, k and v, and of the bias where there is a place for it."""
    _run("sumexp_attention_backward", q, q, k, v, out, lse, dout, dlse, _options(options), dq, dk, dv, dbias)


def check(x):
    """Waits for the device of a tensor, and raises if a target was no class."""
    device = describe(x).device
    _call("sumexp_check", device, stream_of(x))
