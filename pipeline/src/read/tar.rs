//! WebDataset: members of an archive that share the name up to its first dot are one row. Where that would leave
//! members without a row, as of `photo.2020.jpg`, names go up to their last dot: see [`dotted`].
//!
//! The text members of a row (`KEY.txt`, `.text`, `.caption`; several as `KEY.1.txt`, `KEY.txt2`, `KEY.caption_3`) are
//! its captions, by number: the column `caption` is the first, `captions` the list of all. The fields of `KEY.json`
//! are columns of their own, `KEY` is the column `key`, and the first picture is the column `image`. A list `captions`
//! in `KEY.json` is taken as it is. ArchiveRows are numbered by the first appearance of their key.
//!
//! The members of a row usually stand together. Where they don't, rows wait for the rest of them, as [`window`] says.
//!
//! Archives that were put together are read on behind the end mark of the first. Links and sparse files have no content
//! of their own: a row that lacks what one of them stands for is refused and says so.
//!
//! Nothing is ever written under a member's name, so a name that leads outside is harmless here and stays a key.

mod blocks;
mod dotted;
mod member;
mod sample;
mod window;

use std::cell::RefCell;
use std::io::BufRead;
use std::rc::Rc;
use std::sync::Arc;

use self::blocks::{Blocks, MAX_NAME_BYTES, Shared};
use self::dotted::Sorter;
use self::member::{Dotted, Entry, Member, MemberKind, Other};
use self::sample::Sample;
use self::window::Window;
use super::{Pick, RawRow, Visit, damaged};
use crate::PipelineError;
use crate::engine::memory::Memory;
use crate::row::reject::{Reject, RejectReason};
use crate::units::InputFile;

/// What of an archive is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WantedMembers<'a> {
    /// The fields.
    pub(crate) pick: &'a Pick,
    /// Whether the bytes of pictures are.
    pub(crate) images: bool,
    /// Whether a place in the archive is one in the file, so that a picture can be read again later.
    pub(crate) pieces: bool,
}

impl WantedMembers<'_> {
    fn caption(&self) -> bool {
        self.pick.wants("caption") || self.pick.wants("captions")
    }

    /// Whether a field is wanted that only `KEY.json` can have.
    fn json(&self) -> bool {
        match self.pick {
            Pick::All => true,
            Pick::Only(names) => {
                names.iter().any(|name| !["caption", "captions", "key"].contains(&name.as_str()))
            }
        }
    }

    /// Whether the fields that there are are asked for: which they are matters then, not whose they are, and no member
    /// has to wait for another.
    fn scans_fields(&self) -> bool {
        matches!(self.pick, Pick::All) && !self.images
    }

    /// Whether a row has all that is wanted of it.
    fn is_whole(&self, sample: &Sample) -> bool {
        let json = sample.json.as_ref();
        let captioned = json.is_some_and(|json| {
            json.as_ref()
                .is_ok_and(|fields| fields.contains_key("caption") || fields.contains_key("captions"))
        });
        let pictured = !self.images || sample.kinds & MemberKind::Picture.bit() != 0;
        let links = |of: fn(&MemberKind) -> bool| sample.links.iter().any(|(kind, _)| of(kind));
        let captioned = !self.caption()
            || !sample.captions.is_empty()
            || captioned
            || links(|kind| matches!(kind, MemberKind::Caption(_)));
        let described = !self.json() || json.is_some() || links(|kind| *kind == MemberKind::Json);
        sample.reject.is_some() || pictured && captioned && described
    }
}

/// Visits the rows of an archive.
pub(crate) fn read(
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    wanted: &WantedMembers<'_>,
    memory: &Arc<Memory>,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let blocks = Blocks::shared(reader);
    let window = Window::new(*wanted, Arc::new(file.clone()), memory);
    let (scan, sorter) = (FieldScan::default(), Sorter::default());
    let mut rows = ArchiveRows { wanted, window, scan, sorter, nameless: None };
    loop {
        let end = match rows.archive(&blocks, visit)? {
            // The reader of archives would hold such a name; another one goes on behind it.
            End::LongName => match blocks.borrow_mut().skip_name() {
                Ok(bytes) => {
                    rows.nameless = Some(bytes);
                    continue;
                }
                Err(error) => End::Damaged(error),
            },
            end => end,
        };
        return rows.finish(end, file, visit);
    }
}

