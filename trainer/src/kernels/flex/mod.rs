//! The operations on the CPU backend flex, in f32: a forward and a backward function each, over [`burn_flex::FlexTensor`]s.
//!
//! A forward function gives the output and what its backward function wants to see again; a backward function gets that, the
//! output's gradient, and which inputs want theirs. They know the plain data beside the tensors
//! ([`types`](super::types)) and nothing of Burn's graph, of other backends, or of who calls them.
//!
//! The number of threads changes no bit of a result: each output element is written by one task, and partial sums have fixed
//! sizes and are joined in order. Unsafe code is in two modules: `product` calls the `gemm` crate, and `vector` calls functions
//! compiled for AVX2 where the processor has it.

pub(super) mod attention;
pub(super) mod convolution;
pub(super) mod cross_entropy;
pub(super) mod group_norm;
pub(super) mod linear;
pub(super) mod norm;
mod product;
pub(super) mod rotate;
pub(super) mod rows;
pub(super) mod silu;
pub(super) mod swiglu;
pub(super) mod tensors;
mod tile;
mod vector;
