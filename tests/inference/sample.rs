//! sample: every draw against the definition, bit by bit of its random number; what must not matter; what is refused.

use sumexp::reference::philox::bits;
use sumexp::reference::sample::{Cuts, sample as defined, threshold};
use sumexp::{
    Device, Dim, Error, Graph, Random, SampleInto, SampleOptions, Tensor, View, bf16, f16, sample, sample_into,
};

use crate::common::arrange::Arrangement::{EveryOther, Offset, Padded, Reversed};
use crate::common::arrange::Operand;
use crate::common::cases::{Case, Fill, SPECIAL_ROWS};
use crate::common::compare::Format;
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::gpu::{device, undisturbed};
use crate::common::guard::Guarded;
use crate::common::random::Random as Numbers;
use crate::common::sparse::{Far, put, zeros};
use crate::layouts;

const PLAIN: SampleOptions = SampleOptions { temperature: 1.0, top_k: None, top_p: 1.0, min_p: 0.0 };
const SEED: u64 = 0x0123_4567_89ab_cdef;

/// What was drawn of every row: id, validity, log-probability, kept mass.
type Draws = Vec<(i64, u8, f32, f32)>;

/// A case on one device, into guarded memory.
fn run<T: Format>(case: &Case, options: &SampleOptions, offset: u64, device: &Device) -> Draws {
    let named = format!("sample {} {case} {options:?} on {}", T::DTYPE, device.name());
    let x = Operand::new(device, case.input, &case.dims, &case.logits::<T>(), T::from_f64(f64::NAN));
    let mut sizes = case.dims.clone();
    sizes.remove(case.dim);
    let mut ids = Guarded::new(device, &sizes, 1, -7i64);
    let mut valid = Guarded::new(device, &sizes, 3, 77u8);
    let (mut log, mut kept) = (Guarded::new(device, &sizes, 1, -7f32), Guarded::new(device, &sizes, 2, -7f32));
    let outputs = SampleInto {
        ids: ids.view_mut(),
        valid: valid.view_mut(),
        log_probabilities: Some(log.view_mut()),
        kept_mass: Some(kept.view_mut()),
    };
    let random = Random::Seed { seed: SEED, offset };
    sample_into(x.view(), Dim::front(case.dim), options, random, outputs)
        .unwrap_or_else(|error| panic!("{named}: {error}"));
    let (ids, valid, log, kept) = (ids.read(&named), valid.read(&named), log.read(&named), kept.read(&named));
    assert_no_findings(&named);
    (0..ids.len()).map(|i| (ids[i], valid[i], log[i], kept[i])).collect()
}

/// How far a number in [0, 1) may lie outside the interval of the id drawn: the rounding of 16-bit weights.
const ROUNDING: f64 = 1e-5;

/// Whether a draw is the one that the definition demands for these random bits.
fn assert_right(row: &[f64], options: &SampleOptions, bits: u64, got: (i64, u8, f32, f32), named: &str) {
    let cuts = Cuts {
        tau: f64::from(options.temperature),
        top_k: options.top_k,
        top_p: f64::from(options.top_p),
        min_p: f64::from(options.min_p),
    };
    let (id, valid, log, kept) = got;
    let Some(want) = defined(row, &cuts, bits) else {
        assert!(id == 0 && valid == 0 && log.is_nan() && kept == 0.0, "{named}: {got:?} of an invalid row");
        return;
    };
    assert_eq!(valid, 1, "{named}");
    assert!((0..row.len() as i64).contains(&id), "{named}: {id} of {}", row.len());
    let (id, least) = (id as usize, threshold(row, &cuts));
    assert!(row[id] >= least, "{named}: {id} of {} was cut at {least}", row[id]);
    // Its interval of the kept probability, from sums of its own.
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weight = |x: &f64| if *x >= least { ((x - max) / cuts.tau).exp() } else { 0.0 };
    let (total, before) = (row.iter().map(weight).sum::<f64>(), row[..id].iter().map(weight).sum::<f64>());
    let (u, begin, end) = (bits as f64 / 2f64.powi(64), before / total, (before + weight(&row[id])) / total);
    assert!(end > begin, "{named}: {id} has a probability of 0");
    assert!(
        begin - ROUNDING <= u && u <= end + ROUNDING,
        "{named}: {u} drew {id} from {begin} to {end}, want {}",
        want.id
    );
    let want_log = (row[id] - max) / cuts.tau - total.ln();
    let error = (f64::from(log) - want_log).abs();
    assert!(error <= 2f64.powi(-21) * (1.0 + want_log.abs()), "{named}: {log} is not {want_log}");
    let error = (f64::from(kept) - want.kept_mass).abs();
    assert!(error <= 2f64.powi(-17) * want.kept_mass, "{named}: kept {kept}, want {}", want.kept_mass);
}

