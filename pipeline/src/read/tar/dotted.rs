//! Members whose names have more than one dot.
//!
//! The key of a row ends at the first dot of a name's last part, so `x.seg.png` is a further field of the row of `x.jpg`,
//! and is not read. An archive of `photo.2020.jpg` and `photo.2020.txt` has no other members of the key `photo`: there
//! the key ends at the last dot. Which of the two it is shows in the other members of the key, so such a member waits:
//!
//! - for a member of its key with one dot: then it is a further field of that row;
//! - for another key, where by then a picture and a text or JSON share the name up to the last dot: they are a row;
//! - up to [`WAITING_MEMBERS`] members, [`WAITING_BYTES`] and the end of the archive: it is a row then, and is refused
//!   like any other for what it lacks.
//!
//! A caption with a number, `x.1.txt`, is a caption of `x`, unless `x.1.jpg` makes it one of `x.1`. Nothing here depends
//! on what is wanted of the archive, so rows have the same numbers however they are read.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};

use super::member::{Dotted, Member, MemberKind, Other};

/// Members that wait, at most.
const WAITING_MEMBERS: usize = 1 << 16;

/// Bytes of the members that wait, at most.
const WAITING_BYTES: u64 = 64 << 20;

/// Members without a row whose names are kept.
const LOST_NAMES: usize = 1 << 16;

impl Member {
    /// The same as a member of the row whose key is the name up to the last dot.
    fn of_its_own(mut self) -> Self {
        if let Some(dotted) = self.dotted.take() {
            self.kind = MemberKind::of(&dotted.extension).unwrap_or(self.kind);
            (self.key, self.extension) = (dotted.key, dotted.extension);
        }
        self
    }
}

/// Decides which rows members belong to, and gives them on in order.
#[derive(Default)]
pub(super) struct Sorter {
    /// The keys of rows: hashes of those that end at the first dot, and of those that end at the last.
    rows: HashSet<u64>,
    own: HashSet<u64>,
    /// Members that wait, by the name up to the last dot.
    waiting: HashMap<String, Vec<Member>>,
    /// These names in the order in which they appeared; those that wait no longer may be among them.
    order: VecDeque<String>,
    /// These names by the name up to the first dot.
    of_key: HashMap<String, VecDeque<String>>,
    members: usize,
    bytes: u64,
    /// The key of the member before.
    last: String,
    /// Files that are nothing for a row, by the hash of the name up to the last dot.
    lost: HashMap<u64, Lost>,
}

/// A file of which nobody knows yet whether it has a row.
struct Lost {
    number: usize,
    key: u64,
    /// Empty beyond the names that are kept.
    name: String,
}

impl Sorter {
    /// Whether a member is a further field of a row that is there, so that its content is of no use.
    pub(super) fn is_further(&self, key: &str, dotted: Option<&Dotted>) -> bool {
        dotted.is_some_and(|dotted| {
            !dotted.number && self.rows.contains(&hash(key)) && !self.own.contains(&hash(&dotted.key))
        })
    }

    /// Takes a member and gives those whose rows are known now.
    pub(super) fn add(&mut self, member: Member) -> Vec<Member> {
        let mut ready = self.turn_to(&member.key);
        let key = hash(&member.key);
        match &member.dotted {
            None => {
                self.join(&member.key, &mut ready);
                self.has_row(key);
                ready.push(member);
            }
            Some(dotted) if self.own.contains(&hash(&dotted.key)) => ready.push(member.of_its_own()),
            Some(dotted) if self.rows.contains(&key) => {
                if dotted.number {
                    ready.push(member);
                }
            }
            Some(_) => {
                self.wait(member);
                self.make_room(&mut ready);
            }
        }
        ready
    }

    /// Takes a file that is nothing for a row.
    pub(super) fn pass_over(&mut self, other: Other) -> Vec<Member> {
        let Some((key, longer)) = other.keys else { return Vec::new() };
        let ready = self.turn_to(&key);
        let (key, longer) = (hash(&key), hash(&longer));
        if !self.rows.contains(&key) && !self.own.contains(&longer) {
            let number = self.lost.len();
            let name = if number < LOST_NAMES { other.name } else { String::new() };
            self.lost.entry(longer).or_insert(Lost { number, key, name });
        }
        ready
    }

    /// Gives the members that wait: there are no others.
    pub(super) fn finish(&mut self) -> Vec<Member> {
        let mut ready = self.turn_to("");
        while let Some(longer) = self.order.pop_front() {
            self.make_row(&longer, &mut ready);
        }
        ready
    }

