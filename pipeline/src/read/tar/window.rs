//! Rows of an archive that wait for the rest of their members.
//!
//! Rows leave in the order in which their keys appeared first. A row leaves when it has all that is wanted of it and
//! another key follows, so of an ordinary archive one row is held. A row that lacks something keeps those behind it
//! waiting, up to [`PENDING_SAMPLES`] rows and [`PENDING_BYTES`] of content:
//!
//! - Where rows stand scattered (the archive has come back to an earlier key, or no row is whole yet) and the archive
//!   is not compressed, pictures are let go of when the bytes run out, and read again from their place when their row
//!   leaves. So all pictures may stand before all texts, in an archive of any size with up to that many rows.
//! - In any other archive the oldest row leaves as it is.
//!
//! A member that comes after its row has left is a reject `bad_entry` with the number of that row. A member that its
//! row has already (two archives put together with the same keys) begins a row of its own.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};

use super::WantedMembers;
use super::member::{Member, MemberKind};
use super::sample::Sample;
use crate::PipelineError;
use crate::engine::memory::{Memory, Taken};
use crate::read::{ImageRef, RawRow, Visit, picture_bytes};
use crate::row::reject::{Reject, RejectReason};
use crate::units::InputFile;

/// Rows that wait, at most.
pub(super) const PENDING_SAMPLES: usize = 1 << 16;

/// Bytes of their captions and pictures that are held, at most.
pub(super) const PENDING_BYTES: usize = 64 << 20;

pub(super) struct Window<'a> {
    wanted: WantedMembers<'a>,
    file: Arc<InputFile>,
    pending: VecDeque<Sample>,
    /// The numbers of the rows of `pending` that take members, by key.
    open: HashMap<String, u64>,
    /// Rows that have left, by the hash of their key: number and kinds of members. Up to 64 bytes a row, reserved.
    gone: HashMap<u64, (u64, u8)>,
    rows: u64,
    bytes: usize,
    /// Number of the row of the member before.
    last: Option<u64>,
    /// Whether a member came back to a row behind another one.
    came_back: bool,
    /// Rows of `pending` that are whole.
    whole: usize,
    /// Rows of `pending` from the first whose pictures were let go of.
    let_go: usize,
    limits: (usize, usize),
    memory: Arc<Memory>,
    /// The memory of what is held beyond [`FREE_BYTES`].
    taken: Option<Taken>,
    /// That of `gone`.
    gone_memory: MemoryReservation,
}

/// Bytes that a window takes without asking: every unit has memory for them.
const FREE_BYTES: usize = 8 << 20;

impl<'a> Window<'a> {
    pub(super) fn new(wanted: WantedMembers<'a>, file: Arc<InputFile>, memory: &Arc<Memory>) -> Self {
        let gone_memory = MemoryConsumer::new("keys of an archive").register(&memory.pool());
        Self {
            wanted,
            file,
            pending: VecDeque::new(),
            open: HashMap::new(),
            gone: HashMap::new(),
            rows: 0,
            bytes: 0,
            last: None,
            came_back: false,
            whole: 0,
            let_go: 0,
            limits: (PENDING_SAMPLES, PENDING_BYTES),
            memory: memory.clone(),
            taken: None,
            gone_memory,
        }
    }

    /// Sees that there is memory for further content. Where much is held, all that a window usually needs is taken from the
    /// share for large rows at once, so that no two that have a part of it wait for each other; more than that is counted,
    /// and bounded by what a row may have. Blocks.
    pub(super) fn make_room(&mut self, bytes: usize) {
        let held = self.bytes.saturating_add(bytes);
        let free = FREE_BYTES + if self.wanted.images { picture_bytes(&self.memory) } else { 0 };
        if held <= free {
            return;
        }
        let share = &self.memory.rows;
        self.taken.get_or_insert_with(|| share.take(held.max(PENDING_BYTES + FREE_BYTES))).count(held);
    }