/// Options for rows of this length: each cut alone, and all together.
fn options_for(len: usize) -> Vec<SampleOptions> {
    let k = |k: usize| Some(k.clamp(1, len));
    vec![
        PLAIN,
        SampleOptions { temperature: 0.3, ..PLAIN },
        SampleOptions { top_k: k(3), ..PLAIN },
        SampleOptions { top_k: k(len / 2), temperature: 2.0, ..PLAIN },
        SampleOptions { top_k: k(len), ..PLAIN },
        SampleOptions { top_p: 0.9, ..PLAIN },
        SampleOptions { top_p: 0.3, temperature: 3.0, ..PLAIN },
        SampleOptions { min_p: 0.05, ..PLAIN },
        SampleOptions { temperature: 1.5, top_k: k(40), top_p: 0.8, min_p: 0.02 },
    ]
}

fn check<T: Format>(case: &Case, options: &SampleOptions) {
    let x = case.logits::<T>();
    for device in devices() {
        let named = format!("{} {case} {options:?} on {}", T::DTYPE, device.name());
        let draws = run::<T>(case, options, 5, &device);
        for (row, (places, draw)) in case.row_places().zip(draws).enumerate() {
            let values: Vec<f64> = places.iter().map(|place| x[*place].to_f64()).collect();
            assert_right(&values, options, bits(SEED, 5, row as u64), draw, &format!("{named}, row {row}"));
        }
    }
}

fn check_all(case: &Case) {
    for options in options_for(case.len()) {
        check::<f32>(case, &options);
        check::<f16>(case, &options);
        check::<bf16>(case, &options);
    }
}

/// NaN, infinities, ties and hidden rows beside ordinary ones, in every kernel and with every cut.
#[test]
fn special_rows() {
    for len in [1, 3, 40, 700, 2100] {
        check_all(&Case::new(&[SPECIAL_ROWS.len() + 3, len], Fill::Special));
    }
    check_all(&Case::new(&[4, 40, 4], Fill::Special).along(1));
    for options in [PLAIN, SampleOptions { top_k: Some(7), top_p: 0.5, ..PLAIN }] {
        check::<bf16>(&Case::new(&[SPECIAL_ROWS.len(), 17_000], Fill::Special), &options);
    }
}

/// Every length of a unit, every rung at its longest row and one to either side, and rows of several pieces.
#[test]
fn lengths() {
    let all = SampleOptions { top_k: Some(3), top_p: 0.9, min_p: 0.01, ..PLAIN };
    for len in (3..=17).chain([31, 32, 33, 64, 65, 511, 512, 513, 1023, 1024, 1025]) {
        for options in [PLAIN, all] {
            check::<f32>(&Case::new(&[5, len], Fill::Mixed), &options);
            check::<f16>(&Case::new(&[5, len], Fill::Mixed), &options);
        }
    }
    for len in [4095, 4096, 4097, 8192, 8193, 16_384, 16_385] {
        check::<f32>(&Case::new(&[2, len], Fill::Mixed), &all);
        check::<bf16>(&Case::new(&[2, len], Fill::Ordinary), &all);
    }
}

/// Long rows: some cuts leave more than shared memory holds at first, some leave everything.
#[test]
fn long_rows() {
    let case = Case::new(&[2, 50_257], Fill::Ordinary);
    for options in options_for(50_257) {
        check::<f32>(&case, &options);
        check::<bf16>(&case, &options);
    }
    // Running sums of more than one piece.
    let cut = SampleOptions { top_k: Some(1000), top_p: 0.9, ..PLAIN };
    for options in [PLAIN, cut] {
        check::<f32>(&Case::new(&[1, 140_001], Fill::Mixed), &options);
        check::<f16>(&Case::new(&[3, 140_000], Fill::Constant(0.5)), &options);
    }
    // So many equals that they never fit.
    let options = SampleOptions { top_k: Some(20_000), top_p: 0.5, ..PLAIN };
    check::<f32>(&Case::new(&[1, 20_001], Fill::Constant(1.5)), &options);
    check::<f32>(&Case::new(&[2, 20_001], Fill::Mixed), &options);
}

