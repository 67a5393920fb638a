// Counts submissions: the last dispatch of each adds one, which reveals submissions that were lost without an error.
@group(0) @binding(0) var<storage, read_write> count: array<u32>;

@compute @workgroup_size(1)
fn tick() {
    count[0] = count[0] + 1u;
}
