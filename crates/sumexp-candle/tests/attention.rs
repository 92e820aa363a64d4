//! Attention against candle's own composition of basic operations in f64, and its gradients.

mod common;

use candle_core::{DType, Device, IndexOp, Result, Tensor, Var};
use common::{Input, Random, numbers, same};
use sumexp_candle::{Alibi, Align, Attention, Mask, attention_weights, scaled_dot_product_attention};

/// Sizes of a case.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    heads: usize,
    key_heads: usize,
    queries: usize,
    keys: usize,
    size: usize,
    value_size: usize,
}

impl Sizes {
    fn random(random: &mut Random) -> Self {
        let key_heads = 1 + random.below(3);
        Self {
            batch: 1 + random.below(3),
            heads: key_heads * [1, 2, 4][random.below(3)],
            key_heads,
            queries: [1, 2, 5, 9][random.below(4)],
            keys: [1, 3, 6, 17][random.below(4)],
            size: [1, 4, 7, 16][random.below(4)],
            value_size: [1, 3, 8][random.below(3)],
        }
    }

    /// The key at which a query stands.
    fn position(&self, query: usize, align: Align) -> i64 {
        match align {
            Align::TopLeft => query as i64,
            Align::BottomRight => query as i64 + self.keys as i64 - self.queries as i64,
        }
    }
}

/// One mask, and whether it shows a key: (batch, head, query, key).
type Rule = Box<dyn Fn(usize, usize, usize, usize) -> bool>;

fn align(random: &mut Random) -> Align {
    if random.one_in(2) { Align::TopLeft } else { Align::BottomRight }
}

fn mask(random: &mut Random, sizes: Sizes, kind: usize) -> Result<(Option<Mask>, Rule)> {
    let Sizes { batch, heads, queries, keys, .. } = sizes;
    let mut numbers = |len: usize, below: usize| -> Vec<i32> { (0..len).map(|_| random.below(below) as i32).collect() };
    let tensor = |values: &[i32], dims: &[usize]| Tensor::from_slice(values, dims, &Device::Cpu);
    Ok(match kind {
        0 => (None, Box::new(|_, _, _, _| true)),
        1 | 2 => {
            // Broadcast over heads, or not.
            let wide = random.one_in(2);
            let shown = if wide { heads } else { 1 };
            let bytes: Vec<u8> = (0..batch * shown * queries * keys).map(|_| random.below(3) as u8).collect();
            let held = Tensor::from_slice(&bytes, (batch, shown, queries, keys), &Device::Cpu)?;
            let keeps = kind == 1;
            let mask = if keeps { Mask::Keep(held) } else { Mask::Hide(held) };
            let at = move |b: usize, h: usize, i: usize, j: usize| {
                ((b * shown + if wide { h } else { 0 }) * queries + i) * keys + j
            };
            (Some(mask), Box::new(move |b, h, i, j| (bytes[at(b, h, i, j)] != 0) == keeps))
        }
        3 => {
            let align = align(random);
            (Some(Mask::Causal(align)), Box::new(move |_, _, i, j| j as i64 <= sizes.position(i, align)))
        }
        4 => {
            let align = align(random);
            let mut side = || (!random.one_in(4)).then(|| random.below(5) as u64);
            let (left, right) = (side(), side());
            let rule = move |_, _, i, j| {
                let (own, j) = (sizes.position(i, align), j as i64);
                left.is_none_or(|left| j >= own - left as i64) && right.is_none_or(|right| j <= own + right as i64)
            };
            (Some(Mask::Window { left, right, align }), Box::new(rule))
        }
        5 => {
            let lengths = numbers(batch, keys + 1);
            let mask = Mask::KeyLengths(tensor(&lengths, &[batch])?);
            (Some(mask), Box::new(move |b, _, _, j| (j as i32) < lengths[b]))
        }
        6 => {
            let (q, k) = (numbers(batch * queries, 3), numbers(batch * keys, 3));
            let mask = Mask::Segments { q: tensor(&q, &[batch, queries])?, k: tensor(&k, &[batch, keys])? };
            (Some(mask), Box::new(move |b, _, i, j| q[b * queries + i] == k[b * keys + j]))
        }
        _ => {
            let first = 1 + random.below(6);
            let (one, shows_one) = mask(random, sizes, first)?;
            let (two, shows_two) = mask(random, sizes, 3)?;
            let all = Mask::All(one.into_iter().chain(two).collect());
            (Some(all), Box::new(move |b, h, i, j| shows_one(b, h, i, j) && shows_two(b, h, i, j)))
        }
    })
}

