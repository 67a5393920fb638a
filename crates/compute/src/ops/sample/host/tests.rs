use super::super::{Sampling, twin};
use super::*;
use crate::device::cpu::levels;
use crate::device::cpu::testing::{Draw, on_every_level};

/// Whether a token is so close to the threshold of top-p or min-p that rounding decides.
fn is_near_edge(logits: &[f64], s: &Sampling) -> bool {
    if s.temperature <= 0.0 {
        return false;
    }
    let mut whole = twin::distribution(logits, &Sampling { top_p: 1.0, min_p: 0.0, ..*s });
    whole.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut mass = 0.0;
    let by_top_p = s.top_p < 1.0
        && whole.iter().any(|p| {
            mass += p;
            (mass - s.top_p).abs() < 2e-6
        });
    let kept = twin::distribution(logits, &Sampling { min_p: 0.0, ..*s });
    let floor = s.min_p * kept.iter().copied().fold(0.0, f64::max);
    by_top_p || floor > 0.0 && kept.iter().any(|p| (p / floor - 1.0).abs() < 1e-5)
}

/// Rows that draw; of the prompts the heads count alone.
struct Problem {
    sizes: Sizes,
    logits: Vec<f32>,
    positions: Vec<u32>,
    assigned: Vec<u32>,
    prompt: Vec<u32>,
}

fn problem(d: &mut Draw, batch: usize, vocab: usize, scale: f64) -> Problem {
    let (max_len, stride) = (8, vocab.next_multiple_of(4));
    let (count, head) = (batch + d.int(0, 5), max_len + PROMPT_HEAD);
    let mut prompt = vec![7u32; count * head];
    for own in prompt.chunks_mut(head) {
        own[0] = d.pick(&[0, 0, 0, max_len as u32]);
        own[2] = d.int(0, 1 << 30) as u32;
        own[3] = d.int(0, 1 << 30) as u32;
    }
    let shift = d.int(0, count - 1);
    let request = |row: usize| if row % 7 == 6 { IDLE } else { ((row + shift) % count) as u32 };
    let mut logits = d.normals(batch * stride, scale);
    // Ties, among them of the highest, and numbers behind the vocabulary.
    for row in logits.chunks_mut(stride) {
        row[vocab..].fill(1e9);
        row[..vocab].iter_mut().step_by(3).for_each(|l| *l = (*l * 2.0).round() / 2.0);
        if let Some(l) = row[..vocab].get_mut(5) {
            *l = f32::NEG_INFINITY;
        }
    }
    Problem {
        sizes: Sizes { vocab, stride, batch, max_len, count },
        logits,
        positions: (0..batch).map(|_| d.int(0, max_len - 1) as u32).collect(),
        assigned: (0..batch).flat_map(|row| [request(row), 5, 6]).collect(),
        prompt,
    }
}

fn check(p: &Problem, s: &Sampling, cpu: &Cpu) -> (Vec<u32>, usize) {
    let (batch, max_len, head) = (p.positions.len(), p.sizes.max_len, p.sizes.max_len + PROMPT_HEAD);
    let (mut tokens, mut positions, mut drawn) =
        (vec![99; batch], p.positions.clone(), vec![u32::MAX; p.prompt.len() / head * 2 * max_len]);
    draw(cpu, p.sizes, &p.logits, &s.pack(&[]), &p.prompt, &p.assigned, &mut tokens, &mut positions, &mut drawn);
    let mut edges = 0;
    for row in 0..batch {
        let (before, request) = (p.positions[row] as usize, p.assigned[3 * row]);
        if request == IDLE {
            assert!(tokens[row] == 99 && positions[row] == before as u32, "an idle row moved");
            continue;
        }
        let own = &p.prompt[request as usize * head..][..PROMPT_HEAD];
        let is_given = before + 1 < max_len && before + 1 < own[0] as usize;
        let values: Vec<f64> = p.logits[row * p.sizes.stride..][..p.sizes.vocab].iter().map(|&l| f64::from(l)).collect();
        let u = f64::from((philox([own[2], own[3], before as u32, 0], s.rng().key())[0] >> 8) as f32 / 16_777_216.0);
        let (mut want, edge) = twin::draw(&twin::distribution(&values, s), u);
        let mut want_logp = 0.0;
        if is_given {
            want = 7;
        } else if tokens[row] as usize != want && (edge < 1e-5 || is_near_edge(&values, s)) {
            edges += 1;
            continue; // rounding may choose either neighbour of an edge
        } else {
            want_logp = twin::log_probability(&values, want, if s.temperature > 0.0 { s.temperature } else { 1.0 });
        }
        assert_eq!(tokens[row] as usize, want, "row {row}");
        if before + 1 < max_len {
            let at = request as usize * 2 * max_len + before + 1;
            let logp = f64::from(f32::from_bits(drawn[at + max_len]));
            assert!((logp - want_logp).abs() < 2e-5 * (1.0 + want_logp.abs()), "row {row}: log pi {logp}, f64 says {want_logp}");
            assert_eq!((positions[row] as usize, drawn[at] as usize), (before + 1, want));
        } else {
            assert_eq!(positions[row] as usize, before);
        }
    }
    (tokens, edges)
}

