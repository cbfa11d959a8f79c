//! Inner loops that the compiler turns into vector instructions, for the processor that is there.
//!
//! The program is compiled for any x86-64, which means four floats at a time. [`vectorized!`] compiles a function a second time for
//! AVX2 and FMA and picks when it is called; the constant `FUSED` says in the body which of the two it is.
//! The only unsafe code is the call of that second version.

/// Defines a function that is compiled for the processor at hand. Its body may use the constant `FUSED` (multiply and
/// add are one instruction) and call `#[inline(always)]` functions.
macro_rules! vectorized {
    (
        $(#[$meta:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable<const FUSED: bool>($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn fast($($argument: $type),*) $(-> $result)? {
                portable::<true>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                #[allow(unsafe_code)]
                // SAFETY: the processor has both features.
                return unsafe { fast($($argument),*) };
            }
            portable::<{ cfg!(target_arch = "aarch64") }>($($argument),*)
        }
    };
}
pub(crate) use vectorized;

/// Floats worked on side by side in the loops of the kernels: two registers of AVX2.
pub(crate) const LANES: usize = 16;

/// `a * b + c`, rounded once where the processor does that in one instruction.
#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` to 2 units in the last place between -87.3 and 88.3; below 0, above that the value there. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.3;
    /// 1.5 * 2^23: adding it leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let bounded = if x < LOWEST { LOWEST } else { x };
    let bounded = if bounded > HIGHEST { HIGHEST } else { bounded };
    let shifted = multiply_add::<FUSED>(bounded, std::f32::consts::LOG2_E, ROUND);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    let whole = shifted - ROUND;
    // ln 2 in two parts; the first has few bits, so that its product with a whole number is exact.
    let rest = multiply_add::<FUSED>(whole, -0.693_359_4, bounded);
    let rest = multiply_add::<FUSED>(whole, 2.121_944_4e-4, rest);
    // Cephes' polynomial for the remainder in -ln 2 / 2 .. ln 2 / 2.
    let mut sum = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        sum = multiply_add::<FUSED>(sum, rest, coefficient);
    }
    let result = (multiply_add::<FUSED>(sum, rest * rest, rest) + 1.0) * power;
    if x < LOWEST { 0.0 } else { result }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FUSED>(-x))
}

/// The sum of `a[i] * b[i]`, in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn dot<const FUSED: bool>(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] = multiply_add::<FUSED>(a[lane], b[lane], lanes[lane]);
        }
    }
    let mut sum = 0.0;
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        sum = multiply_add::<FUSED>(a, b, sum);
    }
    sum + sum_lanes(lanes)
}

/// The sum of the lanes, halved at each step.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    vectorized! {
        fn exp_all(values: &mut [f32]) {
            for value in values {
                *value = exp::<FUSED>(*value);
            }
        }
    }

    #[test]
    fn exp_is_as_good_as_the_standard_library() {
        let inputs: Vec<f32> = (-8730..8830).map(|i| i as f32 * 0.01).collect();
        let mut outputs = inputs.clone();
        exp_all(&mut outputs);
        for (x, y) in inputs.iter().zip(&outputs) {
            let exact = f64::from(*x).exp();
            // Two units in the last place of an f32.
            assert!((f64::from(*y) / exact - 1.0).abs() < 2.4e-7, "exp({x}) = {y}, not {exact}");
        }
    }

    #[test]
    fn exp_of_what_lies_outside() {
        let mut values = [f32::NEG_INFINITY, -1e30, -88.0, 0.0, f32::NAN];
        exp_all(&mut values);
        assert_eq!(values[..4], [0.0, 0.0, 0.0, 1.0]);
        assert!(values[4].is_nan());
    }
}
