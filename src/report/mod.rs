//! Floor 7: one HTML file that shows runs to people who have no lehr.

/// A picture as PNG, this many times as large as it says.
///
/// # Errors
/// It is no SVG.
pub fn png(_svg: &str, _scale: f32) -> anyhow::Result<Vec<u8>> {
    anyhow::bail!("no pictures yet")
}