fn random(d: &mut Draw) -> Sampling {
    Sampling {
        temperature: d.pick(&[0.0, 0.7, 1.0, 1.5]),
        top_k: d.pick(&[0, 1, 5, 50, 3000, 40_000]),
        top_p: d.pick(&[1.0, 0.9, 0.3, 0.999]),
        min_p: d.pick(&[0.0, 0.05]),
        seed: d.int(0, 1 << 30) as u64,
    }
}

#[test]
fn small_vocabularies_agree_with_f64() {
    let mut d = Draw::new(20);
    let (mut rows, mut edges) = (0, 0);
    for _ in 0..300 {
        let (batch, vocab) = (d.int(1, 20), d.int(1, 700));
        let (p, s) = (problem(&mut d, batch, vocab, 3.0), random(&mut d));
        for level in levels() {
            edges += check(&p, &s, &Cpu::with_level(level, 1).unwrap()).1;
            rows += batch;
        }
    }
    assert!(edges * 100 < rows, "{edges} of {rows} rows at an edge");
}

#[test]
fn large_vocabularies_agree_with_f64() {
    let mut d = Draw::new(21);
    for vocab in [32_000, 49_152, 128_256, 151_936] {
        for scale in [0.02, 0.5, 3.0, 8.0] {
            let p = problem(&mut d, 3, vocab, scale);
            for _ in 0..2 {
                let s = random(&mut d);
                on_every_level(|cpu| check(&p, &s, cpu).0);
            }
        }
    }
}

/// The kept set itself: with every possible draw the tokens drawn are those that are kept, each as often as its share says.
#[test]
fn draws_have_the_frequencies_of_the_distribution() {
    let cpu = Cpu::new(1).unwrap();
    let vocab = 3000;
    let mut d = Draw::new(22);
    let logits = d.normals(vocab, 2.0);
    let values: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
    for (top_k, top_p, min_p) in [(0, 1.0, 0.0), (40, 1.0, 0.0), (0, 0.8, 0.0), (0, 1.0, 0.02), (100, 0.7, 0.01)] {
        let s = Sampling { temperature: 0.8, top_k, top_p, min_p, seed: 1 };
        let of = twin::distribution(&values, &s);
        let mut times = vec![0u32; vocab];
        let mut scratch = Scratch::default();
        let draws = 20_000;
        for i in 0..draws {
            let unit = (i as f32 + 0.5) / draws as f32;
            let column = simd!(cpu, s2 => choose(s2, Filter::new(&s.pack(&[])), unit, &logits, &mut scratch)).0;
            times[column] += 1;
        }
        for (p, n) in of.iter().zip(times) {
            assert!((p * f64::from(draws) - f64::from(n)).abs() <= 1.6, "p = {p}, drawn {n} of {draws}");
        }
    }
}

#[test]
fn an_empty_distribution_draws_column_zero() {
    let cpu = Cpu::new(1).unwrap();
    for (temperature, top_k, top_p) in [(0.0, 0, 1.0), (1.0, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.5), (1.0, 3, 0.5)] {
        for bad in [f32::NAN, f32::NEG_INFINITY] {
            let s = Sampling { temperature, top_k, top_p, ..Sampling::default() };
            let mut scratch = Scratch::default();
            let (column, _) = simd!(cpu, s2 => choose(s2, Filter::new(&s.pack(&[])), 0.5, &[bad; 100], &mut scratch));
            assert_eq!(column, 0, "{temperature} {top_k} {top_p} {bad}");
        }
    }
}

