//! Jobs on pictures that are damaged, turned, huge, or of another colour space: rows are counted right and their
//! latents have the right values.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray};
use image::{DynamicImage, ImageFormat, Rgba, RgbaImage};

use super::fixtures::{
    Job, archive, batch, config, corpus, counts, manifest, pairs, parquet, rejects, rows, strings, structs,
};
use crate::picture::tests::{encoded, exif, flat_jpeg, jpeg, quarters, with_exif};
use crate::{CaptionChoice, PictureConfig, PreprocessConfig, SourceConfig};

/// A Parquet file as Hugging Face datasets writes it, one row a picture.
fn table(pictures: &[Vec<u8>]) -> Vec<u8> {
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(pictures));
    let paths = strings(&vec![None; pictures.len()]);
    let captions = strings(&vec![Some("c"); pictures.len()]);
    parquet(&[batch(vec![
        ("image", structs(vec![("bytes", bytes), ("path", paths)])),
        ("caption", captions),
    ])])
}

async fn job(pictures: &[Vec<u8>]) -> Job {
    Job::new(&corpus(&[("in/p.parquet", &table(pictures))]).await)
}

fn source() -> Vec<crate::SourceConfig> {
    vec![pairs("pics", "in/p.parquet")]
}

/// The latents of a dataset by row: means of 4 x 4 pixels, channel by channel, from -1 to 1.
async fn latents(job: &Job) -> Vec<(u64, Vec<f32>)> {
    let mut latents = Vec::new();
    for (row, _) in rows(&job.output).await {
        for (image, source) in row.images().iter().zip(row.sources()) {
            latents.push((source.row, image.values.iter().map(|value| value.to_f32()).collect()));
        }
    }
    latents.sort_by_key(|(row, _)| *row);
    latents
}

/// The colour of the first latent pixel, 0 to 255.
fn colour(latent: &[f32]) -> [u8; 3] {
    let plane = latent.len() / 3;
    [0, 1, 2].map(|channel| ((latent[channel * plane] + 1.0) * 127.5).round() as u8)
}

#[tokio::test]
async fn a_truncated_jpeg_among_three_rows_is_one_reject() {
    let whole = jpeg(&quarters());
    let cut = whole[..whole.len() * 6 / 10].to_vec();
    let job = job(&[whole.clone(), cut, whole]).await;
    let report = job.run(config(source())).await.expect("runs");
    assert_eq!(counts(&report), [3, 2, 1, 0, 0]);
    assert_eq!(rejects(&job.output).await, [("p.parquet".to_owned(), 1, "image_truncated".to_owned())]);
    let found = latents(&job).await;
    assert_eq!(found.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(found[0].1, found[1].1);
}

#[tokio::test]
async fn an_exif_fraction_over_zero_is_a_warning_and_not_a_reject() {
    let plain = jpeg(&quarters());
    let odd = with_exif(&plain, &exif(&[(0x011A, 5, 26)]));
    let job = job(&[plain, odd]).await;
    let report = job.run(config(source())).await.expect("runs");
    assert_eq!(counts(&report), [2, 2, 0, 0, 0]);
    assert_eq!(report.sources[0].statistics.warnings.get("exif_bad"), Some(&1));
    let found = latents(&job).await;
    assert_eq!(found[0].1, found[1].1, "the pixels are the same");
}

/// A row counts once, however many documents its captions make.
#[tokio::test]
async fn a_warning_is_of_a_row_and_not_of_its_documents() {
    let odd = with_exif(&jpeg(&quarters()), &exif(&[(0x011A, 5, 26)]));
    let table = b"{\"file_name\":\"a.jpg\",\"captions\":[\"x\",\"y\",\"z\"]}\n";
    let job = Job::new(&corpus(&[("in/captions.jsonl", table), ("in/a.jpg", &odd)]).await);
    let source = SourceConfig { captions: Some(CaptionChoice::Each), ..pairs("pics", "in") };
    let report = job.run(config(vec![source])).await.expect("runs");
    let statistics = &report.sources[0].statistics;
    assert_eq!((statistics.kept, statistics.documents), (1, 3));
    assert_eq!(statistics.warnings.get("exif_bad"), Some(&1));
}

#[tokio::test]
async fn a_cmyk_jpeg_keeps_its_colour() {
    // Full cyan, as Adobe's programs store it, and the same through YCCK.
    let job = job(&[flat_jpeg(&[0, 255, 255, 255], Some(0)), flat_jpeg(&[76, 85, 255, 255], Some(2))]).await;
    let report = job.run(config(source())).await.expect("runs");
    assert_eq!(counts(&report), [2, 2, 0, 0, 0]);
    for (row, latent) in latents(&job).await {
        let [red, green, blue] = colour(&latent);
        assert!(red <= 3 && green >= 252 && blue >= 252, "row {row}: {:?}", [red, green, blue]);
    }
}

/// Stored in eight ways, seen in one: the latents agree. The switch that turns this off is in the manifest.
#[tokio::test]
async fn all_orientations_of_a_picture_give_the_same_latent() {
    use image::metadata::Orientation;
    let stored = |value: u8| {
        let orientation = Orientation::from_exif(value).expect("an orientation");
        let back = match orientation {
            Orientation::Rotate90 => Orientation::Rotate270,
            Orientation::Rotate270 => Orientation::Rotate90,
            same => same,
        };
        let mut picture = DynamicImage::ImageRgb8(quarters());
        picture.apply_orientation(back);
        with_exif(&jpeg(picture.as_rgb8().expect("RGB")), &exif(&[(0x0112, 3, value.into())]))
    };
    let pictures: Vec<Vec<u8>> = (1..=8).map(stored).collect();
    let applied = job(&pictures).await;
    applied.run(config(source())).await.expect("runs");
    let found = latents(&applied).await;
    assert_eq!(found.len(), 8);
    for (row, latent) in &found {
        // JPEG's blocks lie otherwise in a turned picture: a few levels of 256.
        let far = latent.iter().zip(&found[0].1).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 0.06, "orientation {}: {far}", row + 1);
    }
    assert_eq!(manifest(&applied.output).await.config["pictures"]["orientation"], true);
    let as_stored = Job::new(&applied.inputs);
    let pictures = PictureConfig { orientation: false, ..PictureConfig::default() };
    as_stored.run(PreprocessConfig { pictures, ..config(source()) }).await.expect("runs");
    assert_eq!(manifest(&as_stored.output).await.config["pictures"]["orientation"], false);
    let turned = latents(&as_stored).await;
    assert_ne!(turned[2].1, found[2].1);
}

