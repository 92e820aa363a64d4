//! Attention: TFLOP/s over head sizes and lengths at a constant number of tokens; grouped heads, masks of bytes.
//!
//! Operations are counted as in the field: `4 B H Sq Sk D` forward and 2.5 times as many backward, of visible pairs; half of them for a
//! causal mask.

mod common;

use common::{Case, DeviceTime, Machine, Work, criterion, normal};
use criterion::Criterion;
use sumexp::attention::{Attention, AttentionInto, GradientsInto, Partial, backward_into, forward_into};
use sumexp::mask::Align;
use sumexp::{Device, Float, Mask, Result, Tensor, bf16, f16, keep};

fn main() {
    let machine = Machine::open();
    let mut criterion = criterion();
    each_shape::<f16>(&mut criterion, &machine);
    each_shape::<bf16>(&mut criterion, &machine);
    each_shape::<f32>(&mut criterion, &machine);
    criterion.final_summary();
}

/// What hides pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hidden {
    None,
    Causal,
    /// Bytes: every tenth pair, so that every tile has some.
    Tenth,
    /// Bytes: half of the blocks of 256 x 256, so that tiles are either hidden or visible as a whole.
    Blocks,
}

/// The shape of a call: as many keys as queries.
#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: usize,
    heads: usize,
    key_heads: usize,
    length: usize,
    head: usize,
    hidden: Hidden,
}

impl Shape {
    fn visible(self, query: usize, key: usize) -> bool {
        match self.hidden {
            Hidden::None => true,
            Hidden::Causal => key <= query,
            Hidden::Tenth => !(query * 7 + key).is_multiple_of(10),
            Hidden::Blocks => (query / 256 + key / 256).is_multiple_of(2),
        }
    }

    /// Of the forward pass. Hidden pairs count where nothing can be saved by skipping tiles; a causal mask hides half.
    fn flop(self) -> u64 {
        let Shape { batch, heads, length, head, hidden, .. } = self;
        let all = 4 * (batch * heads * length * length * head) as u64;
        match hidden {
            Hidden::None | Hidden::Tenth => all,
            Hidden::Causal | Hidden::Blocks => all / 2,
        }
    }
}

fn each_shape<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine) {
    // On the host there is the float64 reference, and while testing the software GPU: shapes that take them a moment.
    let (tokens, lengths, columns): (usize, &[usize], usize) = match (machine.testing, machine.device.is_cpu()) {
        (true, _) => (300, &[300], 64),
        (_, true) => (512, &[128, 512], 128),
        _ => (16 << 10, &[512, 1024, 2048, 4096, 8192, 16 << 10], 2048),
    };
    for head in [64, 128, 256] {
        for length in lengths {
            let heads = (columns / head).max(1);
            let shape =
                Shape { batch: tokens / length, heads, key_heads: heads, length: *length, head, hidden: Hidden::None };
            measure::<T>(criterion, machine, "attention", shape);
            measure::<T>(criterion, machine, "attention", Shape { hidden: Hidden::Causal, ..shape });
        }
    }
    // Groups of eight, and masks of bytes beside none.
    let heads = if columns < 2048 { 8 } else { 64 };
    let length = tokens.min(4096);
    let batch = tokens / length;
    let grouped = Shape { batch, heads, key_heads: heads / 8, length, head: 128, hidden: Hidden::None };
    for hidden in [Hidden::None, Hidden::Causal] {
        measure::<T>(criterion, machine, "attention_grouped", Shape { hidden, ..grouped });
    }
    let masked = Shape { heads: heads / 4, key_heads: heads / 4, ..grouped };
    for hidden in [Hidden::None, Hidden::Tenth, Hidden::Blocks] {
        measure::<T>(criterion, machine, "attention_mask", Shape { hidden, ..masked });
    }
}

/// Operands and results of a call on a device.
struct Call<T> {
    q: Tensor<T>,
    k: Tensor<T>,
    v: Tensor<T>,
    bytes: Option<Tensor<u8>>,
    causal: bool,
    out: Tensor<T>,
    lse: Tensor<f32>,
    dout: Tensor<T>,
    dq: Tensor<T>,
    dk: Tensor<T>,
    dv: Tensor<T>,
}

