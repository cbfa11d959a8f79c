//! The threads that read rows ahead. However many there are, rows come out in the one order: reader `r` of `n` reads
//! the chunks `r`, `r + n`, `r + 2 n`, ... and the receiving side asks the readers in turn.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use schemas::Row;
use schemas::shard::ShardIndex;

use super::StreamError;
use super::order::{Address, Order};
use super::shards::Shards;

/// Rows that a reader hands over at once.
const CHUNK_ROWS: usize = 4;

type Chunk = Result<Vec<(Row, Arc<ShardIndex>)>, StreamError>;

/// The receiving side.
#[derive(Debug)]
pub(super) struct Readers {
    uri: String,
    receivers: Vec<Receiver<Chunk>>,
    turn: usize,
    rows: VecDeque<(Row, Arc<ShardIndex>)>,
    ahead: Arc<Ahead>,
}

impl Readers {
    /// Starts `readers` threads at row `row` of epoch `epoch`, which together hold about `prefetch_rows` rows.
    pub(super) fn start(
        shards: Arc<Shards>,
        order: &Order,
        (epoch, row): (u64, u64),
        readers: usize,
        prefetch_rows: usize,
        fetchers: usize,
    ) -> Self {
        let readers = readers.max(1);
        let capacity = prefetch_rows.div_ceil(CHUNK_ROWS * readers).max(1);
        let ahead = Arc::new(Ahead::default());
        let uri = shards.uri().to_owned();
        for _ in 0..fetchers {
            let (shards, ahead) = (shards.clone(), ahead.clone());
            thread::spawn(move || open_ahead(&shards, &ahead));
        }
        let spawn = |reader: usize| {
            let (sender, receiver) = sync_channel(capacity);
            let (shards, order, ahead) = (shards.clone(), order.clone(), ahead.clone());
            let share = Share { reader, readers, ahead };
            thread::spawn(move || read(&shards, &order, (epoch, row), &share, &sender));
            receiver
        };
        Self { uri, receivers: (0..readers).map(spawn).collect(), turn: 0, rows: VecDeque::new(), ahead }
    }

    /// The next row.
    pub(super) fn next(&mut self) -> Result<(Row, Arc<ShardIndex>), StreamError> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Ok(row);
            }
            let ended = |_| StreamError::Reader { uri: self.uri.clone() };
            self.rows = self.receivers[self.turn].recv().map_err(ended)??.into();
            self.turn = (self.turn + 1) % self.receivers.len();
        }
    }
}

impl Drop for Readers {
    /// Readers end when they next hand something over; those that open shards ahead end at once.
    fn drop(&mut self) {
        self.ahead.end();
    }
}

/// Which chunks a reader reads.
struct Share {
    reader: usize,
    readers: usize,
    ahead: Arc<Ahead>,
}

fn read(shards: &Shards, order: &Order, (epoch, row): (u64, u64), share: &Share, sender: &SyncSender<Chunk>) {
    let mut addresses = order.from(epoch, row);
    let mut group = None;
    for chunk in 0.. {
        let wanted: Vec<Address> = addresses.by_ref().take(CHUNK_ROWS).collect();
        if chunk % share.readers != share.reader {
            continue;
        }
        if group != Some(addresses.group()) {
            group = Some(addresses.group());
            share.ahead.want(addresses.shards_ahead());
        }
        let rows: Chunk = wanted.into_iter().map(|address| shards.row(address)).collect();
        let failed = rows.is_err();
        // The other side is gone: the stream was dropped.
        if sender.send(rows).is_err() || failed {
            return;
        }
    }
}

/// The shards that will be needed next, the latest list only.
#[derive(Debug, Default)]
struct Ahead {
    state: Mutex<AheadState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct AheadState {
    wanted: VecDeque<u32>,
    ended: bool,
}

impl Ahead {
    fn want(&self, shards: Vec<u32>) {
        self.lock().wanted = shards.into();
        self.changed.notify_all();
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn next(&self) -> Option<u32> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(shard) = state.wanted.pop_front() {
                return Some(shard);
            }
            state = self.changed.wait(state).expect("no thread panics while it holds the list");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, AheadState> {
        self.state.lock().expect("no thread panics while it holds the list")
    }
}

/// Fetches and checks shards before a reader asks for them.
fn open_ahead(shards: &Shards, ahead: &Ahead) {
    while let Some(shard) = ahead.next() {
        if let Err(error) = shards.shard(shard) {
            // The reader that needs the shard meets the same error and reports it.
            tracing::debug!(shard, %error, "could not be opened ahead");
        }
    }
}