/// The same by candle's basic operations: weights and result. `bias` holds those by distance too, `keep` is 1 where a key is shown.
fn composed(
    [q, k, v]: [&Tensor; 3],
    scale: f64,
    softcap: Option<f64>,
    bias: &Tensor,
    keep: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let shared = |x: &Tensor| -> Result<Tensor> {
        let (batch, heads, length, size) = x.dims4()?;
        let times = q.dim(1)? / heads;
        x.unsqueeze(2)?.broadcast_as((batch, heads, times, length, size))?.reshape((batch, heads * times, length, size))
    };
    let scores = q.contiguous()?.matmul(&shared(k)?.t()?.contiguous()?)?.affine(scale, 0.0)?.add(bias)?;
    let scores = match softcap {
        Some(cap) => scores.affine(1.0 / cap, 0.0)?.tanh()?.affine(cap, 0.0)?,
        None => scores,
    };
    let exponentials = scores.broadcast_sub(&scores.max_keepdim(3)?.detach())?.exp()?.mul(keep)?;
    // A query that sees nothing has 0.
    let sums = exponentials.sum_keepdim(3)?;
    let sums = sums.eq(0.0)?.to_dtype(DType::F64)?.add(&sums)?;
    let weights = exponentials.broadcast_div(&sums)?;
    let out = weights.matmul(&shared(v)?.contiguous()?)?;
    Ok((weights, out))
}

