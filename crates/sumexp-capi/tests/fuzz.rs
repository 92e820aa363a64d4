//! Tensors that nobody would make on purpose: random dims, strides, types and devices, with the few bytes around each tensor
//! watched. Whatever they say, a call returns, and writes nothing outside of its output.

use std::ffi::{CStr, c_void};
use std::ptr;
use std::thread;
use sumexp_capi::*;

/// Bytes of memory that a tensor may lie in; 0x55 around them.
const MEMORY: usize = 4096;
const GUARD: usize = 256;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

/// Numbers at the corners of what they can be.
const CORNERS: [i64; 8] = [i64::MIN, i64::MAX, -1, 0, 1 << 31, 1 << 32, 1 << 62, i64::MAX / 4];

/// A tensor over memory of its own, of which it may say anything.
struct Tensor {
    memory: Vec<u64>,
    shape: [i64; 16],
    strides: [i64; 16],
    tensor: DLTensor,
}

impl Tensor {
    /// A tensor that is sane but for a few words, on the same shape more often than not. What lies within its memory by its own
    /// strides is what a caller vouches for, so strides that pass the memory are only made if they cannot be accepted.
    fn new(random: &mut Random, shape: &[i64], code: (DLDataTypeCode, u8)) -> Box<Self> {
        let mut made = Box::new(Self {
            memory: vec![0x5555_5555_5555_5555; (MEMORY + 2 * GUARD) / 8],
            shape: [1; 16],
            strides: [1; 16],
            tensor: DLTensor {
                data: ptr::null_mut(),
                device: DLDevice { device_type: kDLCPU, device_id: 0 },
                ndim: shape.len() as i32,
                dtype: DLDataType { code: code.0.0 as u8, bits: code.1, lanes: 1 },
                shape: ptr::null_mut(),
                strides: ptr::null_mut(),
                byte_offset: 0,
            },
        });
        made.shape[..shape.len()].copy_from_slice(shape);
        let mut next = 1;
        for dim in (0..shape.len()).rev() {
            made.strides[dim] = next;
            next *= shape[dim].max(1);
        }
        let inside = made.memory[GUARD / 8..].as_mut_ptr();
        for word in 0..MEMORY / 8 {
            // SAFETY: within the memory.
            unsafe { inside.add(word).write(if random.one_in(8) { random.next() } else { 0x3F80_0000_3F80_0000 }) };
        }
        made.tensor.data = inside.cast();
        made.tensor.shape = made.shape.as_mut_ptr();
        if random.one_in(2) {
            made.tensor.strides = made.strides.as_mut_ptr();
        }
        if random.one_in(3) {
            made.spoil(random);
        }
        made
    }

    /// Says something else about one thing.
    fn spoil(&mut self, random: &mut Random) {
        let dim = random.below(8) as usize;
        let tensor = &mut self.tensor;
        match random.below(14) {
            0 => tensor.ndim = random.of(&[-1, i32::MIN, i32::MAX, 9, 16]),
            1 => tensor.dtype.code = random.next() as u8,
            2 => tensor.dtype.bits = random.of(&[0, 1, 8, 64, 128, 255]),
            3 => tensor.dtype.lanes = random.of(&[0, 2, u16::MAX]),
            4 => tensor.device.device_type = DLDeviceType(random.of(&[0, 3, 4, 7, u32::MAX])),
            5 => tensor.device = DLDevice { device_type: kDLCUDA, device_id: random.of(&[-1, i32::MIN, 99]) },
            6 => tensor.data = ptr::null_mut(),
            7 => tensor.shape = ptr::null_mut(),
            8 => tensor.byte_offset = random.of(&[1, 2, 3, u64::MAX, u64::MAX - 7, 1 << 63]),
            9 => self.shape[dim] = random.of(&CORNERS[..3]),
            10 => self.shape[dim] = 0,
            11 | 12 => {
                self.strides[dim] = random.of(&[-1, i64::MIN, i64::MAX]);
                tensor.strides = self.strides.as_mut_ptr();
            }
            _ => {
                self.strides[dim] = 0;
                tensor.strides = self.strides.as_mut_ptr();
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is that long, and bytes are bytes.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.memory.len() * 8) }
    }
}