/// Why the members of an archive came to an end.
enum End {
    /// There are no more.
    Whole,
    /// No more rows are wanted.
    Enough,
    /// The name of the next one is too long.
    LongName,
    Damaged(std::io::Error),
}

/// The rows of an archive, as its members come.
struct ArchiveRows<'a> {
    wanted: &'a WantedMembers<'a>,
    window: Window<'a>,
    scan: FieldScan,
    sorter: Sorter,
    /// The bytes of what describes the next member, where these are too many to be held.
    nameless: Option<u64>,
}

impl ArchiveRows<'_> {
    /// Reads on as an archive of its own, which it is as far as the place is concerned where its members begin.
    fn archive(&mut self, blocks: &Rc<RefCell<Blocks>>, visit: &mut Visit<'_>) -> Result<End, PipelineError> {
        let start = blocks.borrow().place;
        let mut archive = tar::Archive::new(Shared(Rc::clone(blocks)));
        archive.set_ignore_zeros(true);
        let entries = match archive.entries() {
            Ok(entries) => entries,
            Err(error) => return Ok(End::Damaged(error)),
        };
        for entry in entries {
            let member = entry.and_then(|mut entry| {
                blocks.borrow_mut().expect_behind(&mut entry)?;
                let room = |bytes| self.window.make_room(bytes);
                let is_further = |key: &str, dotted: Option<&Dotted>| self.sorter.is_further(key, dotted);
                Member::read(entry, start, self.wanted, is_further, room)
            });
            let more = match (member, self.nameless.take()) {
                (Ok(Entry::Member(Member { name, .. }) | Entry::Other(Other { name, .. })), Some(bytes)) => {
                    self.refuse(name, bytes, visit)?
                }
                (Ok(Entry::Member(member)), None) => {
                    let ready = self.sorter.add(member);
                    self.add(ready, visit)?
                }
                (Ok(Entry::Other(other)), None) => {
                    self.scan.other.get_or_insert_with(|| other.name.clone());
                    let ready = self.sorter.pass_over(other);
                    self.add(ready, visit)?
                }
                (Ok(Entry::Nothing), _) => true,
                (Err(_), _) if blocks.borrow().long_name.is_some() => return Ok(End::LongName),
                // The end mark need not fill its block.
                (Err(error), None) if blocks.borrow().zeros && error.to_string() == CUT_BLOCK => break,
                (Err(error), _) => return Ok(End::Damaged(error)),
            };
            if !more {
                return Ok(End::Enough);
            }
        }
        match self.nameless.take() {
            Some(_) => Ok(End::Damaged(std::io::Error::other("a name is followed by no member"))),
            None => Ok(End::Whole),
        }
    }

    /// Takes members whose rows are known.
    fn add(&mut self, members: Vec<Member>, visit: &mut Visit<'_>) -> Result<bool, PipelineError> {
        for member in members {
            let more = match self.wanted.scans_fields() {
                true => self.scan.visit(member, self.wanted, visit)?,
                false => self.window.add(member, visit)?,
            };
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A row that stands for a member of which only the beginning of its name is known.
    fn refuse(&mut self, name: String, bytes: u64, visit: &mut Visit<'_>) -> Result<bool, PipelineError> {
        if self.wanted.scans_fields() {
            self.scan.other.get_or_insert(name);
            return Ok(true);
        }
        let detail = format!(
            "the name of member `{name}` and what else describes it have {bytes} bytes, the limit is {MAX_NAME_BYTES}"
        );
        self.window.refuse(&name, Reject::new(RejectReason::BadEntry, detail), visit)
    }

    fn finish(mut self, end: End, file: &InputFile, visit: &mut Visit<'_>) -> Result<(), PipelineError> {
        let last = self.sorter.finish();
        if !matches!(end, End::Enough) && !self.add(last, visit)? {
            return Ok(());
        }
        match end {
            End::Whole if self.wanted.scans_fields() => self.scan.finish(visit),
            End::Whole => {
                let next = self.window.rows();
                let mut more = self.window.finish(visit)?;
                // Behind the rows, which keep their numbers.
                for (row, detail) in (next..).zip(self.sorter.lost()) {
                    more = more && visit(RawRow::bad(row, RejectReason::BadEntry, detail))?;
                }
                Ok(())
            }
            End::Damaged(error) => {
                // What is whole before the damage is a row; rows that were still waiting may lack parts.
                let next = self.window.rows();
                match self.window.finish(visit)? {
                    true => visit(damaged(plain(error), file, next)?).map(|_| ()),
                    false => Ok(()),
                }
            }
            End::Enough | End::LongName => Ok(()),
        }
    }
}

/// What the archive's reader says of a block of which only a part is there.
const CUT_BLOCK: &str = "failed to read entire block";

/// An error of the archive's reader. Of what stands where a header should be it would show the bytes, whatever they are.
fn plain(error: std::io::Error) -> std::io::Error {
    let said = error.to_string();
    let no_header = ["numeric field was not a number", "archive header checksum mismatch"];
    if no_header.iter().any(|what| said.starts_with(what)) {
        return std::io::Error::other("something else stands where a member should begin");
    }
    error
}

/// What was met where only the fields that there are are asked for.
#[derive(Default)]
struct FieldScan {
    rows: bool,
    /// The first picture.
    picture: Option<Member>,
    /// The name of the first member that is for no row.
    other: Option<String>,
}

impl FieldScan {
    fn visit(
        &mut self,
        member: Member,
        wanted: &WantedMembers<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<bool, PipelineError> {
        if member.kind == MemberKind::Picture {
            self.picture.get_or_insert(member);
            return Ok(true);
        }
        self.rows = true;
        visit(Sample::alone(member, wanted.pick))
    }

    /// An archive of pictures alone has rows, and one of which no member is for a row has a reason for that.
    fn finish(self, visit: &mut Visit<'_>) -> Result<(), PipelineError> {
        let row = match (self.rows, self.picture, self.other) {
            (false, Some(picture), _) => Sample::alone(picture, &Pick::All),
            (false, None, Some(name)) => {
                let detail = format!("no member is a picture, a text or JSON; the first is `{name}`");
                RawRow::bad(0, RejectReason::BadEntry, detail)
            }
            _ => return Ok(()),
        };
        visit(row).map(|_| ())
    }
}

/// The row of files that lie beside each other in a folder as the members of a sample do in an archive: extensions and
/// contents.
pub(crate) fn row_of_files(key: &str, files: Vec<(String, Result<Vec<u8>, Reject>)>, pick: &Pick) -> RawRow {
    let mut sample = Sample::new(key, 0);
    for (extension, content) in files {
        let extension = extension.to_ascii_lowercase();
        if let Some(kind) = MemberKind::of(&extension) {
            let (name, key) = (String::new(), String::new());
            let (dotted, place) = (None, 0..0);
            sample.add(Member { name, key, extension, kind, dotted, content, place, is_link: false }, pick);
        }
    }
    sample.into_row(pick)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::Value;

    use super::super::testing::rows;
    use super::member::caption_number;
    use super::*;
    use crate::config::{Format, TextSplit};
    use crate::read::ImageRef;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).expect("appends");
        }
        builder.into_inner().expect("finishes")
    }

    fn show(row: &RawRow) -> String {
        match &row.reject {
            Some(reject) => reject.reason.name().to_owned(),
            None => Value::Object(row.fields.clone()).to_string(),
        }
    }

    async fn read_tar(bytes: Vec<u8>) -> Vec<RawRow> {
        rows(bytes, Format::Tar, TextSplit::File).await
    }

    fn picture(bytes: &'static [u8]) -> ImageRef {
        ImageRef::Bytes(Bytes::from_static(bytes))
    }

    #[tokio::test]
    async fn members_of_one_key_are_a_row() {
        let bytes = archive(&[
            ("b.json", br#"{"n": 1}"#),
            ("b.jpg", b"JPEG"),
            ("b.txt", b"a caption\n"),
            ("x/a.png", b"PNG"),
            ("x/a.seg.png", b"not the picture of a row"),
            ("README", b"no extension"),
            ("c.txt", b"no picture"),
            ("d.json", b"{broken"),
        ]);
        let rows = read_tar(bytes).await;
        assert_eq!(rows.iter().map(|row| row.row).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(show(&rows[0]), r#"{"n":1,"caption":"a caption","captions":["a caption"],"key":"b"}"#);
        assert_eq!(rows[0].image, picture(b"JPEG"));
        assert_eq!((&rows[1].fields["key"], &rows[1].image), (&"x/a".into(), &picture(b"PNG")));
        assert_eq!(rows[2].image, ImageRef::Absent);
        assert_eq!(show(&rows[3]), "invalid_json");
    }

    #[tokio::test]
    async fn an_archive_that_is_cut_off_keeps_its_whole_rows() {
        let bytes = archive(&[("a.txt", b"one"), ("b.txt", b"two"), ("c.txt", &[b'x'; 4096])]);
        let rows = read_tar(bytes[..3000].to_vec()).await;
        let reasons: Vec<_> =
            rows.iter().map(|row| row.reject.as_ref().map(|reject| reject.reason)).collect();
        assert_eq!(reasons, [None, None, Some(RejectReason::BadEntry)]);
        assert_eq!(rows[2].row, 2);
    }

    /// What stood behind the end mark of an archive used to vanish.
    #[tokio::test]
    async fn archives_that_were_put_together_are_read_on() {
        let (one, two) = (archive(&[("a.txt", b"one")]), archive(&[("b.txt", b"two")]));
        let captions = async |pieces: &[&[u8]]| {
            let rows = read_tar(pieces.concat()).await;
            let caption = |row: &RawRow| match &row.reject {
                Some(reject) => format!("{} {}", row.row, reject.reason),
                None => row.fields["caption"].as_str().expect("a text").to_owned(),
            };
            rows.iter().map(caption).collect::<Vec<_>>()
        };
        assert_eq!(captions(&[&one, &two]).await, ["one", "two"]);
        assert_eq!(captions(&[&one, &[0; 10_240], &two, &[0; 300]]).await, ["one", "two"]);
        assert_eq!(captions(&[&one[..1024], &[0; 100]]).await, ["one"]);
        for garbage in [&[7; 512][..], b"text\n", &[&[0; 600][..], b"x"].concat()] {
            assert_eq!(captions(&[&one, garbage]).await, ["one", "1 bad_entry"]);
        }
    }

    /// Links were passed over without a word, and sparse files made rows under made-up names.
    #[tokio::test]
    async fn a_row_that_needs_a_link_is_refused_and_says_so() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut file = |name: &str, content: &[u8], of: tar::EntryType| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(of);
            header.set_size(content.len() as u64);
            if content.is_empty() {
                builder.append_link(&mut header, name, "x.txt").expect("appends");
            } else {
                builder.append_data(&mut header, name, content).expect("appends");
            }
        };
        use tar::EntryType::{Link, Regular, Symlink};
        file("a.jpg", b"JPEG", Regular);
        file("a.txt", b"", Link);
        file("b.jpg", b"", Symlink);
        file("b.txt", b"two", Regular);
        file("c.1.txt", b"", Symlink);
        file("c.txt", b"three", Regular);
        let sparse = [("GNU.sparse.major", b"1".as_slice()), ("GNU.sparse.name", b"d.jpg")];
        builder.append_pax_extensions(sparse).expect("appends");
        let mut header = tar::Header::new_ustar();
        header.set_size(4);
        builder.append_data(&mut header, "GNUSparseFile.1/d.jpg", b"hole".as_slice()).expect("appends");
        let rows = read_tar(builder.into_inner().expect("finishes")).await;
        let detail =
            |row: &RawRow| row.reject.as_ref().map(|reject| reject.detail.clone()).unwrap_or_default();
        let found: Vec<_> = rows.iter().map(|row| (row.fields["key"].clone(), detail(row))).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        for (index, what) in
            [(0, "`a.txt` is a hard link"), (1, "`b.jpg` is a symbolic"), (3, "`d.jpg` is a sparse")]
        {
            assert!(found[index].1.contains(what), "{found:?}");
        }
        assert_eq!(show(&rows[2]), r#"{"caption":"three","captions":["three"],"key":"c"}"#);
    }

    /// A header that describes the next member with so many bytes, of which some are there.
    fn describing(of: tar::EntryType, bytes: u64, there: usize) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path("@LongLink").expect("a path");
        header.set_entry_type(of);
        header.set_size(bytes);
        header.set_cksum();
        [header.as_bytes().as_slice(), &vec![b'n'; there], &vec![0; there.next_multiple_of(512) - there]]
            .concat()
    }

    /// Fifty gigabytes of a name used to be held, however small the archive was.
    #[tokio::test]
    async fn a_name_that_is_too_long_is_skipped_and_its_member_refused() {
        use tar::EntryType::{GNULongLink, GNULongName, XHeader};
        let part = |name: &str, content: &[u8]| archive(&[(name, content)])[..1024].to_vec();
        let end = [0; 1024];
        let limit = MAX_NAME_BYTES as usize;
        for of in [GNULongName, GNULongLink, XHeader] {
            let long = describing(of, 3 * MAX_NAME_BYTES + 5, 3 * limit + 5);
            let short = describing(GNULongName, 5, 5);
            let pieces = [
                part("a.txt", b"one"),
                long.clone(),
                part("cut.txt", b"two"),
                short,
                part("x.txt", b"no extension"),
                part("b.jpg", b"JPEG"),
                long,
                part("folder/c.bin", b"of no row"),
                part("b.txt", b"three"),
            ];
            let bytes = [pieces.concat(), end.to_vec()].concat();
            let rows = read_tar(bytes.clone()).await;
            let shown = |row: &RawRow| match &row.reject {
                Some(reject) => format!("{} {}", row.row, reject.detail),
                None => format!("{} {}", row.row, row.fields["caption"]),
            };
            let refused = |name: &str| {
                format!(
                    "the name of member `{name}` and what else describes it have 3145733 bytes, the limit is 1048576"
                )
            };
            let expected = [
                "0 \"one\"".to_owned(),
                format!("1 {}", refused("cut.txt")),
                "2 \"three\"".to_owned(),
                format!("3 {}", refused("folder/c.bin")),
            ];
            assert_eq!(rows.iter().map(shown).collect::<Vec<_>>(), expected, "{of:?}");
            assert_eq!(rows[2].image, picture(b"JPEG"));
            assert_eq!(read_tar(zstd::encode_all(&*bytes, 1).expect("compresses")).await.len(), 4);
        }
        // A name up to the limit is read, one that the archive does not have is damage, as is one without a member.
        let whole =
            [describing(GNULongName, MAX_NAME_BYTES, limit), part("x", b"one"), end.to_vec()].concat();
        assert!(read_tar(whole).await.is_empty(), "a name without an extension is of no row");
        for there in [0, 4 * limit] {
            let cut = [part("a.txt", b"one"), describing(GNULongName, 4 * MAX_NAME_BYTES, there)].concat();
            let cut = if there == 0 { cut } else { [cut, end.to_vec()].concat() };
            let rows = read_tar(cut).await;
            assert_eq!(rows.len(), 2, "{there}");
            assert_eq!(rows[1].reject.as_ref().map(|reject| reject.reason), Some(RejectReason::BadEntry));
        }
    }

    /// Headers are followed behind members whose size says something else than their header, and behind sparse files.
    #[tokio::test]
    async fn names_are_looked_at_behind_every_kind_of_member() {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([("size", b"700".as_slice())]).expect("appends");
        let mut header = tar::Header::new_ustar();
        header.set_path("a.txt").expect("a path");
        header.set_size(0);
        header.set_cksum();
        let mut bytes = builder.into_inner().expect("finishes");
        bytes.truncate(bytes.len() - 1024);
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&[[b'a'; 700].as_slice(), &[0; 324]].concat());
        let long = describing(tar::EntryType::GNULongName, 2 << 20, 2 << 20);
        bytes.extend_from_slice(&[long, archive(&[("b.txt", b"two")])].concat());
        let rows = read_tar(bytes).await;
        assert_eq!(rows[0].fields["caption"], "a".repeat(700));
        assert_eq!(rows.iter().map(|row| row.reject.is_some()).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn text_members_have_numbers() {
        let cases = [
            ("txt", Some(0)),
            ("1.txt", Some(1)),
            ("txt2", Some(2)),
            ("caption_3", Some(3)),
            ("caption.4", Some(4)),
            ("05.text", Some(5)),
            ("seg.txt", None),
            ("ocr_1", None),
            ("1", None),
            ("99999999999999999999.txt", None),
        ];
        for (extension, number) in cases {
            assert_eq!(caption_number(extension), number, "{extension}");
        }
    }

    #[tokio::test]
    async fn several_captions_are_a_list_in_the_order_of_their_numbers() {
        let rows = read_tar(archive(&[
            ("a.2.txt", b"two"),
            ("a.jpg", b"JPEG"),
            ("a.txt", b"zero"),
            ("a.1.txt", b"\xef\xbb\xbfone\r\n"),
            ("b.txt", b"short"),
            ("b.json", br#"{"captions": ["x", "y"], "caption": "z"}"#),
        ]))
        .await;
        assert_eq!(show(&rows[0]), r#"{"caption":"zero","captions":["zero","one","two"],"key":"a"}"#);
        assert_eq!(show(&rows[1]), r#"{"captions":["x","y"],"caption":"short","key":"b"}"#);
    }

    /// Keys out of order, and all pictures before all texts.
    #[tokio::test]
    async fn members_that_stand_apart_are_one_row() {
        let rows = read_tar(archive(&[
            ("b.jpg", b"B"),
            ("a.jpg", b"A"),
            ("a.txt", b"first"),
            ("b.json", b"{}"),
            ("b.txt", b"second"),
        ]))
        .await;
        let found: Vec<_> =
            rows.iter().map(|row| (row.row, row.fields["caption"].clone(), row.image.clone())).collect();
        assert_eq!(found, [(0, "second".into(), picture(b"B")), (1, "first".into(), picture(b"A"))]);
    }

    /// Who looks for columns sees those of all members, wherever they stand.
    #[test]
    fn fields_are_found_without_waiting() {
        let bytes =
            archive(&[("a.jpg", b"A"), ("b.jpg", b"B"), ("a.txt", b"one"), ("b.json", b"{\"n\": 1}")]);
        let file = InputFile {
            path: "a.tar".into(),
            below: "a.tar".to_owned(),
            bytes: bytes.len() as u64,
            e_tag: None,
            format: Format::Tar,
            part: None,
        };
        let wanted = WantedMembers { pick: &Pick::All, images: false, pieces: true };
        let mut found = Vec::new();
        let mut visit = |row: RawRow| {
            found.push(show(&row));
            Ok(found.len() < 2)
        };
        let memory = Arc::new(Memory::new(1 << 20));
        read(Box::new(std::io::Cursor::new(bytes)), &file, &wanted, &memory, &mut visit).expect("reads");
        assert_eq!(found, [r#"{"caption":"one","captions":["one"],"key":"a"}"#, r#"{"n":1,"key":"b"}"#]);
    }

    /// Names over 100 bytes, as GNU tar and as pax write them; compressed archives.
    #[tokio::test]
    async fn long_names_and_compressed_archives_are_read() {
        let long = format!("{}/{}", "folder".repeat(30), "ü".repeat(60));
        let gnu = archive(&[(&format!("{long}.txt"), b"gnu"), ("b.txt", b"short")]);
        let pax = {
            let mut builder = tar::Builder::new(Vec::new());
            let name = format!("{long}.txt");
            builder.append_pax_extensions([("path", name.as_bytes())]).expect("appends");
            let mut header = tar::Header::new_ustar();
            header.set_size(3);
            builder.append_data(&mut header, "cut.txt", b"pax".as_slice()).expect("appends");
            builder.into_inner().expect("finishes")
        };
        let gzip = {
            use std::io::Write;
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&gnu).expect("writes");
            encoder.finish().expect("finishes")
        };
        let zstd = zstd::encode_all(gnu.as_slice(), 1).expect("compresses");
        for (bytes, captions) in [(gnu, 2), (pax, 1), (gzip, 2), (zstd, 2)] {
            let rows = read_tar(bytes).await;
            assert_eq!(rows.len(), captions);
            assert_eq!(rows[0].fields["key"], Value::String(long.clone()));
        }
    }
}
