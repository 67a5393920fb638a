//! The compute core of lehr: recordings of ops, which a GPU or the CPU computes.
//!
//! [`device`] has the two kinds of device with their memory, recordings and read-backs; [`ops`] has one file per shader: record functions, the
//! native function, the f64 reference implementation (twin) and the check. [`rng`] has counter-based random numbers, the same in shaders.

pub mod device;
pub mod ops;
pub mod rng;
