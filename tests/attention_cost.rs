//! What attention costs on the host: memory in proportion to the lengths, not to their product, and time like that of the products
//! themselves.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use sumexp::attention::{Attention, AttentionInto, forward_into};
use sumexp::mask::{Align, Band, Rule};
use sumexp::reference::attention::{self as reference, Geometry, Gradients, Sequences};
use sumexp::reference::{Operand, Output};
use sumexp::{Device, Mask, Tensor};

/// Bytes of this process that are allocated, and the most that ever were.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which keeps count.
struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; the address came from the same allocator.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result of some work, and the most bytes that it had beyond those that were there.
fn with_memory<R>(work: impl FnOnce() -> R) -> (R, usize) {
    let before = ALLOCATED.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = work();
    (result, MOST.load(Ordering::Relaxed) - before)
}

const SIZE: usize = 64;
const CAUSAL: Attention = Attention {
    mask: Mask::Causal(Align::TopLeft),
    scale: None,
    bias: None,
    bias_gradient: false,
    alibi: None,
    softcap: None,
};

fn operand(length: usize, seed: usize) -> Tensor<f32> {
    let values: Vec<f32> = (0..length * SIZE).map(|i| ((i * 7919 + seed) % 1000) as f32 / 500.0 - 1.0).collect();
    Tensor::from_slice(&Device::cpu(), &[1, 1, length, SIZE], &values).unwrap()
}

/// The shorter of two runs.
fn shortest(mut work: impl FnMut()) -> Duration {
    let mut run = || {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..2).map(|_| run()).min().unwrap()
}

/// As many multiplications and additions as the products of a causal attention, in float64 and by one thread.
fn products(length: usize) -> Duration {
    let rows = |seed: usize| -> Vec<f64> { (0..length * SIZE).map(|i| ((i + seed) % 100) as f64).collect() };
    let (q, k, v) = (rows(1), rows(2), rows(3));
    shortest(|| {
        let mut out = vec![0.0; length * SIZE];
        for (i, (q, out)) in q.chunks(SIZE).zip(out.chunks_mut(SIZE)).enumerate() {
            for (k, v) in k.chunks(SIZE).zip(v.chunks(SIZE)).take(i + 1) {
                let score: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                out.iter_mut().zip(v).for_each(|(out, v)| *out += score * v);
            }
        }
        black_box(out);
    })
}

fn one_thread<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(work)
}

/// The gradients of an attention, by the reference itself.
fn backward(length: usize, operands: [&[f32]; 3], gradients: &mut [Vec<f32>; 3]) {
    let strides = &[0, 0, SIZE as u64, 1];
    let operand = |data| Operand { data, strides };
    let [q, k, v] = operands.map(operand);
    let attention = reference::Attention::<f32> {
        geometry: Geometry {
            sequences: Sequences::Batched { batch: 1, queries: length, keys: length },
            query_heads: 1,
            key_heads: 1,
            head_size: SIZE,
            value_size: SIZE,
        },
        q,
        k,
        v,
        scale: 0.125,
        bias: None,
        alibi: None,
        softcap: None,
        mask: &[Rule::Band(Band::causal(Align::TopLeft))],
    };
    let [dq, dk, dv] = gradients.each_mut().map(|data| Output { data, strides });
    reference::backward(&attention, q, None, Gradients { dq, dk, dv, dbias: None });
}

/// One test, because memory is counted for the whole process.
#[test]
fn memory_and_time() {
    for length in [512, 2048] {
        let [q, k, v] = [1, 2, 3].map(|seed| operand(length, seed));
        let mut out = operand(length, 4);
        let ((), memory) = with_memory(|| {
            let into = AttentionInto { out: out.view_mut(), lse: None };
            forward_into(&q, &k, &v, &CAUSAL, into).unwrap();
        });
        let values = [&q, &k, &v].map(|x| x.to_vec().unwrap());
        let mut gradients = [1, 2, 3].map(|_| vec![0.0; length * SIZE]);
        let ((), of_backward) = with_memory(|| {
            backward(length, values.each_ref().map(|x| &x[..]), &mut gradients);
        });
        println!("{length} queries: {memory} bytes forward, {of_backward} backward");
        // Operands in float64, and some rows of scores. All scores would be 32 MiB for 2048 queries.
        let rows = length * SIZE * 8;
        assert!(
            memory < 4 * rows + (1 << 20) && of_backward < 7 * rows + (1 << 20),
            "{length}: {memory} {of_backward}"
        );
    }
    let length = 2048;
    let [q, k, v] = [1, 2, 3].map(|seed| operand(length, seed));
    let (mut out, plain) = (operand(length, 4), products(length));
    let forward = one_thread(|| {
        shortest(|| {
            let into = AttentionInto { out: out.view_mut(), lse: None };
            forward_into(&q, &k, &v, &CAUSAL, into).unwrap();
        })
    });
    let values = [&q, &k, &v].map(|x| x.to_vec().unwrap());
    let mut gradients = [1, 2, 3].map(|_| vec![0.0; length * SIZE]);
    let of_backward = one_thread(|| shortest(|| backward(length, values.each_ref().map(|x| &x[..]), &mut gradients)));
    let ratio = |time: Duration| time.as_secs_f64() / plain.as_secs_f64();
    println!(
        "{length} queries, causal, by one thread: {plain:.0?} for two products of all visible pairs; forward {forward:.0?} ({:.1} of \
         that), backward {of_backward:.0?} ({:.1} of that for the five products it needs)",
        ratio(forward),
        ratio(of_backward) / 2.5
    );
    assert!(ratio(forward) < 3.0 && ratio(of_backward) < 3.0 * 2.5, "{plain:?} {forward:?} {of_backward:?}");
}
