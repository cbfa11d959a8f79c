//! The order in which the rows of a dataset are given: a pure function of its shards, the seed and the epoch.
//!
//! Three shuffles, from large to small, so that memory and open files stay bounded however large the dataset is:
//!
//! 1. the shards of the dataset, then cut into groups of [`Shuffle::shards`];
//! 2. the 64-row blocks of a group's shards, then cut into windows of [`Shuffle::blocks`];
//! 3. the rows of a window.
//!
//! A remote dataset thus needs a group of shards at hand, not all of them, and a reader holds one window of blocks. The
//! cost: two rows of the same group are more likely to meet than in a full shuffle. With as many shards as a group
//! has, or fewer, blocks are shuffled over the whole dataset.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use schemas::shard::BATCH_ROWS;

/// How far rows are shuffled. Part of the order, so a run that continues must have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shuffle {
    /// Shards in a group.
    pub shards: usize,
    /// Blocks of 64 rows in a window.
    pub blocks: usize,
}

/// Where a row lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    /// Index of the shard among the shards that are read.
    pub(super) shard: u32,
    /// Block of the shard: one of its record batches.
    pub(super) block: u32,
    /// Row of the block.
    pub(super) row: u32,
}

/// The order of one dataset.
#[derive(Clone, Debug)]
pub(super) struct Order {
    shard_rows: Vec<u64>,
    rows: u64,
    seed: u64,
    dataset: u64,
    shuffle: Shuffle,
}

impl Order {
    /// `dataset` is the place of the dataset in the config: the same dataset given twice has two orders.
    pub(super) fn new(shard_rows: Vec<u64>, seed: u64, dataset: usize, shuffle: Shuffle) -> Self {
        let rows = shard_rows.iter().sum();
        let shuffle = Shuffle { shards: shuffle.shards.max(1), blocks: shuffle.blocks.max(1) };
        Self { shard_rows, rows, seed, dataset: dataset as u64, shuffle }
    }

    /// Rows of an epoch.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The groups of shards of an epoch, in order.
    pub(super) fn groups(&self, epoch: u64) -> Vec<Vec<u32>> {
        let mut shards: Vec<u32> = (0..self.shard_rows.len() as u32).collect();
        self.generator(epoch, "shards", 0).shuffle(&mut shards);
        shards.chunks(self.shuffle.shards).map(<[u32]>::to_vec).collect()
    }

    /// The addresses from row `row` of epoch `epoch` on, epoch after epoch, without end. `row` may be any row of the
    /// epoch.
    pub(super) fn from(&self, epoch: u64, row: u64) -> Addresses {
        let mut addresses = Addresses {
            order: self.clone(),
            epoch,
            groups: self.groups(epoch).into_iter().enumerate().collect(),
            group: 0,
            group_shards: Vec::new(),
            blocks: VecDeque::new(),
            window: 0,
            rows: VecDeque::new(),
        };
        addresses.skip_to(row);
        addresses
    }

    fn blocks(&self, epoch: u64, group: usize, shards: &[u32]) -> VecDeque<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        for &shard in shards {
            let rows = self.shard_rows[shard as usize];
            for index in 0..rows.div_ceil(BATCH_ROWS as u64) {
                let rows = (rows - index * BATCH_ROWS as u64).min(BATCH_ROWS as u64);
                blocks.push(Block { shard, index: index as u32, rows: rows as u32 });
            }
        }
        self.generator(epoch, "blocks", group as u64).shuffle(&mut blocks);
        blocks.into()
    }

    fn generator(&self, epoch: u64, level: &str, index: u64) -> Generator {
        let mut hasher = blake3::Hasher::new();
        for number in [self.seed, self.dataset, epoch, index] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(level.as_bytes());
        Generator(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }
}

#[derive(Clone, Copy, Debug)]
struct Block {
    shard: u32,
    index: u32,
    rows: u32,
}

struct Generator(ChaCha8Rng);

impl Generator {
    /// Fisher and Yates. The multiplication favours low indexes by less than `n / 2^64`.
    fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            let other = (u128::from(self.0.next_u64()) * (last as u128 + 1)) >> 64;
            values.swap(last, other as usize);
        }
    }
}

/// An endless iterator of addresses.
#[derive(Debug)]
pub(super) struct Addresses {
    order: Order,
    epoch: u64,
    /// Groups of the epoch that are still to come.
    groups: VecDeque<(usize, Vec<u32>)>,
    group: usize,
    group_shards: Vec<u32>,
    /// Blocks of the group that are still to come.
    blocks: VecDeque<Block>,
    window: u64,
    /// Rows of the window that are still to come.
    rows: VecDeque<Address>,
}

