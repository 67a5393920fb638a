//! lehr's `nano` training step in meganeura: tokens per second.
//!
//! 4 layers, 4 heads, 128 wide, SwiGLU 352, tied embeddings, 65 characters, 12 windows of 64. Forward, backward, global-norm
//! clip at 1, AdamW; RMSNorm, RoPE, causal attention. The batch is random and stays the same, so the loss must fall.
//!
//! meganeura's graphs have no batch dimension, so there are two ways to have twelve windows, and both are here:
//!   split       one graph of 768 rows; q, k and v are cut into twelve parts for attention and put together again
//!   accumulate  a graph of 64 rows, stepped twelve times into its gradient accumulators
//!
//! Differences from the recipe: weight decay applies to the gains too (there are no parameter groups).

use std::time::Instant;

use meganeura::{Graph, NodeId, Session, SessionConfig};

const LAYERS: usize = 4;
const HEADS: u32 = 4;
const DIM: usize = 128;
const HIDDEN: usize = 352;
const VOCAB: usize = 65;
const B: usize = 12;
const T: usize = 64;
const WARMUP: usize = 5;

/// Cuts (B*T, C) into the rows of each window, by halves: meganeura can only cut in two.
fn windows(g: &mut Graph, x: NodeId, count: usize, out: &mut Vec<NodeId>) {
    if count == 1 {
        let x = g.reshape(x, &[T, DIM]);
        return out.push(x);
    }
    let (a, b) = (count / 2, count - count / 2);
    let (rows_a, rows_b) = ((a * T) as u32, (b * T) as u32);
    let first = g.split_a(x, 1, rows_a, rows_b, DIM as u32);
    let second = g.split_b(x, 1, rows_a, rows_b, DIM as u32);
    windows(g, first, a, out);
    windows(g, second, b, out);
}

/// The inverse of `windows`.
fn join(g: &mut Graph, parts: &[NodeId]) -> NodeId {
    if let [one] = parts {
        return g.reshape(*one, &[T * DIM]);
    }
    let (a, b) = parts.split_at(parts.len() / 2);
    let (rows_a, rows_b) = ((a.len() * T) as u32, (b.len() * T) as u32);
    let (first, second) = (join(g, a), join(g, b));
    g.concat(first, second, 1, rows_a, rows_b, DIM as u32)
}

/// Causal attention inside each of `batch` windows.
fn attention(g: &mut Graph, q: NodeId, k: NodeId, v: NodeId, batch: usize) -> NodeId {
    let head_dim = DIM as u32 / HEADS;
    if batch == 1 {
        return g.causal_attention(q, k, v, HEADS, HEADS, head_dim);
    }
    let mut parts = [vec![], vec![], vec![]];
    for (x, out) in [q, k, v].into_iter().zip(&mut parts) {
        let flat = g.reshape(x, &[batch * T * DIM]);
        windows(g, flat, batch, out);
    }
    let [q, k, v] = parts;
    let each: Vec<NodeId> = (0..batch)
        .map(|i| {
            // Two negations that cancel. meganeura 0.3.0 loses the gradient of v where a reshape follows the attention's
            // backward kernel directly (the reshape is bound to a buffer that is replaced later): it comes out as zero.
            let minus_v = g.neg(v[i]);
            let y = g.causal_attention(q[i], k[i], minus_v, HEADS, HEADS, head_dim);
            g.neg(y)
        })
        .collect();
    let joined = join(g, &each);
    g.reshape(joined, &[batch * T, DIM])
}

fn training_graph(batch: usize) -> Graph {
    let mut g = Graph::new();
    let rows = batch * T;
    let tokens = g.input_u32("tokens", &[rows]);
    let embed = g.parameter("embed", &[VOCAB, DIM]);
    let mut x = g.embedding(tokens, embed);
    for i in 0..LAYERS {
        let param = |g: &mut Graph, name: &str, shape: &[usize]| g.parameter(&format!("layers.{i}.{name}"), shape);
        let gain = param(&mut g, "attn_norm", &[DIM]);
        let h = g.rms_norm(x, gain, 1e-5);
        let [q, k, v] = ["q", "k", "v"].map(|name| {
            let w = param(&mut g, name, &[DIM, DIM]);
            g.matmul(h, w)
        });
        // Positions run on over the windows: RoPE is relative, so attention inside a window is the same.
        let q = g.rope(q, 10000.0, DIM as u32 / HEADS);
        let k = g.rope(k, 10000.0, DIM as u32 / HEADS);
        let y = attention(&mut g, q, k, v, batch);
        let o = param(&mut g, "o", &[DIM, DIM]);
        let y = g.matmul(y, o);
        x = g.add(x, y);

        let gain = param(&mut g, "mlp_norm", &[DIM]);
        let h = g.rms_norm(x, gain, 1e-5);
        let [gate, up] = ["gate", "up"].map(|name| {
            let w = param(&mut g, name, &[DIM, HIDDEN]);
            g.matmul(h, w)
        });
        let y = g.swiglu(gate, up);
        let down = param(&mut g, "down", &[HIDDEN, DIM]);
        let y = g.matmul(y, down);
        x = g.add(x, y);
    }
    let gain = g.parameter("norm", &[DIM]);
    let x = g.rms_norm(x, gain, 1e-5);
    let logits = g.matmul_bt(x, embed);
    let labels = g.input("labels", &[rows, VOCAB]);
    let loss = g.cross_entropy_loss(logits, labels);
    g.set_outputs(vec![loss]);
    g
}

