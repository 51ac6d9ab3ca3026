//! What can be said about times that differ each time they are taken.
//!
//! Enters: samples in seconds, in the rounds they were taken in. Leaves: medians, quartiles, ratios
//! with an interval, and a verdict.
//!
//! Intervals are percentile bootstraps at 95 %. What is drawn with replacement is rounds and not
//! samples: those of one round share what the machine was doing meanwhile, so two hundred samples
//! of five rounds tell little more than five. The seed is fixed, so that the same samples always
//! get the same verdict.

/// Samples in seconds, a list a round.
pub(super) type Rounds = Vec<Vec<f64>>;

/// A difference smaller than this is none: alignment and the order of links make as much.
pub(super) const DIFFERENCE_MIN: f64 = 0.02;
/// With fewer rounds than this on a side, chance alone separates the two sides too often.
pub(super) const ROUNDS_MIN: usize = 4;
const DRAWS: usize = 2_000;
const SEED: u64 = 0x6b69_6c6e;

/// A ratio and where it lies with 95 % confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ratio {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// Rounds on the side that has fewer.
    pub(super) rounds: usize,
}

/// What a ratio of times means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Faster,
    Slower,
    /// No difference beyond the noise.
    Same,
    /// Fewer than [`ROUNDS_MIN`] rounds.
    TooFewRounds,
}

impl Verdict {
    /// Returns the word for programs.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Same => "same",
            Self::TooFewRounds => "too-few-rounds",
        }
    }
}

impl Ratio {
    /// Judges: the interval excludes 1 and whatever `machine`, the ratio of the same work on the
    /// same machine, may be; and the difference is at least [`DIFFERENCE_MIN`].
    pub(super) fn verdict(self, machine: Option<Self>) -> Verdict {
        let machine = machine.map_or((1.0, 1.0), |it| (it.low.min(1.0), it.high.max(1.0)));
        if self.rounds < ROUNDS_MIN {
            Verdict::TooFewRounds
        } else if self.high < machine.0 && self.value <= 1.0 - DIFFERENCE_MIN {
            Verdict::Faster
        } else if self.low > machine.1 && self.value >= 1.0 + DIFFERENCE_MIN {
            Verdict::Slower
        } else {
            Verdict::Same
        }
    }
}

/// Returns a quantile between samples, interpolated; NaN without samples.
pub(super) fn quantile(samples: &[f64], at: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_of_sorted(&sorted, at)
}

pub(super) fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