/// Rows in the middle of their requests, at their ends, and idle ones; more requests or fewer than rows that want one.
fn check_refill(d: &mut Draw) {
    let (batch, max_len) = (d.int(1, 150), d.int(2, 9));
    let begun = d.int(0, batch);
    let count = begun + d.int(0, batch);
    let capacity = count + d.int(1, 4);
    let mut prompt = vec![u32::MAX; capacity * (PROMPT_HEAD + max_len)];
    for own in prompt.chunks_mut(PROMPT_HEAD + max_len).take(count) {
        let given = d.int(1, max_len - 1);
        let fed = d.int(0, given - 1);
        own[..PROMPT_HEAD].copy_from_slice(&[given, d.int(1, max_len), 1, 2, d.int(0, 99), fed].map(|n| n as u32));
        own[PROMPT_HEAD..][..given].iter_mut().for_each(|t| *t = d.int(0, 9) as u32);
    }
    let stops: Vec<u32> = (0..d.int(0, 3)).map(|_| d.int(0, 9) as u32).collect();
    let row = |d: &mut Draw, i: usize| {
        let request = if i < begun { (begun - 1 - i) as u32 } else { IDLE };
        [d.int(0, 9) as u32, d.int(0, max_len - 1) as u32, request, u32::MAX, u32::MAX]
    };
    let mut want: Vec<[u32; 5]> = (0..batch).map(|i| row(d, i)).collect();
    let mut tokens: Vec<u32> = want.iter().map(|r| r[0]).collect();
    let mut positions: Vec<u32> = want.iter().map(|r| r[1]).collect();
    let mut assigned: Vec<u32> = want.iter().flat_map(|r| [r[2], r[3], r[4]]).collect();
    let (mut lengths, mut progress) = (vec![u32::MAX; capacity], vec![begun as u32, 3, count as u32]);
    let sizes = Sizes { vocab: 0, stride: 0, batch, max_len, count: capacity };
    refill(
        sizes,
        &Sampling::default().pack(&stops),
        &prompt,
        &mut tokens,
        &mut positions,
        &mut assigned,
        &mut lengths,
        &mut progress,
    );
    let mut want_lengths = vec![u32::MAX; capacity];
    let prompts: Vec<&[u32]> = prompt.chunks(PROMPT_HEAD + max_len).collect();
    let over = twin::refill(&mut want, &mut want_lengths, &prompts, begun..count, &stops, max_len);
    let got: Vec<[u32; 5]> =
        (0..batch).map(|i| [tokens[i], positions[i], assigned[3 * i], assigned[3 * i + 1], assigned[3 * i + 2]]).collect();
    assert_eq!(got, want);
    assert_eq!(lengths, want_lengths);
    assert_eq!(progress, [(begun as u32 + over).min(count as u32), 3 + over, count as u32]);
}

#[test]
fn refill_agrees() {
    let mut d = Draw::new(23);
    (0..300).for_each(|_| check_refill(&mut d));
}

/// Ties and all, few of many and many of few, the `k`th is that of a sort.
#[test]
fn kth_largest_matches_a_sort() {
    let mut d = Draw::new(24);
    let mut scratch = Scratch::default();
    for case in 0..200 {
        let n = d.int(2, 6000);
        let mut row = d.normals(n, 2.0);
        let grain = [1e-3, 0.5, 3.0][case % 3];
        row.iter_mut().for_each(|l| *l = (*l / grain).round() * grain);
        let mut sorted = row.clone();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        for level in levels() {
            let cpu = Cpu::with_level(level, 1).unwrap();
            for k in [1, n / 100, n / 10, n / 2, n - 1].map(|k| k.max(1)) {
                let got = simd!(cpu, s => select::kth(s, &row, k, -1e30, &mut scratch));
                assert!(got == sorted[k - 1], "{k} of {n}: {got}, not {}", sorted[k - 1]);
            }
        }
    }
}