    /// What is to be said of the files whose keys have no row.
    pub(super) fn lost(self) -> impl Iterator<Item = String> {
        let Self { rows, lost, .. } = self;
        let mut lost: Vec<Lost> = lost.into_values().filter(|lost| !rows.contains(&lost.key)).collect();
        lost.sort_by_key(|lost| lost.number);
        lost.into_iter().map(|Lost { name, .. }| {
            let name = if name.is_empty() { String::new() } else { format!(" `{name}`") };
            format!(
                "member{name} has no name of a picture, a text or JSON, and nothing else of its key has one"
            )
        })
    }

    /// Decides what another key decides.
    fn turn_to(&mut self, key: &str) -> Vec<Member> {
        let mut ready = Vec::new();
        if self.last == key {
            return ready;
        }
        let before = std::mem::replace(&mut self.last, key.to_owned());
        if !self.waiting.is_empty() {
            self.settle(&before, &mut ready);
        }
        ready
    }

    /// Makes rows of the whole pairs of a key, and captions of those that are nothing else.
    fn settle(&mut self, key: &str, ready: &mut Vec<Member>) {
        let Some(names) = self.of_key.get(key) else { return };
        let names: Vec<String> =
            names.iter().filter(|name| self.waiting.contains_key(*name)).cloned().collect();
        let numbers = |members: &Vec<Member>| members.iter().all(is_number);
        if names.iter().all(|name| self.waiting.get(name).is_some_and(numbers)) {
            self.join(key, ready);
            if !names.is_empty() {
                self.has_row(hash(key));
            }
            return;
        }
        for name in names {
            if self.waiting.get(&name).is_some_and(|members| is_pair(members)) {
                self.make_row(&name, ready);
            }
        }
    }

    /// Gives the captions that wait for a row of this key; everything else that does is a further field of it.
    fn join(&mut self, key: &str, ready: &mut Vec<Member>) {
        if self.waiting.is_empty() {
            return;
        }
        for name in self.of_key.remove(key).unwrap_or_default() {
            ready.extend(self.take(&name).into_iter().filter(is_number));
        }
    }

    /// Makes a row of the members that share the name up to the last dot.
    fn make_row(&mut self, longer: &str, ready: &mut Vec<Member>) {
        let members = self.take(longer);
        let Some(key) = members.first().map(|member| member.key.clone()) else { return };
        self.own.insert(hash(longer));
        self.lost.remove(&hash(longer));
        if let Some(names) = self.of_key.get_mut(&key) {
            while names.front().is_some_and(|name| !self.waiting.contains_key(name)) {
                names.pop_front();
            }
            if names.is_empty() {
                self.of_key.remove(&key);
            }
        }
        ready.extend(members.into_iter().map(Member::of_its_own));
    }

    fn has_row(&mut self, key: u64) {
        self.rows.insert(key);
        self.lost.remove(&key);
    }

    fn wait(&mut self, member: Member) {
        let Some(dotted) = &member.dotted else { return };
        self.members += 1;
        self.bytes += size(&member);
        let longer = dotted.key.clone();
        if !self.waiting.contains_key(&longer) {
            self.order.push_back(longer.clone());
            self.of_key.entry(member.key.clone()).or_default().push_back(longer.clone());
        }
        self.waiting.entry(longer).or_default().push(member);
    }

    /// Makes rows of the oldest members while there are too many of them.
    fn make_room(&mut self, ready: &mut Vec<Member>) {
        // The members of one name are never too many: each has a limit of its own.
        while self.waiting.len() > 1 && (self.members > WAITING_MEMBERS || self.bytes > WAITING_BYTES) {
            let Some(oldest) = self.order.pop_front() else { return };
            self.make_row(&oldest, ready);
        }
    }

    fn take(&mut self, longer: &str) -> Vec<Member> {
        let members = self.waiting.remove(longer).unwrap_or_default();
        self.members -= members.len();
        self.bytes -= members.iter().map(size).sum::<u64>();
        if self.waiting.is_empty() {
            self.order.clear();
            self.of_key.clear();
        }
        members
    }
}

/// What a member has in the archive: what is held of it depends on what is wanted.
fn size(member: &Member) -> u64 {
    member.place.end - member.place.start
}

fn is_number(member: &Member) -> bool {
    member.dotted.as_ref().is_some_and(|dotted| dotted.number)
}

fn is_pair(members: &[Member]) -> bool {
    let kinds = members.iter().fold(0, |kinds, member| kinds | member.kind.bit());
    kinds & MemberKind::Picture.bit() != 0 && kinds != MemberKind::Picture.bit()
}

