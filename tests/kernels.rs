//! Every kernel against its f64 twin: random odd shapes, poisoned outputs, both kernel classes, WebGPU's default limits.

use lehr::device::Device;
use lehr::ops::check::Case;

fn run_all(device: &Device, seeds: std::ops::Range<u64>) {
    let only = std::env::var("LEHR_CHECK").ok();
    let mut failures = Vec::new();
    for check in lehr::ops::checks() {
        if only.as_ref().is_some_and(|o| !check.name.contains(o.as_str())) {
            continue;
        }
        for seed in seeds.clone() {
            let mut case = Case::new(check.name, seed);
            let result = (check.run)(device, &mut case);
            if let Err(e) = result {
                failures.push(format!("{} seed {seed} ({}): {e:#}", check.name, case.shape));
            } else if case.worst > 1.0 || case.worst.is_nan() {
                failures
                    .push(format!("{} seed {seed} ({}): {:.1} x allowed, {}", check.name, case.shape, case.worst, case.detail));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn kernels_match_their_twins() {
    let device = Device::named(None).expect("an adapter");
    run_all(&device, 0..12);
}

#[test]
fn the_other_class_of_kernels_matches_too() {
    let mut device = Device::with_default_limits(None).expect("an adapter");
    device.switch_gpu_class();
    run_all(&device, 100..106);
}
