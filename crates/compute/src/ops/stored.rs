//! Numbers that are stored in 16 bits: the texts of their kernels, and checks that results are those of the same numbers stored in f32, bit
//! for bit.

use super::check::{Case, Check, LARGE_VOCABULARIES, wide};
use super::matmul::{self, Extra, RegisterTile};
use super::{embedding, matmul::twin};
use crate::device::{Bf16, Device, Dispatcher, ElementType, Extent, Recorder, Shader, Tensor, Uniform};

/// A text whose `buffers`, of vec4 of f32, are stored in this type. It must read a buffer `b` only by a function that says `return b[i];`, and
/// write one only by a function that says `b[i] = v;`.
pub(super) fn text(text: &str, buffers: &[&str], element: ElementType) -> String {
    let import = match element {
        ElementType::F32 => return text.to_owned(),
        ElementType::Bf16 => "bf16",
        ElementType::F16 => "f16",
    };
    let mut out = format!("#import {import}\n");
    for line in text.lines() {
        let declares = |b: &&str| line.contains("var<storage") && line.contains(&format!(" {b}:"));
        let line = match buffers.iter().any(declares) {
            true => line.replace("array<vec4<f32>>", "array<vec2<u32>>"),
            false => buffers.iter().fold(line.to_owned(), |line, b| {
                line.replace(&format!("return {b}[i];"), &format!("return unpack_{import}({b}[i]);"))
                    .replace(&format!("{b}[i] = v;"), &format!("{b}[i] = pack_{import}(v);"))
            }),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// A shader some of whose buffers may be stored in 16 bits, in one type at a time.
pub(super) struct StoredShader {
    /// With all of them in f32.
    pub shader: Shader,
    /// The buffers.
    pub buffers: &'static [&'static str],
    /// The type, if it is not f32.
    pub element: ElementType,
}

impl StoredShader {
    fn stem(&self) -> String {
        format!("{}{}", self.shader.stem, self.element.suffix())
    }

    /// Name and text with the buffers in 16 bits.
    pub fn source(&self) -> (String, String) {
        (self.stem(), text(self.shader.source, self.buffers, self.element))
    }

    /// Dispatch an entry point, the buffers being of this type.
    pub fn run<U: Uniform>(
        &self,
        wgsl: &mut Dispatcher<'_>,
        element: ElementType,
        entry: &str,
        constants: &[(&str, f64)],
        (params, extent): (U, Extent),
    ) -> anyhow::Result<()> {
        if element == ElementType::F32 {
            return wgsl.run(&self.shader, entry, constants, params, extent);
        }
        assert_eq!(element, self.element, "{}.{entry}: there is no such kernel", self.shader.stem);
        let text = text(&self.shader.text()?, self.buffers, element);
        let kernel = wgsl.gpu().kernel_from_text(&self.stem(), &text, entry, constants)?;
        wgsl.dispatch(&kernel, params, extent, 1.0)
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[
    Check { name: "matmul (bfloat16 weights)", run: check_products },
    Check { name: "matmul (bfloat16 weights, large vocabularies)", run: check_head },
    Check { name: "embedding (bfloat16)", run: check_embedding },
];

/// A weight whose numbers are bfloat16, stored as f32 and as bfloat16.
struct Weight {
    numbers: Vec<f32>,
    stored: [Tensor; 2],
}

impl Weight {
    fn draw(device: &Device, case: &mut Case, rows: usize, cols: usize) -> Self {
        let numbers: Vec<f32> = case.normals(rows * cols, 1.0).into_iter().map(|x| Bf16::from_f32(x).to_f32()).collect();
        let stored = [ElementType::F32, ElementType::Bf16].map(|element| {
            let tensor = Tensor::of_type(device, "check", "weight", &[rows, cols], element);
            device.write_numbers(&tensor, &numbers);
            tensor
        });
        Self { numbers, stored }
    }

    /// Record an op once with each; its results must have equal bits. Returns the second one; `start` is the initial content of the result.
    fn same(
        &self,
        device: &Device,
        case: &mut Case,
        (shape, start): (&[usize], Option<&[f32]>),
        record: impl Fn(&mut Recorder<'_>, &Tensor, &Tensor),
    ) -> anyhow::Result<Tensor> {
        let (mut results, mut all) = (Vec::new(), Vec::new());
        for weight in &self.stored {
            let out = match start {
                Some(values) => case.upload(device, "out", shape, values),
                None => case.poisoned(device, "out", shape),
            };
            case.replay(device, |r| record(r, weight, &out))?;
            results.push(device.read::<u32>(&out)?);
            all.push(out);
        }
        if let Some(at) = results[0].iter().zip(&results[1]).position(|(a, b)| a != b) {
            let [a, b] = [&results[0], &results[1]].map(|bits| f32::from_bits(bits[at]));
            case.worst = f64::INFINITY;
            case.detail = format!("out[{at}] = {a:e} of a weight in f32, but {b:e} of the same in bfloat16");
        }
        Ok(all.swap_remove(1))
    }
}

fn forward(r: &mut Recorder<'_>, tile: Option<RegisterTile>, [x, w, y]: [&Tensor; 3], extra: Extra<'_>) {
    match tile {
        Some(tile) => matmul::forward_by(r, tile, x, w, y, extra),
        None => matmul::forward(r, x, w, y, extra),
    }
}

fn backward_input(r: &mut Recorder<'_>, tile: Option<RegisterTile>, [dy, w, dx]: [&Tensor; 3], accumulate: bool) {
    match tile {
        Some(tile) => matmul::backward_input_by(r, tile, dy, w, dx, accumulate),
        None => matmul::backward_input(r, dy, w, dx, accumulate),
    }
}

/// Rows as in decoding, as in short prompts, and as in training.
fn check_products(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let rows = match case.int(0, 2) {
        0 => case.int(1, 8),
        1 => case.int(9, 64),
        _ => case.int(65, 220),
    };
    let (n, k) = match case.int(0, 3) {
        0 => (case.int(1, 140), case.int(1, 90)),
        1 => (case.int(1, 140), 4 * case.int(1, 40)),
        2 => (4 * case.int(1, 30), 4 * case.int(64, 150)),
        _ => (4 * case.int(1, 40), 4 * case.int(1, 40)),
    };
    let tiles = device.gpu().map_or_else(Vec::new, matmul::tiles);
    let tile = Some(case.int(0, tiles.len())).and_then(|i| tiles.get(i).copied());
    case.shape = format!("{}, {rows} rows, {n} from {k}", tile.map_or("chosen".into(), RegisterTile::name));
    let weight = Weight::draw(device, case, n, k);
    let (x, dy, bias) = (case.normals(rows * k, 1.0), case.normals(rows * n, 1.0), case.normals(n, 1.0));
    let (tx, tdy) = (case.upload(device, "x", &[rows, k], &x), case.upload(device, "dy", &[rows, n], &dy));
    let tbias = case.upload(device, "bias", &[n], &bias);
    let sums = twin::forward(&wide(&x), &wide(&weight.numbers), n, k);
    let plus = |sums: &[f64], added: &dyn Fn(usize) -> f32| -> Vec<f64> {
        sums.iter().enumerate().map(|(i, sum)| sum + f64::from(added(i))).collect()
    };
    for extra in [Extra::None, Extra::Bias(&tbias), Extra::Residual(&tdy)] {
        let y = weight.same(device, case, (&[rows, n], None), |r, w, y| forward(r, tile, [&tx, w, y], extra))?;
        let want = match extra {
            Extra::None => sums.clone(),
            Extra::Bias(_) => plus(&sums, &|i| bias[i % n]),
            Extra::Residual(_) => plus(&sums, &|i| dy[i]),
        };
        case.compare(device, &y, &want)?;
    }
    let sums = twin::backward_input(&wide(&dy), &wide(&weight.numbers), n, k);
    for start in [None, Some(&x[..])] {
        let add = start.is_some();
        let dx = weight.same(device, case, (&[rows, k], start), |r, w, dx| backward_input(r, tile, [&tdy, w, dx], add))?;
        case.compare(device, &dx, &if add { plus(&sums, &|i| x[i]) } else { sums.clone() })?;
    }
    Ok(())
}

/// The language-model head, at once and in parts.
fn check_head(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, vocab, k) = (case.int(1, 9), case.pick(&LARGE_VOCABULARIES), 4 * case.int(1, 3));
    let most_bytes = case.pick(&[1 << 18, 1 << 30]);
    case.shape = format!("{rows} rows, {vocab} from {k}, at most {most_bytes} bytes");
    let weight = Weight::draw(device, case, vocab, k);
    let (x, dy) = (case.normals(rows * k, 1.0), case.normals(rows * vocab, 1.0));
    let (tx, tdy) = (case.upload(device, "x", &[rows, k], &x), case.upload(device, "dy", &[rows, vocab], &dy));
    let parts = |w: &Tensor| w.row_parts(most_bytes);
    let y = weight.same(device, case, (&[rows, vocab], None), |r, w, y| {
        parts(w).iter().for_each(|(first, w)| matmul::forward(r, &tx, w, &y.columns_from(*first), Extra::None));
    })?;
    case.compare(device, &y, &twin::forward(&wide(&x), &wide(&weight.numbers), vocab, k))?;
    let dx = weight.same(device, case, (&[rows, k], None), |r, w, dx| {
        for (first, w) in parts(w) {
            matmul::backward_input(r, &tdy.columns_from(first), &w, dx, first > 0);
        }
    })?;
    case.compare(device, &dx, &twin::backward_input(&wide(&dy), &wide(&weight.numbers), vocab, k))
}

fn check_embedding(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, cols, vocab) = (case.int(1, 300), 4 * case.int(1, 40), case.int(1, 50));
    case.shape = format!("{rows} rows of {cols}, vocabulary {vocab}");
    let tokens: Vec<u32> = (0..rows).map(|_| case.int(0, vocab - 1) as u32).collect();
    let weight = Weight::draw(device, case, vocab, cols);
    let t = case.upload_u32(device, "tokens", &tokens);
    let y = weight.same(device, case, (&[rows, cols], None), |r, w, y| embedding::forward(r, &t, w, y))?;
    case.compare(device, &y, &embedding::twin::forward(&tokens, &wide(&weight.numbers), cols))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::levels;

    /// On every instruction set, and on the device of `LEHR_ADAPTER` with the kernels of both classes.
    #[test]
    fn sixteen_bits_give_the_same_bits() -> anyhow::Result<()> {
        let mut devices = Vec::new();
        for level in levels() {
            devices.push(Device::cpu_with_level(level, 2)?);
        }
        let named = || Device::open_named(None);
        if named()?.gpu().is_some() {
            let mut other = named()?;
            other.switch_gpu_class();
            devices.extend([named()?, other]);
        }
        for device in &devices {
            let few = device.gpu().is_some();
            for (check, cases) in CHECKS.iter().zip(if few { [12, 2, 3] } else { [60, 4, 10] }) {
                for seed in 0..cases {
                    let mut case = Case::new(check.name, seed);
                    (check.run)(device, &mut case)?;
                    let device = device.summary().title();
                    assert!(case.worst <= 1.0, "{device}, {}: {}: {}", check.name, case.shape, case.detail);
                }
            }
        }
        Ok(())
    }

    /// A tensor of an odd number of elements, and tensors of both types in one arena.
    #[test]
    fn numbers_are_stored_where_their_layout_says() -> anyhow::Result<()> {
        use crate::device::{Arena, ArenaLayout};
        let device = Device::open_named(None)?;
        let shapes = [vec![3, 5], vec![7], vec![9, 11], vec![300, 8], vec![5]];
        let matrices = |shape: &[usize]| if shape.len() > 1 { ElementType::Bf16 } else { ElementType::F32 };
        // The largest matrix is larger than a binding.
        let most = 4 * 8 * 128;
        let layout = ArenaLayout::with_types(&shapes, most, matrices);
        let padded = |i: usize| shapes[i].iter().product::<usize>().next_multiple_of(matrices(&shapes[i]).align());
        assert_eq!(layout.bytes(), (4 * (padded(1) + padded(4)) + 2 * (padded(0) + padded(2) + padded(3))) as u64);
        let arena = Arena::new(&device, "values", layout.into());
        assert_eq!(device.ledger().entries()["values"], 2 * 256 + 2 * (128 + 128 + 2432));
        let tensor = |i: usize| arena.tensor(i, "t");
        for (i, shape) in shapes.iter().enumerate() {
            let n = shape.iter().product::<usize>();
            device.write_numbers(&tensor(i), &(0..n).map(|j| (i + 1) as f32 * 0.5 + (j % 100) as f32).collect::<Vec<_>>());
        }
        for (i, shape) in shapes.iter().enumerate() {
            let n = shape.iter().product::<usize>();
            let want: Vec<f32> = (0..n).map(|j| (i + 1) as f32 * 0.5 + (j % 100) as f32).collect();
            let want: Vec<f32> = match matrices(shape) {
                ElementType::Bf16 => want.into_iter().map(|x| Bf16::from_f32(x).to_f32()).collect(),
                _ => want,
            };
            assert_eq!(device.read_numbers(&tensor(i))?, want, "{shape:?}");
        }
        let parts = tensor(3).row_parts(most);
        assert_eq!(parts.iter().map(|(first, _)| *first).collect::<Vec<_>>(), [0, 128, 256]);
        for (first, part) in parts {
            assert_eq!(device.read_numbers(&part)?, device.read_numbers(&tensor(3))?[first * 8..][..part.len()]);
        }
        Ok(())
    }

    #[test]
    #[should_panic(expected = "is stored as Bf16")]
    fn words_of_two_numbers_are_not_read_as_one() {
        let device = Device::open_named(Some("cpu")).unwrap();
        let _ = device.read::<f32>(&Tensor::of_type(&device, "test", "t", &[4], ElementType::Bf16));
    }
}
