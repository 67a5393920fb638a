//! Colours of runs: the same in window, report and images, independent of other runs and their order.

use crate::plot::SERIES;

/// An index into the series' colours for each of these run names. Each name has a preferred colour; if two names prefer the same one, the
/// alphabetically later takes the next free one.
pub fn run_colors(names: &[String]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by(|a, b| names[*a].cmp(&names[*b]));
    let mut taken = [0usize; SERIES.len()];
    let mut found = vec![0; names.len()];
    for run in order {
        let wanted = preferred_hue(&names[run]);
        let next = |i: usize| (wanted + i) % SERIES.len();
        // The first of the least used colours.
        let hue = (0..SERIES.len()).map(next).min_by_key(|hue| taken[*hue]).unwrap_or(wanted);
        taken[hue] += 1;
        found[run] = hue;
    }
    found
}

/// The preferred colour: FNV-1a of the name.
fn preferred_hue(name: &str) -> usize {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash % SERIES.len() as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_independent_of_order_and_distinct_if_possible() {
        let names: Vec<String> = (0..10).map(|i| format!("run-{i}")).collect();
        let found = run_colors(&names);
        assert_eq!(found.iter().collect::<std::collections::BTreeSet<_>>().len(), 10, "{found:?}");
        let backwards: Vec<String> = names.iter().rev().cloned().collect();
        assert!(run_colors(&backwards).into_iter().rev().eq(found.iter().copied()));
        // A run alone, or with one that prefers another colour, has the colour of its name.
        for (i, a) in names.iter().enumerate() {
            assert_eq!(run_colors(&names[i..=i]), [preferred_hue(a)]);
            for b in names.iter().filter(|b| preferred_hue(b) != preferred_hue(a)) {
                assert_eq!(run_colors(&[b.clone(), a.clone()]), [preferred_hue(b), preferred_hue(a)]);
            }
        }
        let many: Vec<String> = (0..25).map(|i| format!("{i}")).collect();
        let counts = run_colors(&many).into_iter().fold([0; 10], |mut counts, hue| {
            counts[hue] += 1;
            counts
        });
        assert!(counts.iter().all(|n| (2..=3).contains(n)), "{counts:?}");
    }
}