/// Calls one function with random tensors and checks what became of them.
fn round(random: &mut Random) -> i32 {
    let rank = random.below(4) as usize + usize::from(random.one_in(2));
    let shape: Vec<i64> = (0..rank).map(|_| random.of(&[0, 1, 2, 3, 3, 4])).collect();
    let float = random.of(&[(kDLFloat, 16), (kDLBfloat, 16), (kDLFloat, 32)]);
    let number = (kDLFloat, 32);
    let dim = if random.one_in(8) { random.of(&[-9, 9, i32::MIN, i32::MAX]) } else { random.below(4) as i32 - 2 };
    let mut reduced = shape.clone();
    if let Some(at) = (dim + if dim < 0 { rank as i32 } else { 0 }).try_into().ok().filter(|&at: &usize| at < rank) {
        reduced.remove(at);
    }
    let one: &[i64] = if random.one_in(2) { &[] } else { &[1] };
    let reduction = if random.one_in(10) { random.of(&[-1, 3, i32::MAX]) } else { random.below(3) as i32 };
    let lost = if reduction == 0 { &reduced[..] } else { one };
    let temperature = random.of(&[1.0, 0.5, 3.0, 1.0, 0.0, f32::NAN, -1.0]);
    let ids = random.of(&[(kDLInt, 64), (kDLInt, 32), (kDLUInt, 32), float]);
    let make = |random: &mut Random, shape: &[i64], code| Tensor::new(random, shape, code);
    let [x, y, z] = [(); 3].map(|()| make(random, &shape, float));
    let mask = make(random, &shape, random_mask(random.0));
    let (f, g, h) = (make(random, &reduced, number), make(random, &reduced, number), make(random, lost, number));
    let (weight, i) = (make(random, &shape, number), make(random, &reduced, (kDLInt, 64)));
    let targets = make(random, if ids == float { &shape } else { &reduced }, ids);
    let valid = make(random, &reduced, (kDLUInt, 8));
    let tensors = [&x, &y, &z, &mask, &f, &g, &h, &weight, &i, &targets, &valid];
    let before: Vec<Vec<u8>> = tensors.iter().map(|tensor| tensor.bytes().to_vec()).collect();
    let given = |tensor: &Tensor, random: &mut Random| match random.one_in(40) {
        true => ptr::null(),
        false => &raw const tensor.tensor,
    };
    let [px, py, pz] = [&x, &y, &z].map(|tensor| given(tensor, random));
    let [pf, pg, ph, pi] = [&f, &g, &h, &i].map(|tensor| given(tensor, random));
    let pmask = if random.one_in(2) { ptr::null() } else { given(&mask, random) };
    let [pweight, ptargets, pvalid] = [&weight, &targets, &valid].map(|tensor| given(tensor, random));
    let none: *mut c_void = ptr::null_mut();
    // Fields that are all random, or those of the defaults with one of them random.
    let mut ce = sumexp_cross_entropy_options { dim, ..defaults(sumexp_cross_entropy_options_init) };
    ce.reduction = reduction;
    ce.temperature = temperature;
    match random.below(6) {
        0 => ce.size = random.of(&[0, 3, 4, 5, 8, 24, 41, 5000, u32::MAX]),
        1 => ce.label_smoothing = random.of(&[0.1, 1.0, 1.5, -0.5, f32::NAN, f32::INFINITY]),
        2 => ce.z_loss = random.of(&[0.1, -0.5, f32::NAN, f32::INFINITY]),
        3 => ce.ignore_index = random.of(&CORNERS),
        4 => ce.class_weights = given(&f, random),
        _ => ce.has_ignore_index = random.below(2) as i32,
    }
    let mut draw = defaults(sumexp_sample_options_init);
    match random.below(6) {
        0 => draw.temperature = temperature,
        1 => draw.top_k = random.of(&[1, 2, -1, i32::MAX, i32::MIN]),
        2 => draw.top_p = random.of(&[0.5, 0.0, 1.5, f32::NAN, -1.0]),
        3 => draw.min_p = random.of(&[0.5, 1.0, 1.5, f32::NAN, -1.0]),
        4 => draw.size = random.of(&[0, 3, 4, 6, 5000, u32::MAX]),
        _ => draw.seed = random.next(),
    }
    // The outputs, by their place in `tensors`.
    // SAFETY: what the tensors reach by their own words is their own memory, or they are refused.
    let (code, outputs): (i32, &[usize]) = unsafe {
        match random.below(15) {
            0 => (sumexp_softmax(px, dim, temperature, pmask, py, none), &[1]),
            1 => (sumexp_log_softmax(px, dim, temperature, pmask, py, none), &[1]),
            2 => (sumexp_logsumexp(px, dim, temperature, pmask, pf, none), &[4]),
            3 => (sumexp_softmax_backward(px, py, dim, temperature, pz, none), &[2]),
            4 => (sumexp_log_softmax_backward(px, py, dim, temperature, pz, none), &[2]),
            5 => (sumexp_logsumexp_backward(px, pf, pg, dim, temperature, pmask, py, none), &[1]),
            6 => (sumexp_cross_entropy(px, ptargets, &ce, ph, pf, none), &[6, 4]),
            7 => (sumexp_cross_entropy_backward(px, ptargets, pf, ph, &ce, py, none), &[1]),
            8 => (sumexp_bce_with_logits(px, py, pweight, pmask, reduction, ph, none), &[6]),
            9 => (sumexp_bce_with_logits_backward(px, py, pweight, ptr::null(), reduction, ph, pz, none), &[2]),
            10 => (sumexp_distillation(px, py, dim, temperature, reduction, reduction, ph, none), &[6]),
            11 => (sumexp_distillation_backward(px, py, dim, temperature, reduction, reduction, ph, pz, none), &[2]),
            12 => (sumexp_argmax(px, dim, pi, none), &[8]),
            13 => (sumexp_confidence(px, dim, pf, pg, ph, none), &[4, 5, 6]),
            _ => (sumexp_sample(px, &draw, pi, pvalid, none), &[8, 10]),
        }
    };
    for (at, (tensor, before)) in tensors.iter().zip(&before).enumerate() {
        let written = code == SUMEXP_OK.0 as i32 && outputs.contains(&at);
        let (now, inside) = (tensor.bytes(), GUARD..GUARD + if written { MEMORY } else { 0 });
        assert!(
            now[..inside.start] == before[..inside.start] && now[inside.end..] == before[inside.end..],
            "tensor {at}"
        );
    }
    assert_ne!(code, SUMEXP_INTERNAL.0 as i32, "{}", message());
    code
}

