//! The WGSL texts that generators make, for the gates (`tests/shaders`) and for reading.

/// (stem, WGSL) of every text that no file in `shaders/` holds. Stems are unique; `#import` lines are not resolved yet.
pub fn generated() -> Vec<(String, String)> {
    [super::matmul::sources(), super::attention::sources()].concat()
}
