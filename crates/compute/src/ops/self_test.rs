//! Detection of silent driver bugs.          shaders/self_test.wgsl

use crate::device::{Cost, Device, Extent, Gpu, Op, Recorder, Shader, Tensor};
use crate::{bind, shader, uniform};

const SHADER: Shader = shader!("self_test");
/// More than 65,535, the limit on loop iterations of Mesa's lavapipe up to some version after 22.3.6.
const TURNS: u32 = 70_000;

uniform! { struct Dims { turns: u32 } }

/// One line on the limit of this driver's loops, or `None` when long loops complete.
///
/// # Errors
/// When kernels may exceed the limit ([`Gpu::max_iterations`]), and a device fault.
pub fn long_loops(device: &Device) -> anyhow::Result<Option<String>> {
    let count = Tensor::new(device, "self test", "count", &[1]);
    let mut r = Recorder::new(device, "self test");
    r.op(
        Op { name: "self_test.long_loop", cost: Cost::default(), reads: [], writes: bind!(count) },
        // Its iterations are left unstated: whether the device executes them all is the question.
        |wgsl| wgsl.run(&SHADER, "long_loop", &[], Dims { turns: TURNS }, Extent::without_loops([1, 1, 1])),
        |_, [], [count]| count[0] = f32::from_bits((0..TURNS).map(|_| 1).sum()),
    );
    let r = r.finish()?;
    device.replay(&r)?;
    let done = device.read::<u32>(&count)?[0] as usize;
    let driver = &device.summary().driver;
    let needed = device.gpu().map_or(0, Gpu::max_iterations).min(TURNS as usize);
    anyhow::ensure!(
        done >= needed,
        "{driver}: this driver ends loops after {done} iterations without an error, and lehr's kernels need {needed}: results would be \
         wrong; use --adapter cpu, or another driver"
    );
    Ok((done < TURNS as usize).then(|| {
        format!(
            "{driver}: this driver ends loops after {done} iterations without an error; lehr's kernels are split or refused above \
             {needed}"
        )
    }))
}
