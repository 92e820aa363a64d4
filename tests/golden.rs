//! The reference against values computed elsewhere with 80 digits; see tests/golden/README.md.

use std::collections::HashMap;
use std::str::FromStr;

use sumexp::reference::{cross_entropy, row};

/// One case of the file: numbers by name, and what each target must give.
struct Golden {
    name: String,
    numbers: HashMap<String, Vec<f64>>,
    losses: Vec<(usize, HashMap<String, Vec<f64>>)>,
}

impl Golden {
    fn get(&self, key: &str) -> &[f64] {
        self.numbers.get(key).unwrap_or_else(|| panic!("{} has no {key}", self.name))
    }

    /// Inputs are stored in the fewest digits that name a float32: through float32 they become exact.
    fn input(&self, key: &str) -> Vec<f64> {
        self.get(key).iter().map(|x| f64::from(*x as f32)).collect()
    }
}

fn golden() -> Vec<Golden> {
    let mut cases: Vec<Golden> = Vec::new();
    for line in include_str!("golden/rows.txt").lines() {
        let (key, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line}: a name and values were expected"));
        if key == "case" {
            cases.push(Golden { name: rest.to_owned(), numbers: HashMap::new(), losses: Vec::new() });
            continue;
        }
        let case = cases.last_mut().expect("the file begins with a case");
        if key == "target" {
            case.losses.push((rest.parse().expect("a target is an index"), HashMap::new()));
            continue;
        }
        let numbers = rest.split(' ').map(|n| f64::from_str(n).unwrap_or_else(|e| panic!("{key} {n}: {e}"))).collect();
        let into = if key.starts_with("loss") {
            &mut case.losses.last_mut().expect("losses follow their target").1
        } else {
            &mut case.numbers
        };
        into.insert(key.to_owned(), numbers);
    }
    cases
}

/// The largest relative difference allowed: some hundred roundings of float64, a millionth of a float32's last bit.
const RELATIVE: f64 = 4e-14;

/// `magnitude` is that of the largest term of a sum whose parts may cancel.
fn check(case: &str, what: &str, got: &[f64], want: &[f64], magnitude: f64) {
    assert_eq!(got.len(), want.len(), "{case} {what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let allowed = RELATIVE * want.abs() + 1e-15 * magnitude + 1e-300;
        let right = got == want || want.is_finite() && (got - want).abs() <= allowed;
        assert!(right, "{case} {what} [{i}]: got {got:e}, want {want:e}, relative {:e}", ((got - want) / want).abs());
    }
}

#[test]
fn the_file_is_read_whole() {
    let cases = golden();
    assert_eq!(cases.len(), 29);
    assert_eq!(cases.iter().map(|c| c.losses.len()).sum::<usize>(), 53);
    assert_eq!(cases.last().map(|c| c.get("x").len()), Some(257));
}

#[test]
fn forward() {
    for case in golden() {
        let (x, tau) = (case.input("x"), case.get("tau")[0]);
        check(&case.name, "softmax", &row::softmax(&x, tau), case.get("softmax"), 0.0);
        check(&case.name, "log_softmax", &row::log_softmax(&x, tau), case.get("log_softmax"), 0.0);
        // max / tau and ln(1 + others) may cancel.
        let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        check(&case.name, "lse", &[row::logsumexp(&x, tau)], case.get("lse"), max.abs() / tau);
    }
}

#[test]
fn backward() {
    for case in golden() {
        let (x, dy, tau) = (case.input("x"), case.input("dy"), case.get("tau")[0]);
        let got = row::softmax_backward(&case.input("y"), &dy, tau);
        check(&case.name, "softmax_backward", &got, case.get("softmax_backward"), 0.0);

        let log_y = case.input("log_y");
        let got = row::log_softmax_backward(&log_y, &dy, tau);
        let want = case.get("log_softmax_backward");
        let largest = dy.iter().fold(0f64, |m, dy| m.max(dy.abs())) / tau;
        for i in 0..x.len() {
            // A winner's gradient is many orders smaller than dy and must be right all the same; elsewhere two ordinary
            // numbers may cancel.
            let magnitude = if log_y[i] > -0.1 { 0.0 } else { largest };
            check(&format!("{} [{i}]", case.name), "log_softmax_backward", &got[i..=i], &want[i..=i], magnitude);
        }

        let got = row::logsumexp_backward(&x, dy[0], tau);
        check(&case.name, "lse_backward", &got, case.get("lse_backward"), 0.0);
    }
}

#[test]
fn losses() {
    for case in golden() {
        let (x, tau) = (case.input("x"), case.get("tau")[0]);
        for (target, want) in &case.losses {
            let name = format!("{} target {target}", case.name);
            check(&name, "loss", &[cross_entropy::loss(&x, *target, tau)], &want["loss"], 0.0);
            let got = cross_entropy::loss_backward(&x, *target, tau);
            check(&name, "loss_backward", &got, &want["loss_backward"], 0.0);
        }
    }
}

/// A comparison that accepts everything would pass as well.
#[test]
fn a_wrong_value_is_noticed() {
    for (got, want) in
        [(1.0 + 1e-12, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY), (0.0, 1e-20), (f64::NAN, f64::NEG_INFINITY)]
    {
        let noticed = std::panic::catch_unwind(|| check("a wrong value", "", &[got], &[want], 0.0)).is_err();
        assert!(noticed, "{got:e} passed for {want:e}");
    }
}
