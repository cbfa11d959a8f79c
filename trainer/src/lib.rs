//! Packed shards to weights, samples and scores, with Burn.
