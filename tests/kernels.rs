//! Every kernel against its f64 reference: random odd shapes, poisoned outputs. WGSL in both classes and with WebGPU's default limits; native code
//! with every instruction set of this machine, to the same bits with any number of threads.

use lehr::device::{Device, Kind, cpu};
use lehr::ops::check::Case;

/// Run all checks; returns (check, seed, bits) of each.
fn run_all(device: &Device, seeds: std::ops::Range<u64>) -> Vec<(&'static str, u64, u64)> {
    let only = std::env::var("LEHR_CHECK").ok();
    let (mut failures, mut bits) = (Vec::new(), Vec::new());
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
            bits.push((check.name, seed, case.bits));
        }
    }
    assert!(!bits.is_empty(), "LEHR_CHECK: no check has this in its name; `lehr doctor` lists them");
    assert!(failures.is_empty(), "{}: {} failures:\n{}", device.summary().driver, failures.len(), failures.join("\n"));
    bits
}

#[test]
fn kernels_match_their_references() {
    let device = Device::open_named(None).expect("a device");
    run_all(&device, 0..12);
}

#[test]
fn the_other_class_of_kernels_matches_too() {
    let mut device = Device::with_default_limits(None).expect("a device");
    device.switch_gpu_class();
    if device.kind() != Kind::Cpu {
        run_all(&device, 100..106);
    }
}

/// What ops state of their loops is what refuses kernels that a driver would cut short, so it must not be too little.
#[test]
fn declared_loop_iterations_are_upper_bounds() {
    let mut device = Device::open_named(None).expect("a device");
    device.count_iterations();
    for switched in [false, true] {
        run_all(&device, 300..304);
        let kernels = device.iterations().expect("a valid device");
        assert_eq!(kernels.is_empty(), device.kind() == Kind::Cpu);
        for (kernel, stated, counted) in kernels {
            assert!(counted <= stated, "{kernel}, switched class {switched}: {counted} iterations, {stated} stated");
        }
        device.switch_gpu_class();
    }
}

#[test]
fn every_instruction_set_matches_and_threads_change_no_bit() {
    for level in cpu::levels() {
        let run = |threads| run_all(&Device::cpu_with_level(level, threads).expect("the CPU"), 200..212);
        let one = run(1);
        for threads in [2, 3, 5] {
            assert!(run(threads) == one, "{level:?}: {threads} threads give other bits than one");
        }
    }
}