    /// The number of rows so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes a member and gives away what is ready; `false` if no more rows are wanted.
    pub(super) fn add(&mut self, member: Member, visit: &mut Visit<'_>) -> Result<bool, PipelineError> {
        let Some(row) = self.row_of(&member) else { return self.late(&member, visit) };
        self.came_back |= self.last.is_some_and(|last| row < last);
        self.last = Some(row);
        let index = (row - self.first()) as usize;
        let sample = &mut self.pending[index];
        let (bytes, whole) = (sample.bytes(), self.wanted.is_whole(sample));
        sample.add(member, self.wanted.pick);
        self.bytes = self.bytes - bytes + sample.bytes();
        self.whole += usize::from(!whole && self.wanted.is_whole(sample));
        self.visit_ready(row, visit)
    }

    /// A row that is refused and takes no members; `false` if no more rows are wanted.
    pub(super) fn refuse(
        &mut self,
        key: &str,
        reject: Reject,
        visit: &mut Visit<'_>,
    ) -> Result<bool, PipelineError> {
        let row = self.rows;
        self.rows += 1;
        let sample = Sample { reject: Some(reject), kinds: u8::MAX, closed: true, ..Sample::new(key, row) };
        self.bytes += sample.bytes();
        self.whole += 1;
        self.pending.push_back(sample);
        self.visit_ready(row, visit)
    }

