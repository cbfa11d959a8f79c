//! Raw text and images to packed shards, as a DataFusion plan.