#[test]
fn strides_alignment_and_dims() {
    for case in layouts() {
        let options = SampleOptions { top_k: Some(case.len().min(20)), top_p: 0.9, ..PLAIN };
        check::<f32>(&case, &options);
        check::<f16>(&case, &options);
    }
}

/// A row's numbers do not depend on strides, on alignment, or on the other rows.
#[test]
fn the_same_bits_everywhere() {
    let options = SampleOptions { top_k: Some(30), top_p: 0.9, min_p: 0.01, temperature: 0.7 };
    for (dims, device) in [(vec![3, 72], device()), (vec![2, 17_000], device())] {
        let case = Case::new(&dims, Fill::Ordinary);
        let first = run::<f16>(&case, &options, 0, &device);
        for input in [Offset(3), Reversed, Padded(1, 2), EveryOther] {
            let again = run::<f16>(&case.clone().input(input), &options, 0, &device);
            assert_eq!(format!("{again:?}"), format!("{first:?}"), "{dims:?} {input}");
        }
        // Rows alone: with the first row's random bits, only the numbers beside the ids can be compared.
        let x = case.logits::<f16>();
        for (row, want) in first.iter().enumerate() {
            let alone = Tensor::from_slice(&device, &[1, dims[1]], &x[row * dims[1]..(row + 1) * dims[1]]).unwrap();
            let seeds = |seed: u64| Tensor::from_slice(&device, &[1], &[seed as i64]).unwrap();
            let drawn =
                sample(&alone, Dim::LAST, &options, Random::PerRow { seeds: seeds(SEED).view(), offset: 0 }).unwrap();
            assert_eq!(drawn.kept_mass.to_vec().unwrap(), [want.3], "row {row} alone");
        }
    }
}

/// On every schedule the same bits, also where the order in shared memory changes.
#[test]
fn every_schedule_gives_the_same_bits() {
    let Some(soft) = soft() else { return };
    let device = device();
    let options = SampleOptions { top_k: Some(300), top_p: 0.9, min_p: 0.001, temperature: 1.2 };
    for case in [
        Case::new(&[5, 400], Fill::Special),
        Case::new(&[3, 3000], Fill::Mixed),
        Case::new(&[1, 17_000], Fill::Ordinary),
    ] {
        soft.seed(0);
        let first = format!("{:?}", run::<f16>(&case, &options, 3, &device));
        for seed in 1..=20 {
            soft.seed(seed);
            assert_eq!(format!("{:?}", run::<f16>(&case, &options, 3, &device)), first, "{case}, schedule {seed}");
        }
    }
    soft.seed(0);
}

