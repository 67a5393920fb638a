//! lehr
fn main() {}
