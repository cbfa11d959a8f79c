//! The hash that every per-row choice is drawn from, so that a choice depends on the row and never on who met it
//! first.

/// First 8 bytes (little endian) of BLAKE3 over seed, source name, path below the source's fixed prefix, row and
/// purpose, each behind its length.
///
/// `purpose` separates independent draws of one row: `"order"`, `"split"`, `"repeat"`, `"caption"`.
pub fn row_hash(seed: u64, source: &str, path: &str, row: u64, purpose: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for part in [source.as_bytes(), path.as_bytes(), &row.to_le_bytes(), purpose.as_bytes()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Maps a hash to `[0, 1)`, 53 bits of it: `share(hash) < 0.8` holds for 80 % of the rows.
pub fn share(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

/// BLAKE3 of `bytes` as 64 hexadecimal digits: the checksum and fingerprint of this format.
pub fn content_hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(row_hash(0, "ab", "c", 0, "order"), row_hash(0, "a", "bc", 0, "order"));
        assert_ne!(row_hash(0, "a", "b", 0, "order"), row_hash(1, "a", "b", 0, "order"));
        assert_ne!(row_hash(0, "a", "b", 0, "order"), row_hash(0, "a", "b", 0, "split"));
    }

    #[test]
    fn shares_are_uniform_enough() {
        let below = (0..100_000).filter(|&row| share(row_hash(7, "s", "f", row, "order")) < 0.8).count();
        // Standard deviation 0.13 %; five of them.
        assert!((below as f64 / 1e5 - 0.8).abs() < 0.0064, "{below}");
    }
}