fn quantile_of_sorted(sorted: &[f64], at: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = at.clamp(0.0, 1.0) * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// Returns the ratio of medians, `now` to `before`.
pub(super) fn ratio(now: &Rounds, before: &Rounds) -> Ratio {
    let (now, before) = (taken(now), taken(before));
    let mut random = Random(SEED);
    interval(
        median(&now.concat()) / median(&before.concat()),
        now.len().min(before.len()),
        || random.median_of(&now) / random.median_of(&before),
    )
}

/// Returns the median of ratios that were each taken as a pair: what befell both cancels out.
pub(super) fn paired(ratios: &Rounds) -> Ratio {
    let ratios = taken(ratios);
    let mut random = Random(SEED);
    interval(median(&ratios.concat()), ratios.len(), || {
        random.median_of(&ratios)
    })
}

/// Returns the rounds that have samples.
fn taken(rounds: &Rounds) -> Vec<&[f64]> {
    let samples = rounds.iter().map(Vec::as_slice);
    samples.filter(|round| !round.is_empty()).collect()
}

fn interval(value: f64, rounds: usize, mut draw: impl FnMut() -> f64) -> Ratio {
    let mut drawn: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
    drawn.sort_by(f64::total_cmp);
    Ratio {
        value,
        low: quantile_of_sorted(&drawn, 0.025),
        high: quantile_of_sorted(&drawn, 0.975),
        rounds,
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns the median of as many rounds, drawn with replacement.
    fn median_of(&mut self, rounds: &[&[f64]]) -> f64 {
        let mut drawn: Vec<f64> = Vec::new();
        for _ in 0..rounds.len() {
            let at = (self.next() % rounds.len() as u64) as usize;
            drawn.extend_from_slice(rounds[at]);
        }
        let Some(last) = drawn.len().checked_sub(1) else {
            return f64::NAN;
        };
        let (_, upper, _) = drawn.select_nth_unstable_by(last.div_ceil(2), f64::total_cmp);
        let upper = *upper;
        if last.is_multiple_of(2) {
            return upper;
        }
        let (_, lower, _) = drawn.select_nth_unstable_by(last / 2, f64::total_cmp);
        (*lower + upper) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of `per` samples around `center`: noise of each sample, and of each round.
    fn noisy(random: &mut Random, center: f64, rounds: usize, per: usize) -> Rounds {
        let mut unit = || random.next() as f64 / u64::MAX as f64;
        let round = |_| {
            let shared = 1.0 + 0.05 * (unit() - 0.5);
            let sample = |_| center * shared * (1.0 + 0.1 * unit());
            (0..per).map(sample).collect()
        };
        (0..rounds).map(round).collect()
    }

    #[test]
    fn medians_and_quartiles_are_between_samples() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.25), 2.0);
        assert_eq!(quantile(&[7.0], 0.75), 7.0);
        assert!(median(&[]).is_nan());
        let rounds: Vec<&[f64]> = vec![&[2.0, 1.0], &[2.0, 1.0]];
        assert_eq!(Random(1).median_of(&rounds), 1.5);
        let rounds: Vec<&[f64]> = vec![&[9.0, 1.0, 5.0]];
        assert_eq!(Random(1).median_of(&rounds), 5.0);
    }

    #[test]
    fn what_is_compared_with_itself_is_the_same() {
        let samples = noisy(&mut Random(1), 1.0, 5, 1);
        let same = ratio(&samples, &samples);
        assert_eq!((same.value, same.verdict(None)), (1.0, Verdict::Same));
        assert!(same.low <= 1.0 && same.high >= 1.0);
    }

    #[test]
    fn a_third_more_is_slower_and_a_third_less_faster() {
        let mut random = Random(2);
        let (before, now) = (
            noisy(&mut random, 1.0, 5, 1),
            noisy(&mut random, 1.3, 5, 20),
        );
        let slower = ratio(&now, &before);
        assert_eq!(slower.verdict(None), Verdict::Slower);
        assert!(slower.low < 1.3 && 1.3 < slower.high, "{slower:?}");
        assert_eq!(ratio(&before, &now).verdict(None), Verdict::Faster);
    }

    #[test]
    fn what_is_certain_and_small_is_no_difference() {
        let (one, more) = (vec![vec![1.0]; 9], vec![vec![1.019]; 9]);
        assert_eq!(ratio(&more, &one).verdict(None), Verdict::Same);
        let more = vec![vec![1.021]; 9];
        assert_eq!(ratio(&more, &one).verdict(None), Verdict::Slower);
    }

    #[test]
    fn a_slower_machine_is_no_slower_kiln() {
        let times = |seconds: f64| -> Rounds { vec![vec![seconds]; 5] };
        let machine = Some(ratio(&times(1.5), &times(1.0)));
        let verdict = |now: f64| ratio(&times(now), &times(1.0)).verdict(machine);
        assert_eq!(verdict(1.4), Verdict::Same);
        assert_eq!(verdict(1.6), Verdict::Slower);
        assert_eq!(verdict(0.9), Verdict::Faster);
    }

    #[test]
    fn few_rounds_have_no_verdict_however_many_samples() {
        let (one, two) = (vec![vec![1.0; 20]; 3], vec![vec![2.0; 20]; 9]);
        assert_eq!(ratio(&two, &one).verdict(None), Verdict::TooFewRounds);
        // A round that took no sample is none.
        let mut four = one;
        four.push(Vec::new());
        assert_eq!(ratio(&two, &four).verdict(None), Verdict::TooFewRounds);
    }

    #[test]
    fn noise_alone_seldom_gets_a_verdict() {
        let mut random = Random(3);
        let mut wrong = 0;
        for (rounds, per) in [(5, 1), (5, 5), (12, 1)] {
            for _ in 0..60 {
                let now = noisy(&mut random, 1.0, rounds, per);
                let before = noisy(&mut random, 1.0, rounds, per);
                wrong += u32::from(ratio(&now, &before).verdict(None) != Verdict::Same);
            }
        }
        // docs/bench.md says how often.
        assert!(wrong <= 180 / 12, "{wrong} of 180");
    }

    #[test]
    fn a_pair_cancels_what_befell_both() {
        // The machine gets twice as slow meanwhile; one of the two takes 10 % longer all along.
        let speed = |round: usize| 1.0 + round as f64 / 4.0;
        let other: Rounds = (0..5).map(|round| vec![speed(round)]).collect();
        let kiln: Rounds = (0..5).map(|round| vec![speed(round) * 1.1]).collect();
        let ratios = kiln.iter().zip(&other);
        let pairs = ratios.map(|(kiln, other)| vec![kiln[0] / other[0]]);
        assert_eq!(paired(&pairs.collect()).verdict(None), Verdict::Slower);
        assert_eq!(ratio(&kiln, &other).verdict(None), Verdict::Same);
    }
}