impl<T: Float> Call<T> {
    fn new(device: &Device, shape: Shape) -> Result<Self> {
        let Shape { batch, heads, key_heads, length, head, hidden } = shape;
        let (q, k) = ([batch, heads, length, head], [batch, key_heads, length, head]);
        let bytes = match hidden {
            Hidden::None | Hidden::Causal => None,
            Hidden::Tenth | Hidden::Blocks => {
                let pair = |n: usize| u8::from(shape.visible(n / length, n % length));
                let bytes: Vec<u8> = (0..length * length).map(pair).collect();
                Some(Tensor::from_slice(device, &[length, length], &bytes)?)
            }
        };
        Ok(Self {
            q: normal(device, &q, 0),
            k: normal(device, &k, 1),
            v: normal(device, &k, 2),
            bytes,
            causal: hidden == Hidden::Causal,
            out: Tensor::zeros(device, &q)?,
            lse: Tensor::zeros(device, &q[..3])?,
            dout: normal(device, &q, 3),
            dq: Tensor::zeros(device, &q)?,
            dk: Tensor::zeros(device, &k)?,
            dv: Tensor::zeros(device, &k)?,
        })
    }

    fn forward(&mut self) -> Result<()> {
        let options = Attention { mask: mask(&self.bytes, self.causal), ..Attention::default() };
        let results = AttentionInto { out: self.out.view_mut(), lse: Some(self.lse.view_mut()) };
        forward_into(&self.q, &self.k, &self.v, &options, results)
    }

    /// Of the results that the forward pass left.
    fn backward(&mut self) -> Result<()> {
        let options = Attention { mask: mask(&self.bytes, self.causal), ..Attention::default() };
        let saved = Partial::from_values(&self.out, self.lse.view());
        let gradients =
            GradientsInto { dq: self.dq.view_mut(), dk: self.dk.view_mut(), dv: self.dv.view_mut(), dbias: None };
        backward_into(&self.q, &self.k, &self.v, saved, &self.dout, &options, gradients)
    }
}

fn mask(bytes: &Option<Tensor<u8>>, causal: bool) -> Mask<'_> {
    match bytes {
        Some(bytes) => keep(bytes).into(),
        None if causal => Mask::Causal(Align::BottomRight),
        None => Mask::None,
    }
}

/// Times the passes; or while testing compares them with the CPU device's.
fn measure<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine, op: &str, shape: Shape) {
    let Shape { batch, heads, key_heads, length, head, hidden } = shape;
    let words = format!("B {batch} H {heads}/{key_heads} S {length} D {head} {hidden:?}").to_lowercase();
    let mut done = || -> Result<()> {
        let mut call = Call::<T>::new(&machine.device, shape)?;
        if machine.testing {
            let mut want = Call::<T>::new(&Device::cpu(), shape)?;
            for call in [&mut call, &mut want] {
                call.forward()?;
                call.backward()?;
            }
            for (got, want) in
                [(&call.out, &want.out), (&call.dq, &want.dq), (&call.dk, &want.dk), (&call.dv, &want.dv)]
            {
                assert_close(&format!("{op} {words}"), &got.to_vec()?, &want.to_vec()?);
            }
            println!("{op} {} {words}: right", T::DTYPE);
            return Ok(());
        }
        let case = |op| Case { machine, op, shape: words.clone() };
        case(op).clock(criterion, T::DTYPE, Work::Flop(shape.flop()), || call.forward())?;
        // Once more, should a filter have left the forward pass out.
        call.forward()?;
        let work = Work::Flop(shape.flop() / 2 * 5);
        case(&format!("{op}_backward")).clock(criterion, T::DTYPE, work, || call.backward())
    };
    done().unwrap_or_else(|error| panic!("{op} {words}: {error}"));
}

/// Panics unless `got` is what the CPU device computed, up to a few units in the last place of the largest of all.
fn assert_close<T: Float>(case: &str, got: &[T], want: &[T]) {
    let largest = want.iter().fold(0.0f64, |largest, x| largest.max(x.to_f64().abs()));
    let bound = largest * if size_of::<T>() == 4 { 2e-6 } else { 1e-2 };
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            (got.to_f64() - want.to_f64()).abs() <= bound,
            "{case}: element {i} is {got:?}, the CPU device has {want:?}"
        );
    }
}