fn case(number: u64, dtype: DType, tolerance: f64) -> Result<()> {
    let mut random = Random(number);
    let random = &mut random;
    let sizes = Sizes::random(random);
    let Sizes { batch, heads, key_heads, queries, keys, size, value_size } = sizes;
    let mut operand = |dims: [usize; 4]| -> Result<Input> {
        let values: Vec<f64> = (0..dims.iter().product()).map(|_| random.part() * 4.0 - 2.0).collect();
        Input::new(random, &dims, &values, dtype, &Device::Cpu)
    };
    let inputs = [
        operand([batch, heads, queries, size])?,
        operand([batch, key_heads, keys, size])?,
        operand([batch, key_heads, keys, value_size])?,
    ];
    let kind = random.below(8);
    let (mask, shows) = mask(random, sizes, kind)?;
    let scale = [None, Some(0.3f32), Some(-0.7)][random.below(3)];
    let softcap = random.one_in(3).then_some(2.5f32);

    // A bias that broadcasts over the batch, and one by distance.
    let full = [batch, heads, queries, keys];
    let mut added = Tensor::zeros(&full, DType::F64, &Device::Cpu)?;
    let (mut bias, mut of_bias) = (None, None);
    if random.one_in(2) {
        let values: Vec<f32> = (0..heads * queries * keys).map(|_| random.part() as f32 * 2.0 - 1.0).collect();
        let dtype = [DType::F32, DType::F16, DType::BF16][random.below(3)];
        let held = Tensor::from_vec(values, (heads, queries, keys), &Device::Cpu)?.to_dtype(dtype)?;
        let (held, wide) = (Var::from_tensor(&held)?, Var::from_tensor(&held.to_dtype(DType::F64)?)?);
        added = added.broadcast_add(&wide)?;
        bias = Some(held.as_tensor().clone());
        of_bias = Some((held, wide));
    }
    let mut alibi = None;
    if random.one_in(3) {
        let (align, slopes) = (align(random), (0..heads).map(|_| random.part() as f32).collect::<Vec<f32>>());
        let distance = |i: usize, j: usize| (sizes.position(i, align) - j as i64).abs() as f64;
        let values = all(full, |_, h, i, j| -f64::from(slopes[h]) * distance(i, j));
        added = added.add(&Tensor::from_vec(values, &full, &Device::Cpu)?)?;
        alibi = Some(Alibi { slopes: Tensor::new(slopes.as_slice(), &Device::Cpu)?, align });
    }
    let keep = all(full, |b, h, i, j| f64::from(u8::from(shows(b, h, i, j))));
    let keep = Tensor::from_vec(keep, &full, &Device::Cpu)?;
    let case = format!(
        "case {number}: {dtype:?} {sizes:?} mask {mask:?} scale {scale:?} softcap {softcap:?} bias {} alibi {}",
        bias.is_some(),
        alibi.is_some()
    );

    let options = Attention { scale, mask, bias, alibi, softcap };
    let tensors = [inputs[0].tensor()?, inputs[1].tensor()?, inputs[2].tensor()?];
    let [q, k, v] = &tensors;
    let out = scaled_dot_product_attention(q, k, v, &options)?;
    assert_eq!((out.dims(), out.dtype()), (&[batch, heads, queries, value_size][..], dtype), "{case}");

    let wide = |x: &Tensor| Var::from_tensor(&x.detach().to_dtype(DType::F64)?.contiguous()?);
    let wide = [wide(q)?, wide(k)?, wide(v)?];
    let scale = scale.map_or(1.0 / (size as f64).sqrt(), f64::from);
    let (weights, want) = composed([&wide[0], &wide[1], &wide[2]], scale, softcap.map(f64::from), &added, &keep)?;
    same(&case, &numbers(&out)?, &numbers(&want)?, tolerance);
    let got = attention_weights(q, k, &options)?;
    same(&format!("{case}, weights"), &numbers(&got)?, &numbers(&weights)?, tolerance);

    let upstream: Vec<f64> = (0..out.elem_count()).map(|_| random.part() * 2.0 - 1.0).collect();
    let upstream = Tensor::from_vec(upstream, out.dims(), &Device::Cpu)?.to_dtype(dtype)?;
    let got = out.mul(&upstream)?.sum_all()?.backward()?;
    let want = want.mul(&upstream.to_dtype(DType::F64)?)?.sum_all()?.backward()?;
    for (name, input, wide) in
        [("dq", &inputs[0], &wide[0]), ("dk", &inputs[1], &wide[1]), ("dv", &inputs[2], &wide[2])]
    {
        let got = input.laid_out(got.get(&input.var).expect("the graph reaches the variable"))?;
        let want = numbers(want.get(wide).expect("a gradient of the composition"))?;
        close(&format!("{case}, {name}"), &numbers(&got)?, &want, tolerance);
    }
    if let Some((held, wide)) = of_bias {
        let of_held = got.get(&held).expect("the graph reaches the bias");
        assert_eq!((of_held.dims(), of_held.dtype()), (held.dims(), held.dtype()), "{case}");
        let want = numbers(want.get(&wide).expect("a gradient of the composition"))?;
        // Rounded to its own type, and all of q, k, v and dout to theirs.
        let own = match held.dtype() {
            DType::F32 => 1e-5,
            DType::F16 => 1e-3,
            _ => 1e-2,
        };
        close(&format!("{case}, dbias"), &numbers(of_held)?, &want, tolerance.max(own));
    }
    Ok(())
}

/// A number for each (batch, head, query, key).
fn all(dims: [usize; 4], number: impl Fn(usize, usize, usize, usize) -> f64) -> Vec<f64> {
    let [batch, heads, queries, keys] = dims;
    let mut numbers = Vec::with_capacity(batch * heads * queries * keys);
    for b in 0..batch {
        for h in 0..heads {
            for i in 0..queries {
                for j in 0..keys {
                    numbers.push(number(b, h, i, j));
                }
            }
        }
    }
    numbers
}

