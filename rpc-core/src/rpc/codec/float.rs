//! Half-precision floats, which CBOR writes when nothing is lost and Rust does not have yet.

const SIGN: u16 = 0x8000;
const INFINITE: u16 = 0x7c00;
/// Mantissa bits that a double has and a half has not.
const BITS_LOST: u32 = 52 - 10;

/// `value` as a half; `None` if a half cannot hold all of it.
pub(super) const fn to_half(value: f64) -> Option<u16> {
    let bits = value.to_bits();
    let sign = (bits >> 48) as u16 & SIGN;
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1_023;
    let mantissa = bits & ((1 << 52) - 1);
    let exact = mantissa.trailing_zeros() >= BITS_LOST;
    let top = (mantissa >> BITS_LOST) as u16;
    match exponent {
        -1_023 if mantissa == 0 => Some(sign),
        // Infinity, and a quiet NaN.
        1_024 if exact && (mantissa == 0 || top & 0x200 != 0) => Some(sign | INFINITE | top),
        -14..=15 if exact => Some(sign | ((exponent + 15) as u16) << 10 | top),
        -24..=-15 => {
            let (whole, shift) = (mantissa | 1 << 52, 28 - exponent);
            if whole.trailing_zeros() >= shift as u32 { Some(sign | (whole >> shift) as u16) } else { None }
        }
        _ => None,
    }
}

/// The value of a half.
pub(super) const fn from_half(half: u16) -> f64 {
    let sign = (half as u64 & SIGN as u64) << 48;
    let (exponent, mantissa) = ((half as u64 >> 10) & 0x1f, half as u64 & 0x3ff);
    f64::from_bits(match exponent {
        0 if mantissa == 0 => sign,
        0 => {
            // The highest bit that is set becomes the one that is not written.
            let shift = mantissa.leading_zeros() as u64 - (63 - 10);
            let rest = (mantissa << shift) & 0x3ff;
            sign | (1_023 - 14 - shift) << 52 | rest << BITS_LOST
        }
        0x1f if mantissa == 0 => sign | 0x7ff << 52,
        0x1f => sign | 0x7ff << 52 | 1 << 51 | mantissa << BITS_LOST,
        _ => sign | (exponent + 1_023 - 15) << 52 | mantissa << BITS_LOST,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_reads_back() {
        for half in 0..=u16::MAX {
            let is_signaling = half & INFINITE == INFINITE && half & 0x3ff != 0 && half & 0x200 == 0;
            let expected = if is_signaling { half | 0x200 } else { half };
            assert_eq!(to_half(from_half(half)), Some(expected), "{half:#06x}");
        }
    }
}