    /// Gives all rows away; `false` if no more are wanted.
    pub(super) fn finish(&mut self, visit: &mut Visit<'_>) -> Result<bool, PipelineError> {
        while !self.pending.is_empty() {
            if !self.pop(visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The number of the first row that waits.
    fn first(&self) -> u64 {
        self.rows - self.pending.len() as u64
    }

    /// The number of the row that a member belongs to; `None` if that has left.
    fn row_of(&mut self, member: &Member) -> Option<u64> {
        if let Some(&row) = self.open.get(&member.key) {
            let index = (row - self.first()) as usize;
            if !self.pending[index].has(&member.extension) {
                return Some(row);
            }
            self.pending[index].closed = true;
        } else if let Some((_, kinds)) = self.gone.get(&hash(&member.key))
            && kinds & member.kind.bit() == 0
        {
            return None;
        }
        let row = self.rows;
        self.rows += 1;
        let sample = Sample::new(&member.key, row);
        self.bytes += sample.bytes();
        self.open.insert(member.key.clone(), row);
        self.pending.push_back(sample);
        Some(row)
    }

    fn late(&self, member: &Member, visit: &mut Visit<'_>) -> Result<bool, PipelineError> {
        // What nobody asked for is missed by nobody.
        if member.kind == MemberKind::Json && !self.wanted.json() {
            return Ok(true);
        }
        let row = self.gone.get(&hash(&member.key)).map_or(self.rows, |(row, _)| *row);
        let detail = format!(
            "member `{}` comes more than {} rows or {} bytes after the others of its key",
            member.name, self.limits.0, self.limits.1
        );
        visit(RawRow::bad(row, RejectReason::BadEntry, detail))
    }

    /// Gives away what is complete before the row `current`, and what there is no more room for.
    fn visit_ready(&mut self, current: u64, visit: &mut Visit<'_>) -> Result<bool, PipelineError> {
        while let Some(sample) = self.pending.front() {
            let whole = sample.row != current && (sample.closed || self.wanted.is_whole(sample));
            if !whole && !self.is_full() {
                break;
            }
            if !whole && self.let_go_of_a_picture() {
                continue;
            }
            if !self.pop(visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_full(&self) -> bool {
        // A row alone is never too much: its members have limits of their own.
        self.pending.len() > 1 && (self.pending.len() > self.limits.0 || self.bytes > self.limits.1)
    }

    /// Frees the bytes of the oldest picture that is held, where it can be read again.
    fn let_go_of_a_picture(&mut self) -> bool {
        let scattered = self.came_back || self.whole == 0;
        if !scattered || !self.wanted.pieces || self.pending.len() > self.limits.0 {
            return false;
        }
        while let Some(sample) = self.pending.get_mut(self.let_go) {
            self.let_go += 1;
            if let ImageRef::Bytes(bytes) = &sample.image
                && !bytes.is_empty()
            {
                self.bytes -= bytes.len();
                sample.image = ImageRef::Piece(self.file.clone(), sample.place.clone());
                return true;
            }
        }
        false
    }

    fn pop(&mut self, visit: &mut Visit<'_>) -> Result<bool, PipelineError> {
        let Some(sample) = self.pending.pop_front() else { return Ok(true) };
        self.let_go = self.let_go.saturating_sub(1);
        self.bytes -= sample.bytes();
        self.whole -= usize::from(self.wanted.is_whole(&sample));
        if self.open.get(&sample.key) == Some(&sample.row) {
            self.open.remove(&sample.key);
        }
        if self.bytes <= FREE_BYTES {
            self.taken = None;
        }
        self.gone.insert(hash(&sample.key), (sample.row, sample.kinds));
        self.gone_memory.try_resize(self.gone.capacity() * GONE_BYTES)?;
        visit(sample.into_row(self.wanted.pick))
    }
}

/// Bytes of a row that has left.
const GONE_BYTES: usize = 32;

/// The same for the same key in every run.
fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;
    use crate::read::Pick;

    fn member(name: &str) -> Member {
        let (key, extension) = name.split_once('.').expect("a key and an extension");
        let kind = MemberKind::of(extension).expect("a known extension");
        let content = match kind {
            MemberKind::Json => b"{\"n\": 1}".to_vec(),
            _ => vec![b'x'; 1000],
        };
        Member {
            name: name.to_owned(),
            key: key.to_owned(),
            extension: extension.to_owned(),
            kind,
            dotted: None,
            content: Ok(content),
            place: 512..1512,
            is_link: false,
        }
    }

    /// What a window gives for members: `key` with `+` for a picture that is held and `-` for one that was let go of,
    /// or `!key` for a member that came too late.
    fn given(members: &[&str], limits: (usize, usize), pieces: bool) -> Vec<String> {
        let pick = Pick::Only(vec!["caption".to_owned(), "key".to_owned()]);
        let file = InputFile {
            path: "a.tar".into(),
            below: "a.tar".to_owned(),
            bytes: 0,
            e_tag: None,
            format: Format::Tar,
            part: None,
        };
        let memory = Arc::new(Memory::new(1 << 30));
        let mut window =
            Window::new(WantedMembers { pick: &pick, images: true, pieces }, Arc::new(file), &memory);
        window.limits = limits;
        let mut given = Vec::new();
        let mut visit = |row: RawRow| {
            let image = match row.image {
                ImageRef::Bytes(_) => "+",
                ImageRef::Piece(_, place) => {
                    assert_eq!(place, 512..1512);
                    "-"
                }
                _ => "",
            };
            given.push(match (&row.reject, row.fields.get("key").and_then(|key| key.as_str())) {
                (None, Some(key)) => format!("{}{key}{image}", row.row),
                _ => format!("{}!", row.row),
            });
            Ok(true)
        };
        for name in members {
            window.add(member(name), &mut visit).expect("added");
        }
        let held = window.pending.len();
        window.finish(&mut visit).expect("finished");
        assert_eq!(window.bytes, 0, "every byte that was counted is given back");
        assert_eq!(memory.pool().reserved(), window.gone.capacity() * GONE_BYTES);
        given.push(format!("{held} held"));
        given
    }

    const WIDE: (usize, usize) = (100, 1 << 20);

    #[test]
    fn rows_that_stand_together_leave_at_once() {
        let given = given(&["a.jpg", "a.txt", "b.txt", "b.jpg", "c.jpg", "c.txt", "c.json"], WIDE, true);
        assert_eq!(given, ["0a+", "1b+", "2c+", "1 held"]);
    }

    #[test]
    fn members_that_stand_apart_find_their_row() {
        let members = ["b.jpg", "a.jpg", "c.jpg", "c.txt", "a.txt", "b.txt"];
        assert_eq!(given(&members, WIDE, true), ["0b+", "1a+", "2c+", "3 held"]);
    }

    #[test]
    fn a_row_that_lacks_something_keeps_the_others_waiting_up_to_a_limit() {
        let members = ["a.jpg", "b.jpg", "b.txt", "c.jpg", "c.txt", "d.jpg", "d.txt"];
        assert_eq!(given(&members, WIDE, true), ["0a+", "1b+", "2c+", "3d+", "4 held"]);
        // The archive never came back to a key, so the pictures are not let go of.
        assert_eq!(given(&members, (100, 5000), true), ["0a+", "1b+", "2c+", "3d+", "1 held"]);
        assert_eq!(given(&members, (2, 1 << 20), true), ["0a+", "1b+", "2c+", "3d+", "1 held"]);
    }

    #[test]
    fn pictures_before_all_texts_are_let_go_of_and_read_again() {
        let members = ["a.jpg", "b.jpg", "c.jpg", "a.txt", "b.txt", "c.txt"];
        assert_eq!(given(&members, (100, 4500), true).last().map(String::as_str), Some("1 held"));
        let scattered = [
            "z.jpg", "y.jpg", "z.txt", "y.txt", "a.jpg", "b.jpg", "c.jpg", "d.jpg", "d.txt", "a.txt",
            "b.txt", "c.txt",
        ];
        let given = given(&scattered, (100, 4500), true);
        assert_eq!(given, ["0z+", "1y+", "2a-", "3b-", "4c-", "5d+", "2 held"]);
    }

    /// What waits beyond a few megabytes has memory of the share for large rows, and gives it back.
    #[test]
    fn what_a_window_holds_is_reserved() {
        let pick = Pick::Only(vec!["caption".to_owned()]);
        let file = InputFile {
            path: "a.tar".into(),
            below: "a.tar".to_owned(),
            bytes: 0,
            e_tag: None,
            format: Format::Tar,
            part: None,
        };
        let memory = Arc::new(Memory::new(1 << 30));
        let mut window =
            Window::new(WantedMembers { pick: &pick, images: true, pieces: false }, Arc::new(file), &memory);
        let (mut rows, mut refused) = (0, 0);
        let mut visit = |row: RawRow| {
            (rows, refused) = (rows + 1, refused + u64::from(row.reject.is_some()));
            Ok(true)
        };
        let large = |name: &str, bytes: usize| {
            let content = Ok(vec![b'x'; bytes]);
            Member { content, ..member(name) }
        };
        for row in 0..6 {
            window.make_room(9 << 20);
            window.add(large(&format!("{row}.jpg"), 9 << 20), &mut visit).expect("added");
            let held = ((row + 1) * 9) << 20;
            assert_eq!(memory.pool().reserved() >= held, held > 40 << 20, "{row}");
        }
        for row in 0..6 {
            window.add(large(&format!("{row}.txt"), 10), &mut visit).expect("added");
        }
        // Many members of one row are too many, however small they are.
        for caption in 0..9000 {
            window.add(large(&format!("many.{caption}.txt"), 10), &mut visit).expect("added");
        }
        window.finish(&mut visit).expect("finished");
        assert_eq!(memory.pool().reserved(), window.gone.capacity() * GONE_BYTES);
        drop(window);
        assert_eq!((rows, refused, memory.pool().reserved()), (7, 1, 0));
    }

    #[test]
    fn what_comes_too_late_is_a_reject_of_its_row() {
        let members = ["a.jpg", "b.jpg", "c.jpg", "a.txt", "b.txt", "c.txt"];
        let given = given(&members, (2, 1 << 20), false);
        assert_eq!(given, ["0a+", "0!", "1b+", "2c+", "1 held"]);
    }

    #[test]
    fn a_member_that_is_there_already_begins_another_row() {
        let members = ["a.jpg", "a.txt", "a.jpg", "a.txt", "b.jpg", "b.txt", "a.jpg", "a.txt"];
        assert_eq!(given(&members, WIDE, true), ["0a+", "1a+", "2b+", "3a+", "1 held"]);
    }
}