/// Within the tolerance of the largest gradient, or of 1 if all are smaller: where everything cancels the gradient that is wanted is 0.
#[track_caller]
fn close(case: &str, got: &[f64], want: &[f64], tolerance: f64) {
    let largest = want.iter().fold(1f64, |largest, want| largest.max(want.abs()));
    assert_eq!(got.len(), want.len(), "{case}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * largest, "{case} [{index}]: got {got:e}, want {want:e}");
    }
}

#[test]
fn values_and_gradients_are_those_of_candles_own_operations() -> Result<()> {
    (0..400).try_for_each(|number| case(number, DType::F32, 1e-5))
}

#[test]
fn sixteen_bits() -> Result<()> {
    (1000..1040).try_for_each(|number| case(number, DType::F16, 1e-2))?;
    (2000..2040).try_for_each(|number| case(number, DType::BF16, 8e-2))
}

/// A graph that is gone through twice, with other gradients from above, gives each its own.
#[test]
fn the_gradient_of_a_bias_twice() -> Result<()> {
    let x = Tensor::new(&[[[[0.5f32], [1.0]]]], &Device::Cpu)?;
    let bias = Var::new(&[[0.0f32, 0.25], [0.5, 1.0]], &Device::Cpu)?;
    let options = Attention { bias: Some(bias.as_tensor().clone()), ..Attention::default() };
    let y = scaled_dot_product_attention(&x, &x, &x, &options)?.sum_all()?;
    let once = numbers(y.backward()?.get(&bias).expect("a gradient"))?;
    let thrice = numbers(y.affine(3.0, 0.0)?.backward()?.get(&bias).expect("a gradient"))?;
    assert!(once[0] < -0.1, "{once:?}");
    close("thrice", &thrice, &once.iter().map(|x| 3.0 * x).collect::<Vec<f64>>(), 1e-6);
    Ok(())
}

/// Queries, keys and values out of one tensor, heads behind positions: no copy, and one gradient that holds all three.
#[test]
fn parts_of_one_tensor() -> Result<()> {
    let mut random = Random(7);
    let (batch, length, heads, size) = (2, 5, 3, 4);
    let values: Vec<f32> = random.values(batch * length * 3 * heads * size).iter().map(|x| *x as f32).collect();
    let qkv = Var::from_vec(values, (batch, length, 3, heads, size), &Device::Cpu)?;
    let part = |x: &Tensor, index: usize| x.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2);
    let options = Attention { mask: Some(Mask::Causal(Align::TopLeft)), ..Attention::default() };
    let x = qkv.as_tensor();
    let strided = scaled_dot_product_attention(&part(x, 0)?, &part(x, 1)?, &part(x, 2)?, &options)?;
    let gradient = strided.sqr()?.sum_all()?.backward()?.get(&qkv).expect("a gradient").clone();

    let apart =
        [0, 1, 2].map(|index| Var::from_tensor(&part(x, index).unwrap().detach().contiguous().unwrap()).unwrap());
    let whole = scaled_dot_product_attention(&apart[0], &apart[1], &apart[2], &options)?;
    assert_eq!(numbers(&strided)?, numbers(&whole)?);
    let gradients = whole.sqr()?.sum_all()?.backward()?;
    for (index, var) in apart.iter().enumerate() {
        assert_eq!(numbers(&part(&gradient, index)?)?, numbers(gradients.get(var).expect("a gradient"))?);
    }
    Ok(())
}

