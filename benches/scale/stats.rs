//! What a list of measurements says: quantiles, and how sure a median of ratios is.
//!
//! In: samples. Out: numbers.
//! Never: a clock; randomness that differs between two runs on the same samples.

/// SplitMix64: enough for shuffles and resampling, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`. The bias of the modulo is far below what is measured here.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// Nearest-rank quantile; 0 for no samples.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((q * last as f64).round() as usize).copied().unwrap_or(0.0)
}

pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// A median with its 95 % interval.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Estimate {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub rounds: usize,
}

/// Median of per-round ratios; the interval is what the median of resampled rounds does.
pub fn ratio(measured: &[f64], floor: &[f64]) -> Estimate {
    const RESAMPLES: usize = 2_000;
    let ratios: Vec<f64> = measured.iter().zip(floor).map(|(m, f)| m / f).collect();
    let mut rng = Rng::new(1);
    let medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<f64> =
                (0..ratios.len()).map(|_| ratios[rng.below(ratios.len())]).collect();
            median(&drawn)
        })
        .collect();
    Estimate {
        median: median(&ratios),
        low: quantile(&medians, 0.025),
        high: quantile(&medians, 0.975),
        rounds: ratios.len(),
    }
}
