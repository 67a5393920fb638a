// Tests whether this driver completes long loops. Mesa 22.3.6's lavapipe silently stops all loops of an invocation after 65,535 iterations
// in total. Deliberately longer than any other kernel may loop.
struct Dims { turns: u32 }

@group(0) @binding(0) var<uniform>             dims:  Dims;
@group(0) @binding(1) var<storage, read_write> count: array<u32>;

@compute @workgroup_size(1)
fn long_loop() {
    var done = 0u;
    for (var i = 0u; i < dims.turns; i++) {
        done = done + 1u + (done & 0x80000000u);
    }
    count[0] = done;
}