#[test]
fn finite_differences() -> Result<()> {
    let start = [0.3f32, -1.2, 0.8, 0.7, 0.1, -0.4];
    let options = Attention { mask: Some(Mask::Causal(Align::TopLeft)), softcap: Some(1.5), ..Attention::default() };
    let loss = |values: &[f32; 6]| -> Result<(Var, Tensor)> {
        let x = Var::from_slice(values, (1, 1, 3, 2), &Device::Cpu)?;
        let y = scaled_dot_product_attention(&x, &x, &x, &options)?;
        let loss = y.mul(&Tensor::new(&[[[[1f32, -2.0], [0.5, 0.25], [3.0, -1.0]]]], &Device::Cpu)?)?.sum_all()?;
        Ok((x, loss))
    };
    let (x, at) = loss(&start)?;
    let gradient = numbers(at.backward()?.get(&x).expect("a gradient"))?;
    for index in 0..6 {
        let moved = |by: f32| -> Result<f64> {
            let mut values = start;
            values[index] += by;
            Ok(f64::from(loss(&values)?.1.to_scalar::<f32>()?))
        };
        let slope = (moved(0.01)? - moved(-0.01)?) / 0.02;
        assert!((slope - gradient[index]).abs() < 2e-3, "[{index}]: {slope} and {}", gradient[index]);
    }
    Ok(())
}

#[test]
fn what_is_hidden_stays_out() -> Result<()> {
    // The last key is NaN, and hidden from all but the last query; the first query sees nothing.
    let q = Var::ones((1, 1, 3, 2), DType::F32, &Device::Cpu)?;
    let k = Var::new(&[[[[1f32, 0.0], [f32::NAN, f32::NAN]]]], &Device::Cpu)?;
    let v = Var::new(&[[[[5f32], [f32::NAN]]]], &Device::Cpu)?;
    let hidden = Tensor::new(&[[1u8, 1], [0, 1], [0, 1]], &Device::Cpu)?;
    let options = Attention { mask: Some(Mask::Hide(hidden)), ..Attention::default() };
    let out = scaled_dot_product_attention(&q, &k, &v, &options)?;
    assert_eq!(numbers(&out)?, [0.0, 5.0, 5.0]);
    let gradients = out.sum_all()?.backward()?;
    assert_eq!(numbers(gradients.get(&v).expect("a gradient"))?, [2.0, 0.0]);
    assert_eq!(numbers(&gradients.get(&k).expect("a gradient").i((0, 0, 1))?)?, [0.0, 0.0]);
    assert_eq!(numbers(&gradients.get(&q).expect("a gradient").i((0, 0, 0))?)?, [0.0, 0.0]);
    Ok(())
}

#[test]
fn refusals() -> Result<()> {
    let x = |dims: [usize; 4]| Tensor::zeros(&dims, DType::F32, &Device::Cpu);
    let (q, k) = (x([2, 4, 3, 8])?, x([2, 2, 5, 8])?);
    let said = |result: Result<Tensor>| result.unwrap_err().to_string();
    let with = |q: &Tensor, k: &Tensor, options: Attention| said(scaled_dot_product_attention(q, k, k, &options));
    let text = with(&q, &x([2, 2, 5, 7])?, Attention::default());
    assert!(text.contains('8') && text.contains('7'), "{text}");
    assert!(with(&q, &x([2, 3, 5, 8])?, Attention::default()).contains('3'));
    assert!(with(&q.squeeze(0)?.narrow(0, 0, 1)?.squeeze(0)?, &k, Attention::default()).contains("attention"));
    assert!(with(&q, &k, Attention { softcap: Some(0.0), ..Default::default() }).contains("softcap"));
    let wide = Tensor::ones((9, 9), DType::U8, &Device::Cpu)?;
    let text = with(&q, &k, Attention { mask: Some(Mask::Keep(wide)), ..Default::default() });
    assert!(text.contains("[9, 9]"), "{text}");
    let double = Attention { bias: Some(Tensor::zeros((3, 5), DType::F64, &Device::Cpu)?), ..Default::default() };
    assert!(with(&q, &k, double).contains("F64"));
    assert!(with(&q, &k.to_dtype(DType::F16)?, Attention::default()).contains("F16"));
    let scalar = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    assert!(with(&scalar, &scalar, Attention::default()).contains("attention"));
    Ok(())
}
