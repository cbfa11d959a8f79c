//! Pictures a second of decoding, orienting, resizing and cropping.
//!
//! `cargo bench --bench picture -- FOLDER [SIZE]`
//!
//! Every picture of the folder, again and again for three seconds, on one core.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::{Duration, Instant};

use pipeline::picture::PictureRules;

fn main() -> Result<(), Box<dyn Error>> {
    let given: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let folder = given.first().ok_or("usage: picture FOLDER [SIZE]")?;
    let size = given.get(1).map_or(Ok(256), |size| size.parse())?;
    let rules = PictureRules { size, ..PictureRules::default() };
    let mut pictures = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if ["jpg", "jpeg", "png"].contains(&extension) {
            pictures.push((extension.to_owned(), std::fs::read(&path)?));
        }
    }
    pictures.sort();
    for kind in pictures.chunk_by(|a, b| a.0 == b.0) {
        let (start, mut decoded) = (Instant::now(), 0_usize);
        while start.elapsed() < Duration::from_secs(3) {
            for (_, bytes) in kind {
                let (picture, _) = rules.decode(bytes)?;
                assert_eq!(picture.rgb.len(), 3 * (size as usize).pow(2));
            }
            decoded += kind.len();
        }
        let rate = decoded as f64 / start.elapsed().as_secs_f64();
        println!(
            "{}: {rate:.1} pictures a second and core, {} different ones, to {size} x {size}",
            kind[0].0,
            kind.len()
        );
    }
    Ok(())
}