/// Seeds of rows: neither the place in the batch nor the rest of it counts. A state on the device is one on the host.
#[test]
fn where_random_bits_come_from() {
    let case = Case::new(&[6, 300], Fill::Mixed);
    let x = case.logits::<f32>();
    for device in devices() {
        let order = [4, 0, 5, 2, 2, 1];
        let permuted: Vec<f32> = order.iter().flat_map(|row| x[row * 300..(row + 1) * 300].iter().copied()).collect();
        let seeds: Vec<i64> = vec![1, -2, i64::MAX, i64::MIN, 0, 1 << 40];
        let draw = |x: &[f32], seeds: &[i64], offset| {
            let x = Tensor::from_slice(&device, &[seeds.len(), 300], x).unwrap();
            // Every other element of a longer tensor.
            let spread: Vec<i64> = seeds.iter().flat_map(|seed| [*seed, 999]).collect();
            let spread = Tensor::from_slice(&device, &[seeds.len(), 2], &spread).unwrap();
            let seeds = spread.view().slice(Dim::LAST, 0..1).unwrap().reshape(&[seeds.len()]).unwrap();
            sample(&x, Dim::LAST, &PLAIN, Random::PerRow { seeds, offset }).unwrap().ids.to_vec().unwrap()
        };
        let all = draw(&x, &seeds, 9);
        for (row, id) in all.iter().enumerate() {
            let values: Vec<f64> = x[row * 300..(row + 1) * 300].iter().map(|x| f64::from(*x)).collect();
            let cuts = Cuts { tau: 1.0, top_k: None, top_p: 1.0, min_p: 0.0 };
            let want = defined(&values, &cuts, bits(seeds[row] as u64, 9, 0)).unwrap();
            assert_eq!(*id, want.id as i64, "row {row} by its seed");
        }
        let permuted_seeds: Vec<i64> = order.iter().map(|row| seeds[*row]).collect();
        let again = draw(&permuted, &permuted_seeds, 9);
        assert_eq!(again, order.map(|row| all[row]), "in another order on {}", device.name());
        assert_eq!(draw(&x[1200..1500], &seeds[4..5], 9), all[4..5], "alone on {}", device.name());
        assert_ne!(draw(&x, &seeds, 10), all, "another offset");

        let x = Tensor::from_slice(&device, &[6, 300], &x).unwrap();
        let ids = |random| sample(&x, Dim::LAST, &PLAIN, random).unwrap().ids.to_vec().unwrap();
        let (seed, offset) = (u64::MAX - 3, 1 << 63 | 5);
        let state = Tensor::from_slice(&device, &[2, 2], &[seed as i64, 0, offset as i64, 0]).unwrap();
        let state = state.view().slice(Dim::LAST, 0..1).unwrap().reshape(&[2]).unwrap();
        assert_eq!(ids(Random::Device(state)), ids(Random::Seed { seed, offset }), "on {}", device.name());
    }
}

/// The id of a row of 2^16 equal logits is the highest 16 of the row's random bits: those of the device are those of the host,
/// and for seed, offset and row 0 they are what the authors of the generator publish.
#[test]
fn random_bits_on_the_device() {
    for device in devices() {
        let flat = Tensor::<f16>::zeros(&device, &[1, 1]).unwrap();
        let flat = flat.view().expand(&[3, 1 << 16]).unwrap();
        for (seed, offset) in [(0, 0), (0x299f_31d0_a409_3822, 0x85a3_08d3_243f_6a88), (u64::MAX, u64::MAX)] {
            let got = sample(flat, Dim::LAST, &PLAIN, Random::Seed { seed, offset }).unwrap().ids.to_vec().unwrap();
            let want: Vec<i64> = (0..3).map(|row| (bits(seed, offset, row) >> 48) as i64).collect();
            assert_eq!(got, want, "{seed:#x} {offset:#x} on {}", device.name());
        }
        let zero = sample(flat, Dim::LAST, &PLAIN, Random::Seed { seed: 0, offset: 0 }).unwrap();
        assert_eq!(zero.ids.to_vec().unwrap()[0], 0xe169);
    }
}

/// A captured call draws anew when the state on the device has changed.
#[test]
fn graphs_draw_anew() {
    let device = device();
    let case = Case::new(&[40, 50], Fill::Mixed);
    let x = Tensor::from_slice(&device, &case.dims, &case.logits::<f32>()).unwrap();
    let mut state = Tensor::from_slice(&device, &[2], &[77i64, 0]).unwrap();
    let random = |state: &Tensor<i64>| {
        undisturbed(|| Graph::capture(&device, |_| sample(&x, Dim::LAST, &PLAIN, Random::Device(state.view()))))
    };
    let (graph, drawn) = random(&state).unwrap();
    let mut seen = Vec::new();
    for offset in 0..3u64 {
        state.copy_from_slice(&[77, offset as i64]).unwrap();
        graph.launch().unwrap();
        let want = sample(&x, Dim::LAST, &PLAIN, Random::Seed { seed: 77, offset }).unwrap();
        seen.push(drawn.ids.to_vec().unwrap());
        assert_eq!(seen[offset as usize], want.ids.to_vec().unwrap(), "offset {offset}");
    }
    assert!(seen[0] != seen[1] && seen[1] != seen[2]);
    assert_no_findings(&"a graph");
}