impl Addresses {
    /// The shards of the group that the next row comes from, and those of the group behind it.
    pub(super) fn shards_ahead(&self) -> Vec<u32> {
        let next = match self.groups.front() {
            Some((_, shards)) => shards.clone(),
            None => self.order.groups(self.epoch + 1).into_iter().next().unwrap_or_default(),
        };
        self.group_shards.iter().copied().chain(next).collect()
    }

    /// Identifies the group that the last row came from.
    pub(super) fn group(&self) -> (u64, usize) {
        (self.epoch, self.group)
    }

    fn skip_to(&mut self, row: u64) {
        let mut left = row;
        while let Some((_, shards)) = self.groups.front() {
            let rows: u64 = shards.iter().map(|&shard| self.order.shard_rows[shard as usize]).sum();
            if left < rows {
                break;
            }
            left -= rows;
            self.groups.pop_front();
        }
        for _ in 0..left {
            self.next();
        }
        if left == 0 {
            self.fill();
        }
    }

    /// Makes sure that a row is ready.
    fn fill(&mut self) {
        while self.rows.is_empty() {
            if self.blocks.is_empty() {
                self.next_group();
            }
            self.next_window();
        }
    }

    fn next_group(&mut self) {
        while self.groups.is_empty() {
            self.epoch += 1;
            self.groups = self.order.groups(self.epoch).into_iter().enumerate().collect();
        }
        if let Some((group, shards)) = self.groups.pop_front() {
            self.blocks = self.order.blocks(self.epoch, group, &shards);
            (self.group, self.group_shards, self.window) = (group, shards, 0);
        }
    }

    fn next_window(&mut self) {
        let count = self.order.shuffle.blocks.min(self.blocks.len());
        let addresses = |block: Block| {
            (0..block.rows).map(move |row| Address { shard: block.shard, block: block.index, row })
        };
        let mut rows: Vec<Address> = self.blocks.drain(..count).flat_map(addresses).collect();
        let index = ((self.group as u64) << 32) | self.window;
        self.order.generator(self.epoch, "rows", index).shuffle(&mut rows);
        self.window += 1;
        self.rows = rows.into();
    }
}

impl Iterator for Addresses {
    type Item = Address;

    /// Always `Some`, as long as the dataset has a row.
    fn next(&mut self) -> Option<Address> {
        self.fill();
        self.rows.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SMALL: Shuffle = Shuffle { shards: 2, blocks: 3 };

    fn order(rows: &[u64], shuffle: Shuffle) -> Order {
        Order::new(rows.to_vec(), 7, 0, shuffle)
    }

    #[test]
    fn neighbours_are_torn_apart_and_epochs_differ() {
        let order = order(&[300, 300], Shuffle { shards: 8, blocks: 16 });
        let first: Vec<_> = order.from(0, 0).take(600).collect();
        let kept =
            first.windows(2).filter(|pair| pair[0].row + 1 == pair[1].row && pair[0].block == pair[1].block);
        // One pair in about 640 follows its neighbour by chance.
        assert!(kept.count() < 12);
        assert_ne!(first, order.from(1, 0).take(600).collect::<Vec<_>>());
    }

    #[test]
    fn seed_and_place_of_the_dataset_change_the_order() {
        let rows = |seed, dataset| {
            Order::new(vec![200], seed, dataset, SMALL).from(0, 0).take(200).collect::<Vec<_>>()
        };
        assert_eq!(rows(1, 0), rows(1, 0));
        assert_ne!(rows(1, 0), rows(2, 0));
        assert_ne!(rows(1, 0), rows(1, 1));
    }

    proptest! {
        #[test]
        fn each_epoch_has_every_row_once_and_any_row_can_be_sought(
            rows in prop::collection::vec(1u64..200, 1..7), shards in 1usize..4, blocks in 1usize..5, at in 0.0..1.0f64,
        ) {
            let order = order(&rows, Shuffle { shards, blocks });
            let total = order.rows() as usize;
            let all: Vec<_> = order.from(0, 0).take(3 * total).collect();
            for epoch in all.chunks(total) {
                prop_assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), total);
            }
            let k = (at * total as f64) as usize;
            prop_assert_eq!(&order.from(1, k as u64).take(total).collect::<Vec<_>>(), &all[total + k..2 * total + k]);
        }

        #[test]
        fn shards_ahead_hold_the_next_row(rows in prop::collection::vec(1u64..150, 1..9), skip in 0u64..500) {
            let order = order(&rows, SMALL);
            let mut addresses = order.from(0, 0);
            for _ in 0..skip {
                addresses.next();
            }
            let ahead = addresses.shards_ahead();
            prop_assert!(ahead.len() <= 2 * SMALL.shards);
            prop_assert!(ahead.contains(&addresses.next().unwrap().shard));
        }
    }
}
