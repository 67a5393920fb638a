//! lehr's `nano` training step in burn on wgpu: tokens per second.
//!
//! 4 layers, 4 heads, 128 wide, SwiGLU 352, tied embeddings, 65 characters, 12 windows of 64. Forward, backward, AdamW; RMSNorm,
//! RoPE, causal attention, all from burn's own modules. The batch is random and stays the same, so the loss must fall.
//!
//! Differences from the recipe: weight decay applies to the gains too, and the gradient is clipped at norm 1 tensor by tensor,
//! as burn has no clipping over all of them.

use std::time::Instant;

use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::{
    Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig, RotaryEncoding, RotaryEncodingConfig,
    SwiGlu, SwiGluConfig,
};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Int, Tensor, TensorData};

const LAYERS: usize = 4;
const HEADS: usize = 4;
const DIM: usize = 128;
const HIDDEN: usize = 352;
const VOCAB: usize = 65;
const B: usize = 12;
const T: usize = 64;
const INIT: Initializer = Initializer::Normal { mean: 0.0, std: 0.02 };

#[derive(Module, Debug)]
struct Block {
    attn_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    mlp_norm: RmsNorm,
    gate_up: SwiGlu,
    down: Linear,
}

#[derive(Module, Debug)]
struct Llama {
    embed: Embedding,
    rope: RotaryEncoding,
    blocks: Vec<Block>,
    norm: RmsNorm,
}

fn linear(n_in: usize, n_out: usize, device: &Device) -> Linear {
    LinearConfig::new(n_in, n_out).with_bias(false).with_initializer(INIT).init(device)
}

impl Block {
    fn new(device: &Device) -> Self {
        Block {
            attn_norm: RmsNormConfig::new(DIM).init(device),
            q: linear(DIM, DIM, device),
            k: linear(DIM, DIM, device),
            v: linear(DIM, DIM, device),
            o: linear(DIM, DIM, device),
            mlp_norm: RmsNormConfig::new(DIM).init(device),
            gate_up: SwiGluConfig::new(DIM, HIDDEN).with_initializer(INIT).init(device),
            down: linear(HIDDEN, DIM, device),
        }
    }

    fn forward(&self, x: Tensor<3>, rope: &RotaryEncoding) -> Tensor<3> {
        let h = self.attn_norm.forward(x.clone());
        let heads = |w: &Linear| w.forward(h.clone()).reshape([B, T, HEADS, DIM / HEADS]).swap_dims(1, 2);
        let (q, k, v) = (rope.forward(heads(&self.q)), rope.forward(heads(&self.k)), heads(&self.v));
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let y = attention(q, k, v, None, None, options);
        let x = x + self.o.forward(y.swap_dims(1, 2).reshape([B, T, DIM]));
        let h = self.mlp_norm.forward(x.clone());
        x + self.down.forward(self.gate_up.forward(h))
    }
}

impl Llama {
    fn new(device: &Device) -> Self {
        Llama {
            embed: EmbeddingConfig::new(VOCAB, DIM).with_initializer(INIT).init(device),
            rope: RotaryEncodingConfig::new(T, DIM / HEADS).init(device),
            blocks: (0..LAYERS).map(|_| Block::new(device)).collect(),
            norm: RmsNormConfig::new(DIM).init(device),
        }
    }

    fn loss(&self, inputs: Tensor<2, Int>, targets: Tensor<1, Int>, cross_entropy: &CrossEntropyLoss) -> Tensor<1> {
        let mut x = self.embed.forward(inputs);
        for block in &self.blocks {
            x = block.forward(x, &self.rope);
        }
        let x = self.norm.forward(x).reshape([B * T, DIM]);
        let logits = x.matmul(self.embed.weight.val().transpose());
        cross_entropy.forward(logits, targets)
    }
}

/// B windows of T inputs and T targets, random but always the same.
fn batch(device: &Device) -> (Tensor<2, Int>, Tensor<1, Int>) {
    let mut state = 2u64;
    let mut token = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1 << 24) as f32 * VOCAB as f32) as i32
    };
    let windows: Vec<Vec<i32>> = (0..B).map(|_| (0..=T).map(|_| token()).collect()).collect();
    let inputs: Vec<i32> = windows.iter().flat_map(|w| w[..T].to_vec()).collect();
    let targets: Vec<i32> = windows.iter().flat_map(|w| w[1..].to_vec()).collect();
    (Tensor::from_data(TensorData::new(inputs, [B, T]), device), Tensor::from_data(TensorData::new(targets, [B * T]), device))
}

fn main() {
    let mut args = std::env::args().skip(1).map(|s| s.parse::<usize>().expect("usage: peer-burn [STEPS] [WARMUP]"));
    let (steps, warmup) = (args.next().unwrap_or(30), args.next().unwrap_or(10));

    let device = Device::wgpu(Default::default()).autodiff();
    let mut model = Llama::new(&device);
    let mut optimizer = AdamWConfig::new()
        .with_beta_1(0.9)
        .with_beta_2(0.99)
        .with_epsilon(1e-8)
        .with_weight_decay(0.1)
        .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
        .init();
    let cross_entropy = CrossEntropyLossConfig::new().init(&device);
    println!("{} parameters", model.num_params());

    let mut times = vec![];
    let mut first = 0.0;
    for step in 0..warmup + steps {
        let start = Instant::now();
        let (inputs, targets) = batch(&device);
        let loss = model.loss(inputs, targets, &cross_entropy);
        if step == 0 {
            first = loss.clone().into_scalar::<f32>();
        }
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-3, model, grads);
        device.sync().expect("the device is still there");
        let secs = start.elapsed().as_secs_f64();
        if step < warmup {
            eprintln!("warm-up step {step}: {:.0} ms", 1000.0 * secs);
        } else {
            times.push(secs);
        }
    }
    let (inputs, targets) = batch(&device);
    let last = model.loss(inputs, targets, &cross_entropy).into_scalar::<f32>();

    times.sort_by(f64::total_cmp);
    let rate = |secs: f64| (B * T) as f64 / secs;
    println!(
        "burn: {:.0} tokens/s (median of {steps}), best {:.0}, {:.1} ms a step; loss {first:.4} -> {last:.4} after {} steps",
        rate(times[steps / 2]),
        rate(times[0]),
        1000.0 * times[steps / 2],
        warmup + steps,
    );
}
