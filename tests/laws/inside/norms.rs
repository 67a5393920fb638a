//! Norms against sums in f64 over tensors that were read back, and that measuring them changes nothing.

use crate::inside::{FAMILIES, device, shape, trainer};
use lehr::device::{Arena, Device};
use lehr::event::{Event, Norms};
use lehr::model::Parameters;
use lehr::progress::silent;
use lehr::rng::Rng;
use lehr::train::{PartNorms, StepResult, Trainer};
use std::collections::BTreeMap;

/// Norm of each part, selected by tensor names.
fn plain(device: &Device, parameters: &Parameters, arena: &Arena) -> BTreeMap<String, f64> {
    let mut squares: BTreeMap<String, f64> = BTreeMap::new();
    for (spec, tensor) in parameters.tensors(arena) {
        let name = &spec.parts[0].0;
        let part = match name.split('.').collect::<Vec<_>>()[..] {
            ["lm_head", ..] => "head".to_owned(),
            [_, "embed_tokens", ..] => "embed".to_owned(),
            [_, "norm", ..] => "norm".to_owned(),
            [_, "layers", layer, ..] => format!("layers.{layer}"),
            _ => panic!("{name}"),
        };
        let values: Vec<f32> = device.read(&tensor).unwrap();
        *squares.entry(part).or_default() += values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    }
    squares.into_iter().map(|(part, square)| (part, square.sqrt())).collect()
}

fn assert_norms(found: &Norms, weights: &BTreeMap<String, f64>, gradients: &BTreeMap<String, f64>, what: &str) {
    assert_eq!((found.parts.len(), found.weights.len(), found.gradients.len()), (weights.len(), weights.len(), weights.len()));
    for (i, part) in found.parts.iter().enumerate() {
        for (got, want) in [(found.weights[i].0, weights[part]), (found.gradients[i].0, gradients[part])] {
            assert!((got / want - 1.0).abs() < 1e-5, "{what}, {part}: {got}, not {want}");
        }
    }
}

fn norms(result: &StepResult) -> Vec<&Norms> {
    result.events.iter().filter_map(|event| if let Event::Norms(norms) = event { Some(norms) } else { None }).collect()
}

/// One update, all of its numbers.
fn step(p: &mut Trainer) -> StepResult {
    assert!(p.step().unwrap().is_none(), "no step was pending");
    p.flush().unwrap().remove(0)
}

#[test]
fn part_norms_match_the_tensors() {
    for family in FAMILIES {
        let mut p = trainer(&shape(family), 3);
        let mut reported = Vec::new();
        for n in 1..=7 {
            let weights = plain(&p.device, &p.model.parameters, &p.model.values);
            let result = step(&mut p);
            for found in norms(&result) {
                assert_eq!(found.step, n);
                let gradients = plain(&p.device, &p.model.parameters, &p.optimizer.grads);
                assert_norms(found, &weights, &gradients, &format!("{family:?}"));
                let whole = found.gradients.iter().map(|g| g.0 * g.0).sum::<f64>().sqrt();
                assert!((whole / result.grad_norm - 1.0).abs() < 1e-5, "{family:?}: {whole}, not {}", result.grad_norm);
                reported.push(n);
            }
        }
        assert_eq!(reported, [1, 3, 6], "the first and every third");
    }
}

/// As they arrive, during the next update, and never twice.
#[test]
fn norms_belong_to_their_update() {
    let mut p = trainer(&shape(FAMILIES[0]), 2);
    let mut results = Vec::new();
    for _ in 0..9 {
        results.extend(p.step().unwrap());
    }
    results.extend(p.flush().unwrap());
    let reported: Vec<(u64, Vec<u64>)> = results.iter().map(|r| (r.step, norms(r).iter().map(|n| n.step).collect())).collect();
    let want: Vec<(u64, Vec<u64>)> = (1..=9).map(|n| (n, if n == 1 || n % 2 == 0 { vec![n] } else { vec![] })).collect();
    assert_eq!(reported, want);
}

#[test]
fn measuring_changes_no_bit() {
    let run = |every: u64| {
        let mut p = trainer(&shape(FAMILIES[2]), every);
        let mut results = Vec::new();
        for n in 0..12 {
            results.extend(p.step().unwrap());
            if n == 5 {
                results.extend(p.flush().unwrap());
                p.evaluate(0, &mut silent).unwrap();
            }
        }
        results.extend(p.flush().unwrap());
        let reported = results.iter().map(|r| norms(r).len()).sum::<usize>();
        let numbers: Vec<_> =
            results.iter().map(|r| (r.step, r.loss.to_bits(), r.grad_norm.to_bits(), r.entropy.to_bits())).collect();
        let arenas = [&p.model.values, &p.optimizer.m, &p.optimizer.v];
        let bits = arenas.map(|arena| arena.segments().flat_map(|(t, _)| p.device.read::<u32>(t).unwrap()).collect::<Vec<_>>());
        (reported, numbers, bits)
    };
    let (never, always) = (run(0), run(1));
    assert_eq!((never.0, always.0), (0, 12));
    assert!(never.1 == always.1, "the numbers of the updates");
    assert!(never.2 == always.2, "weights and moments");
}

/// Parts in several buffers, kernels of both classes, and NaN.
#[test]
fn norms_of_parts_across_segments() {
    let mut other = device();
    other.switch_gpu_class();
    for device in [device(), other] {
        for family in FAMILIES {
            let p = Parameters::new(&shape(family), 20_000).unwrap();
            let [values, grads] = ["values", "grads"].map(|role| p.arena(&device, role));
            assert!(values.segments().count() > 3);
            let rng = Rng::new(3, "norms");
            for (a, arena) in [&values, &grads].into_iter().enumerate() {
                for (i, (spec, tensor)) in p.tensors(arena).enumerate() {
                    let scale = [1.0, 1e-3][a] * (1.0 + i as f64);
                    let draw = |k: usize| (scale * rng.normal_pair((100 * a + i) as u64, k as u64)[0]) as f32;
                    device.write(&tensor, &(0..spec.len()).map(draw).collect::<Vec<_>>());
                }
            }
            let measured = PartNorms::new(&device, &p, &values, &grads, 10).unwrap();
            let read = || {
                measured.measure_before(&device).unwrap();
                measured.measure_after(&device).unwrap();
                measured.read(&device, 4).unwrap()
            };
            let found = read();
            assert_norms(&found, &plain(&device, &p, &values), &plain(&device, &p, &grads), &format!("{family:?}"));
            // A gradient that is not finite shows where it is.
            let (spec, bad) = p.tensors(&grads).find(|(spec, _)| spec.parts[0].0.contains("layers.1.mlp.gate")).unwrap();
            let mut numbers: Vec<f32> = device.read(&bad).unwrap();
            numbers[spec.len() - 1] = f32::INFINITY;
            device.write(&bad, &numbers);
            let torn = read();
            assert_eq!(torn.weights, found.weights);
            for (i, part) in torn.parts.iter().enumerate() {
                let (now, before) = (torn.gradients[i].0, found.gradients[i].0);
                assert!(if part == "layers.1" { now.is_nan() } else { now == before }, "{part}: {now}");
            }
        }
    }
}