/// The same for the same key in every run.
fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::super::member::Name;
    use super::*;

    fn member(name: &str) -> Member {
        let of = Name::of(name).expect("a picture, a text or JSON");
        Member {
            name: name.to_owned(),
            key: of.key,
            extension: of.extension,
            kind: of.kind,
            dotted: of.dotted,
            content: Ok(Vec::new()),
            place: 0..1000,
            is_link: false,
        }
    }

    /// The keys and extensions that members get, in the order in which they are given on.
    fn sorted(names: &[&str]) -> Vec<String> {
        let mut sorter = Sorter::default();
        let mut found = Vec::new();
        for name in names {
            let ready = match Name::of(name) {
                Some(_) => sorter.add(member(name)),
                None => {
                    let keys = name.rsplit_once('.').map(|(key, _)| (key.to_owned(), key.to_owned()));
                    sorter.pass_over(Other { name: (*name).to_owned(), keys })
                }
            };
            found.extend(ready);
        }
        found.extend(sorter.finish());
        assert_eq!((sorter.members, sorter.bytes), (0, 0));
        let mut found: Vec<String> =
            found.into_iter().map(|member| format!("{} {}", member.key, member.extension)).collect();
        found.extend(sorter.lost());
        found
    }

    #[test]
    fn names_with_several_dots_are_rows_where_nothing_else_has_their_key() {
        let names = ["a.b.1.png", "a.b.1.txt", "v1.0/y.z.png", "v1.0/y.z.txt", "photo.2020.jpg"];
        let found = ["a.b.1 png", "a.b.1 txt", "v1.0/y.z png", "v1.0/y.z txt", "photo.2020 jpg"];
        assert_eq!(sorted(&names), found);
        let dates = ["p.01.02.jpg", "p.01.02.txt", "p.01.03.jpg", "p.01.03.txt", "p.04.jpg", "p.04.txt"];
        let found = ["p.01.02 jpg", "p.01.02 txt", "p.01.03 jpg", "p.01.03 txt", "p.04 jpg", "p.04 txt"];
        assert_eq!(sorted(&dates), found);
        // Out of order, and with JSON.
        let apart = ["a.1.jpg", "b.1.jpg", "a.1.json", "b.1.txt"];
        assert_eq!(sorted(&apart), ["a.1 jpg", "a.1 json", "b.1 jpg", "b.1 txt"]);
    }

    #[test]
    fn further_fields_of_a_row_are_no_rows() {
        let expected = ["x jpg", "x txt"];
        assert_eq!(sorted(&["x.jpg", "x.seg.png", "x.txt", "x.meta.json"]), expected);
        assert_eq!(sorted(&["x.depth.png", "x.depth.txt", "x.jpg", "x.seg.png", "x.txt"]), expected);
        let apart = ["x.seg.png", "y.seg.png", "x.jpg", "y.jpg", "x.txt", "y.txt"];
        assert_eq!(sorted(&apart), ["x jpg", "y jpg", "x txt", "y txt"]);
    }

    #[test]
    fn numbered_captions_stay_with_their_key() {
        assert_eq!(sorted(&["a.1.txt", "a.2.txt", "a.jpg"]), ["a 1.txt", "a 2.txt", "a jpg"]);
        assert_eq!(sorted(&["a.jpg", "a.1.txt", "a.2.txt", "a.2.jpg"]), ["a jpg", "a 1.txt", "a 2.txt"]);
        assert_eq!(sorted(&["a.1.txt", "b.jpg", "a.jpg"]), ["a 1.txt", "b jpg", "a jpg"]);
        assert_eq!(sorted(&["a.caption.1", "a.txt2"]), ["a caption.1", "a txt2"]);
    }

    #[test]
    fn files_that_are_nothing_for_a_row_are_named_where_they_have_none() {
        let found = sorted(&["a.cls", "a.jpg", "b.mp4", "c.x.npy", "c.x.png", "c.x.txt"]);
        assert_eq!(found[..3], ["a jpg", "c.x png", "c.x txt"]);
        assert!(found.len() == 4 && found[3].starts_with("member `b.mp4` has no name"), "{found:?}");
    }

    /// The oldest become rows when there are too many, and what belongs to them finds them still.
    #[test]
    fn no_more_than_a_bound_waits() {
        let mut sorter = Sorter::default();
        let big = |name: &str| Member { place: 0..(40 << 20), ..member(name) };
        assert!(sorter.add(big("p.1.jpg")).is_empty());
        let ready = sorter.add(big("p.2.jpg"));
        assert_eq!(ready.iter().map(|member| member.key.as_str()).collect::<Vec<_>>(), ["p.1"]);
        let ready = sorter.add(big("p.1.txt"));
        assert_eq!((ready[0].key.as_str(), ready[0].extension.as_str()), ("p.1", "txt"));
        assert_eq!(sorter.finish().len(), 1);
    }
}