/// Offsets beyond 2^32 elements, in the logits and the seeds.
#[test]
fn far_apart() {
    let Some(soft) = soft() else { return };
    let device = device();
    let options = SampleOptions { top_k: Some(30), top_p: 0.9, ..PLAIN };
    for dims in [&[3usize, 40][..], &[3, 2000], &[3, 17_000], &[3, 40, 3]] {
        let values = Case::new(dims, Fill::Ordinary).logits::<f16>();
        let near = Tensor::from_slice(&device, dims, &values).unwrap();
        let far = Far::new(&soft, &device, dims, &values);
        let mut sizes = dims.to_vec();
        sizes.remove(1);
        let numbers: Vec<i64> = (0..sizes.iter().product::<usize>() as i64).collect();
        let near_seeds = Tensor::from_slice(&device, &sizes, &numbers).unwrap();
        let far_seeds = Far::new(&soft, &device, &sizes, &numbers);
        let draw = |x: View<'_, f16>, seeds: View<'_, i64>| {
            let drawn = sample(x, Dim::front(1), &options, Random::PerRow { seeds, offset: 1 }).unwrap();
            (drawn.ids.to_vec().unwrap(), drawn.log_probabilities.to_vec().unwrap())
        };
        assert_eq!(draw(far.view(), far_seeds.view()), draw(near.view(), near_seeds.view()), "{dims:?}");
    }
    assert_no_findings(&"rows far apart");
}

/// Block 0 has the first rows, those a whole grid further on, and the last, whose offset is 0 in 32 bits.
#[test]
fn rows_of_a_block() {
    let Some(soft) = soft() else { return };
    let device = device();
    const GRID: usize = 1 << 16;
    let (rows, len) = (16 * GRID + 1, 4096);
    let chosen = [0, 1, GRID, 3 * GRID + 1, rows - 1];
    let mut x = zeros::<f16>(&soft, &device, &[rows, len]);
    chosen.iter().enumerate().for_each(|(i, row)| put(&mut x, row * len + 700 * i + 7, &[f16::from_f32(60.0)]));
    soft.only_ctas(Some(&[0, 1]));
    let drawn = sample(&x, Dim::LAST, &PLAIN, Random::Seed { seed: 1, offset: 0 }).unwrap();
    device.synchronize().unwrap();
    soft.only_ctas(None);
    for (i, row) in chosen.into_iter().enumerate() {
        let got = drawn.ids.view().slice(Dim::LAST, row..row + 1).and_then(|id| id.to_vec()).unwrap();
        assert_eq!(got, [700 * i as i64 + 7], "row {row}");
    }
    assert_no_findings(&"rows of a block");
}

/// How often each logit is read. A row in registers: once, and its piece once more. A long row: for the maximum, for each pass of a
/// cut, for the masses, and the pieces with the target. To sort f32 with their indices by eight bits at a time moves 64 bytes
/// per element, which is as much as reading it 16 times.
#[test]
fn what_is_read() {
    let Some(soft) = soft() else { return };
    let device = device();
    let (nucleus, all) =
        (SampleOptions { top_p: 0.9, ..PLAIN }, SampleOptions { top_k: Some(50), top_p: 0.9, ..PLAIN });
    for (len, options, reads) in
        [(512, PLAIN, 2.04), (4096, nucleus, 2.01), (65_536, PLAIN, 2.15), (65_536, nucleus, 6.2), (65_536, all, 5.2)]
    {
        let mut random = Numbers::new(len as u64);
        let logits: Vec<f32> = (0..len).map(|_| 3.0 * random.normal() as f32).collect();
        let x = Tensor::from_slice(&device, &[1, len], &logits).unwrap();
        sample(&x, Dim::LAST, &options, Random::Seed { seed: 1, offset: 0 }).unwrap();
        device.synchronize().unwrap();
        let kernel = soft.take_launches().pop().expect("a launch").kernel;
        let counters = soft.counters(&kernel).expect("it was just launched");
        let read = counters.global_loads.bytes as f64 / (4 * len) as f64;
        println!("{kernel} on {len} with {options:?}: each element read {read:.2} times");
        assert!(read <= reads, "{kernel} with {options:?}: {read} reads of each element");
        let conflicts: Vec<_> = counters.lines.iter().filter(|line| line.shared.bank_conflicts() > 0).collect();
        assert!(conflicts.is_empty(), "{kernel}: bank conflicts at {conflicts:#?}");
        assert_eq!(counters.local_bytes, 0, "{kernel}: local memory");
        soft.reset_counters();
    }
}

