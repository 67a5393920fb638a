//! What a driver gets wrong silently, found out before it is trusted.          shaders/self_test.wgsl

use crate::gpu::{Cost, Gpu, Recording, Shader, Tensor};
use crate::{bind, shader, uniform};

const SHADER: Shader = shader!("self_test");
/// More than the 65,535 turns after which Mesa's lavapipe gave up loops until some version after 22.3.6.
const TURNS: u32 = 70_000;

uniform! { struct Dims { turns: u32 } }

/// One line that names the fault and its cure, or nothing when long loops run to their end.
///
/// # Errors
/// A device fault.
pub fn long_loops(gpu: &Gpu) -> anyhow::Result<Option<String>> {
    let count = Tensor::new(gpu, "self test", "count", &[1]);
    let mut r = Recording::new("self test");
    r.run(gpu, &SHADER, "long_loop", &[], Dims { turns: TURNS }, bind!(count), [1, 1, 1], Cost::default());
    let r = r.finish(gpu)?;
    gpu.replay(&r)?;
    let done = gpu.read::<u32>(&count)?[0];
    Ok((done != TURNS).then(|| {
        format!(
            "{}: this driver silently ends loops after {done} turns; lehr's kernels stay below that, so results are right; \
             a newer Mesa does not (on Debian 12: apt-get install -t bookworm-backports mesa-vulkan-drivers)",
            gpu.summary().driver
        )
    }))
}
