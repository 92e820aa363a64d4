//! A small generator (SplitMix64) for schedules: equal seeds give equal schedules on every machine.

/// The generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which must not be 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// A random order of `0..n` that needs no memory: `i -> (i * step + start) mod n` with `step` coprime to `n`.
#[derive(Clone, Debug)]
pub struct Order {
    n: u64,
    step: u64,
    start: u64,
}

impl Order {
    /// Ascending, or drawn from `random`.
    pub fn new(n: u64, random: Option<&mut Random>) -> Order {
        let Some(random) = random.filter(|_| n > 1) else { return Order { n, step: 1, start: 0 } };
        let start = random.below(n);
        let mut step = 1 + random.below(n - 1);
        while gcd(step, n) != 1 {
            step = 1 + step % (n - 1);
        }
        Order { n, step, start }
    }

    /// The `i`-th of the order.
    pub fn at(&self, i: u64) -> u64 {
        ((u128::from(i) * u128::from(self.step) + u128::from(self.start)) % u128::from(self.n)) as u64
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations() {
        for n in [1, 2, 3, 6, 64, 97] {
            for seed in 0..20 {
                let order = Order::new(n, Some(&mut Random::new(seed)));
                let mut seen: Vec<u64> = (0..n).map(|i| order.at(i)).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..n).collect::<Vec<_>>());
            }
        }
        assert_eq!(Order::new(9, None).at(4), 4);
    }
}