#[test]
fn empty_tensors() {
    for device in devices() {
        let random = Random::Seed { seed: 1, offset: 0 };
        for (dims, dim) in [([0, 5], 1), ([0, 0], 0), ([0, 0], 1), ([5, 0], 0)] {
            let x = Tensor::<f32>::zeros(&device, &dims).unwrap();
            let drawn = sample(&x, Dim::front(dim), &PLAIN, random).unwrap();
            assert_eq!(drawn.ids.to_vec().unwrap(), [0i64; 0], "{dims:?}");
        }
        let x = Tensor::<f32>::zeros(&device, &[5, 0]).unwrap();
        let wanted = Error::NoClasses { op: "sample", shape: vec![5, 0], dim: 1 };
        assert_eq!(sample(&x, Dim::LAST, &PLAIN, random).unwrap_err(), wanted);
    }
}

#[test]
fn what_is_refused() {
    for device in devices() {
        let x = Tensor::<f32>::zeros(&device, &[4, 6]).unwrap();
        let seed = Random::Seed { seed: 1, offset: 0 };
        let refused = |options: SampleOptions, random: Random, text: &str| {
            assert_eq!(sample(&x, Dim::LAST, &options, random).unwrap_err().to_string(), text);
        };
        for tau in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let text = format!("sample: temperature is {tau}, it must be finite and above 0");
            refused(SampleOptions { temperature: tau, ..PLAIN }, seed, &text);
        }
        let top_k = |k| SampleOptions { top_k: Some(k), ..PLAIN };
        refused(top_k(0), seed, "sample: top_k is 0, it must be at least 1");
        refused(top_k(7), seed, "sample: top_k is 7, at most 6 is possible");
        for top_p in [0.0, -0.5, 1.5, f32::NAN, f32::INFINITY] {
            let text = format!("sample: top_p is {top_p}, it must be above 0 and at most 1");
            refused(SampleOptions { top_p, ..PLAIN }, seed, &text);
        }
        for min_p in [-0.5, 1.5, f32::NAN] {
            let text = format!("sample: min_p is {min_p}, it must be from 0 to 1");
            refused(SampleOptions { min_p, ..PLAIN }, seed, &text);
        }
        let dim = sample(&x, Dim::front(2), &PLAIN, seed).unwrap_err();
        assert_eq!(dim.to_string(), "sample: dim front(2) is out of range for shape [4, 6]");
        let three = Tensor::<i64>::zeros(&device, &[3]).unwrap();
        let text = "sample: shapes differ: [3] in the random state, [2] in a seed and an offset";
        refused(PLAIN, Random::Device(three.view()), text);
        let text = "sample: shapes differ: [3] in seeds, [4] in x without its dim";
        refused(PLAIN, Random::PerRow { seeds: three.view(), offset: 0 }, text);
        let other = if device.is_cpu() { self::device() } else { Device::cpu() };
        let elsewhere = Tensor::<i64>::zeros(&other, &[4]).unwrap();
        let Err(Error::DifferentDevices { op: "sample", left: "x", right: "seeds", .. }) =
            sample(&x, Dim::LAST, &PLAIN, Random::PerRow { seeds: elsewhere.view(), offset: 0 })
        else {
            panic!("seeds on another device were accepted");
        };
        let one = Tensor::<f32>::zeros(&device, &[1, 1]).unwrap();
        let endless = one.view().expand(&[1, (1 << 31) + 1]).unwrap();
        let text = "sample: the number of classes is 2147483649, at most 2147483648 is possible";
        assert_eq!(sample(endless, Dim::LAST, &PLAIN, seed).unwrap_err().to_string(), text);

        let (mut ids, mut valid) =
            (Tensor::<i64>::zeros(&device, &[4]).unwrap(), Tensor::<u8>::zeros(&device, &[5]).unwrap());
        let outputs =
            SampleInto { ids: ids.view_mut(), valid: valid.view_mut(), log_probabilities: None, kept_mass: None };
        let error = sample_into(&x, Dim::LAST, &PLAIN, seed, outputs).unwrap_err();
        assert_eq!(error.to_string(), "sample: shapes differ: [5] in valid, [4] in x without its dim");
    }
}