/// A header that declares ten thousand million pixels is refused before they are asked for.
#[tokio::test]
async fn a_picture_that_declares_too_much_is_refused_by_its_header() {
    let header = [&100_000_u32.to_be_bytes()[..], &100_000_u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&[b"IHDR", header.as_slice()].concat());
    let bomb =
        [b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", header.as_slice(), &crc.sum().to_be_bytes(), b"\0\0\0\0IDAT"]
            .concat();
    let job = job(&[jpeg(&quarters()), bomb]).await;
    let report = job.run(config(source())).await.expect("runs");
    assert_eq!(counts(&report), [2, 1, 1, 0, 0]);
    assert_eq!(rejects(&job.output).await, [("p.parquet".to_owned(), 1, "image_too_large".to_owned())]);
}

#[tokio::test]
async fn transparent_pixels_have_the_colour_of_the_background() {
    let clear: DynamicImage = RgbaImage::from_pixel(2, 2, Rgba([255, 0, 0, 0])).into();
    let inputs = job(&[encoded(&clear, ImageFormat::Png)]).await.inputs;
    for (background, expected) in [(None, [255, 255, 255]), (Some([0, 0, 255]), [0, 0, 255])] {
        let job = Job::new(&inputs);
        let mut pictures = PictureConfig::default();
        pictures.background = background.unwrap_or(pictures.background);
        job.run(PreprocessConfig { pictures, ..config(source()) }).await.expect("runs");
        assert_eq!(colour(&latents(&job).await[0].1), expected);
    }
}

/// The same damage in an archive: what is whole before and behind it is kept.
#[tokio::test]
async fn a_truncated_jpeg_in_an_archive_is_one_reject() {
    let whole = jpeg(&quarters());
    let members: [(&str, &[u8]); 6] = [
        ("a.jpg", &whole),
        ("a.txt", b"c"),
        ("b.jpg", &whole[..whole.len() / 2]),
        ("b.txt", b"c"),
        ("c.jpg", &whole),
        ("c.txt", b"c"),
    ];
    let job = Job::new(&corpus(&[("in/a.tar", &archive(&members))]).await);
    let report = job.run(config(vec![pairs("pics", "in/a.tar")])).await.expect("runs");
    assert_eq!(counts(&report), [3, 2, 1, 0, 0]);
    assert_eq!(rejects(&job.output).await, [("a.tar".to_owned(), 1, "image_truncated".to_owned())]);
}
