//! One token's gradient at the logits: proposition 4.2 of arXiv 2505.12929, exactly, of the kernel itself.

use lehr::device::{Device, Recorder, Tensor};
use lehr::ops::logprob::{self, Chunk, RowStats};
use lehr::rng::Rng;

/// |w| sqrt(N / (N - 1)) (1 - pi) <= |d logits| <= |w| sqrt 2 (1 - pi), for N tokens of vocabulary.
#[test]
fn the_gradient_of_a_token_is_bounded_by_its_probability() {
    for other in [false, true] {
        let mut device = Device::open_named(None).expect("an adapter");
        if other {
            device.switch_gpu_class();
        }
        for (case, vocab) in [2usize, 3, 17, 61, 222].into_iter().enumerate() {
            bounded(&device, case as u64, vocab);
        }
    }
}

fn bounded(device: &Device, case: u64, vocab: usize) {
    const ROWS: usize = 300;
    let (rng, stride) = (Rng::new(11, "bound"), vocab.next_multiple_of(4));
    let draw = |i: usize| rng.normal_pair(case, i as u64)[0];
    let logits: Vec<f32> = (0..ROWS * stride).map(|i| (draw(i) * [0.1, 1.0, 4.0][i / stride % 3]) as f32).collect();
    let targets: Vec<u32> = (0..ROWS).map(|i| rng.below(case + 100, i as u64, vocab as u64) as u32).collect();
    let weights: Vec<f32> = (0..ROWS).map(|i| draw(1 << 20 | i) as f32).collect();
    let make = |name: &str, shape: &[usize]| Tensor::new(device, "test", name, shape);
    let (l, t, d) = (make("logits", &[ROWS, stride]), make("targets", &[ROWS]), make("dlogp", &[ROWS]));
    let [logp, entropy, sum_p2, lse, hit] = ["logp", "entropy", "sum_p2", "lse", "hit"].map(|name| make(name, &[ROWS]));
    let stats = RowStats { logp, entropy, sum_p2, lse, hit };
    device.write(&l, &logits);
    device.write(&t, &targets);
    device.write(&d, &weights);
    let chunk = Chunk { rows: ROWS, first_row: 0, vocab, stride };
    let mut r = Recorder::new(device, "test");
    logprob::forward(&mut r, chunk, &l, &t, &stats);
    logprob::backward(&mut r, chunk, &l, &t, &d, &stats.lse);
    device.replay(&r.finish().unwrap()).unwrap();
    let gradient: Vec<f32> = device.read(&l).unwrap();
    let mut tight = (false, false);
    for (row, g) in gradient.chunks(stride).enumerate() {
        let z: Vec<f64> = logits[row * stride..row * stride + vocab].iter().map(|l| f64::from(*l)).collect();
        let mass: f64 = z.iter().map(|z| z.exp()).sum();
        let others: f64 = z.iter().enumerate().filter(|(v, _)| *v != targets[row] as usize).map(|(_, z)| z.exp()).sum();
        let (w, n) = (f64::from(weights[row]).abs(), vocab as f64);
        let norm = g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let (low, high) = (w * (n / (n - 1.0)).sqrt() * others / mass, w * 2f64.sqrt() * others / mass);
        let slack = 1e-5 * high + 5e-7 * w;
        assert!(low - slack <= norm && norm <= high + slack, "vocabulary {vocab}, row {row}: {low} <= {norm} <= {high}");
        tight = (tight.0 | (norm < 1.1 * low), tight.1 | (norm > 0.9 * high));
    }
    assert!(tight.0, "the lower bound is met by even distributions");
    assert!(tight.1 || vocab > 17, "the upper bound is met where one other token has all the rest");
}