fn random_mask(bits: u64) -> (DLDataTypeCode, u8) {
    if bits.is_multiple_of(2) { (kDLBool, 8) } else { (kDLUInt, 8) }
}

fn defaults<T>(init: unsafe extern "C" fn(*mut T) -> i32) -> T {
    let mut options = std::mem::MaybeUninit::uninit();
    // SAFETY: there is memory for a `T`, which the call fills if it succeeds.
    unsafe {
        assert_eq!(init(options.as_mut_ptr()), SUMEXP_OK.0 as i32);
        options.assume_init()
    }
}

fn message() -> String {
    // SAFETY: never null, and valid until the next call on this thread.
    unsafe { CStr::from_ptr(sumexp_last_error()) }.to_string_lossy().into_owned()
}

#[test]
fn tensors_that_say_anything_crash_nothing() {
    let rounds = std::env::var("SUMEXP_CAPI_FUZZ_ROUNDS").map_or(5_000, |text| text.parse().unwrap());
    // Side by side, which also shows that calls do not disturb each other.
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            thread::spawn(move || {
                let (mut random, mut codes) = (Random(thread), [0; 16]);
                (0..rounds).for_each(|_| codes[round(&mut random) as usize] += 1);
                codes
            })
        })
        .collect();
    let mut codes = [0; 16];
    for thread in threads {
        let counts = thread.join().unwrap();
        codes.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
    }
    println!("{codes:?}");
    // Each kind of refusal was seen, and so was success.
    for code in [SUMEXP_OK, SUMEXP_NULL, SUMEXP_DTYPE, SUMEXP_DEVICE, SUMEXP_SHAPE, SUMEXP_DIM, SUMEXP_STRIDES] {
        assert!(codes[code.0 as usize] > rounds / 50, "{code:?}: {codes:?}");
    }
    for code in [SUMEXP_ALIGNMENT, SUMEXP_OPTION, SUMEXP_TARGET] {
        assert!(codes[code.0 as usize] > 0, "{code:?}: {codes:?}");
    }
}