/// Numbers in [0, 1) from a 64-bit linear congruential generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }
}

/// Gains one, everything else uniform with a standard deviation of 0.02.
fn initialise(session: &mut Session) {
    let mut random = Random(1);
    let names: Vec<String> = session.param_names().into_iter().map(String::from).collect();
    for name in names {
        let size = session.param_size(&name).expect("a parameter it just named");
        let data: Vec<f32> = if name.contains("norm") {
            vec![1.0; size]
        } else {
            (0..size).map(|_| 0.02 * 3f32.sqrt() * (2.0 * random.next() - 1.0)).collect()
        };
        session.set_parameter(&name, &data);
    }
}

/// Inputs and one-hot targets of window(s) `rows` of the batch of B windows of T+1 tokens.
fn set_batch(session: &mut Session, batch: &[Vec<u32>]) {
    let tokens: Vec<u32> = batch.iter().flat_map(|w| w[..T].to_vec()).collect();
    let mut labels = vec![0.0; tokens.len() * VOCAB];
    for (row, &target) in batch.iter().flat_map(|w| &w[1..]).enumerate() {
        labels[row * VOCAB + target as usize] = 1.0;
    }
    session.set_input_u32("tokens", &tokens);
    session.set_input("labels", &labels);
}

/// One optimiser step on the whole batch; returns the loss if asked for, as reading it is not part of the step.
fn step(session: &mut Session, batch: &[Vec<u32>], split: bool, read_loss: bool) -> f32 {
    let adam = |s: &mut Session| s.set_adam(1e-3, 0.9, 0.99, 1e-8);
    if split {
        adam(session);
        set_batch(session, batch);
        session.step();
        session.wait();
        return if read_loss { session.read_loss() } else { 0.0 };
    }
    session.zero_grad();
    session.clear_optimizer();
    let mut loss = 0.0;
    for (i, window) in batch.iter().enumerate() {
        if i == B - 1 {
            adam(session);
        }
        set_batch(session, std::slice::from_ref(window));
        session.step();
        if read_loss {
            session.wait();
            loss += session.read_loss() / B as f32;
        }
    }
    session.wait();
    loss
}

fn main() {
    env_logger::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let split = args.first().is_none_or(|a| a == "split");
    if args.first().is_some_and(|a| a != "split" && a != "accumulate") {
        eprintln!("usage: peer-meganeura [split|accumulate] [STEPS] [--no-clip] [--tune]");
        std::process::exit(2);
    }
    let steps: usize = args.get(1).and_then(|s| s.parse().ok()).unwrap_or(30);

    let start = Instant::now();
    let graph = training_graph(if split { B } else { 1 });
    let mut config = SessionConfig::from_env();
    config.tune |= args.iter().any(|a| a == "--tune");
    let (mut session, _) = meganeura::build(&graph, config);
    let device = session.device_information();
    eprintln!("{} ({}), {}", device.device_name, device.driver_name, device.driver_info);
    eprintln!("built in {:.1} s, {} dispatches", start.elapsed().as_secs_f64(), session.plan().dispatches.len());
    initialise(&mut session);
    session.set_weight_decay(0.1);
    if !args.iter().any(|a| a == "--no-clip") {
        session.set_grad_clip_norm(1.0);
    }
    if !split {
        session.set_grad_accumulate(B as u32);
    }

    let mut random = Random(2);
    let batch: Vec<Vec<u32>> = (0..B).map(|_| (0..=T).map(|_| (random.next() * VOCAB as f32) as u32).collect()).collect();
    let first = step(&mut session, &batch, split, true);
    for _ in 1..WARMUP {
        step(&mut session, &batch, split, false);
    }
    let mut times: Vec<f64> = (0..steps)
        .map(|_| {
            let start = Instant::now();
            step(&mut session, &batch, split, false);
            start.elapsed().as_secs_f64()
        })
        .collect();
    let last = step(&mut session, &batch, split, true);
    times.sort_by(f64::total_cmp);
    let rate = |secs: f64| (B * T) as f64 / secs;
    println!(
        "meganeura {}: {:.0} tokens/s (median of {steps}), best {:.0}, {:.1} ms a step; loss {first:.4} -> {last:.4} after {} steps",
        if split { "split" } else { "accumulate" },
        rate(times[steps / 2]),
        rate(times[0]),
        1000.0 * times[steps / 2],
        WARMUP + steps,
    );
}
