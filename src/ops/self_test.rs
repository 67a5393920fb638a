//! What a driver gets wrong silently, found out before it is trusted.          shaders/self_test.wgsl

use crate::device::{Cost, Device, Op, Recorder, Shader, Tensor};
use crate::{bind, shader, uniform};

const SHADER: Shader = shader!("self_test");
/// More than the 65,535 turns after which Mesa's lavapipe gave up loops until some version after 22.3.6.
const TURNS: u32 = 70_000;

uniform! { struct Dims { turns: u32 } }

/// One line that names the fault and its cure, or nothing when long loops run to their end.
///
/// # Errors
/// A device fault.
pub fn long_loops(device: &Device) -> anyhow::Result<Option<String>> {
    let count = Tensor::new(device, "self test", "count", &[1]);
    let mut r = Recorder::new(device, "self test");
    r.op(
        Op { name: "self_test.long_loop", cost: Cost::default(), reads: [], writes: bind!(count) },
        |wgsl| wgsl.run(&SHADER, "long_loop", &[], Dims { turns: TURNS }, [1, 1, 1]),
        |_, [], [count]| count[0] = f32::from_bits((0..TURNS).map(|_| 1).sum()),
    );
    let r = r.finish()?;
    device.replay(&r)?;
    let done = device.read::<u32>(&count)?[0];
    Ok((done != TURNS).then(|| {
        format!(
            "{}: this driver silently ends loops after {done} turns; lehr's kernels stay below that, so results are right; \
             a newer Mesa does not (on Debian 12: apt-get install -t bookworm-backports mesa-vulkan-drivers)",
            device.summary().driver
        )
    }))
}
