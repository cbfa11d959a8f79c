//! Milliseconds of a codec's training step and of encoding.
//!
//! `cargo bench --bench codec -- [PRESET] [SIZE] [BATCH] [STEPS]`
#![allow(clippy::print_stdout)]

use std::{error::Error, sync::Mutex, time::Instant};

use burn::tensor::Device;
use trainer::codec::{CodecChoice, Pictures, VaeEvent, VaeObserver, VaeTrainConfig, train};

/// Noise, which costs as much as anything else.
struct Noise(Vec<u8>, usize);

impl Pictures for Noise {
    fn len(&self) -> usize {
        self.0.len() / (self.1 * self.1 * 3)
    }
    fn size(&self) -> usize {
        self.1
    }
    fn rgb(&self, index: usize) -> &[u8] {
        let picture = self.1 * self.1 * 3;
        &self.0[index * picture..][..picture]
    }
}

struct Clock(Mutex<(Instant, Vec<f64>)>);

impl VaeObserver for Clock {
    fn event(&self, event: &VaeEvent) {
        if let (VaeEvent::Step(_), Ok(mut clock)) = (event, self.0.lock()) {
            let elapsed = clock.0.elapsed().as_secs_f64() * 1e3;
            clock.1.push(elapsed);
            clock.0 = Instant::now();
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let preset = arguments.first().map_or("demo", String::as_str);
    let (size, batch, steps) = (number(1, 32)?, number(2, 64)?, number(3, 60)?);
    let bytes = (0..4 * batch * size * size * 3).map(|at| (at.wrapping_mul(2_654_435_761) >> 16) as u8);
    let pictures = Noise(bytes.collect(), size);
    let folder = tempfile::tempdir()?;
    let config = VaeTrainConfig {
        output: folder.path().join("codec"),
        steps: steps as u64,
        size,
        batch,
        model: CodecChoice::Preset(preset.to_owned()),
        ..VaeTrainConfig::demo()
    };
    let clock = Clock(Mutex::new((Instant::now(), Vec::new())));
    let codec = train(&pictures, &config, &Device::flex(), &clock)?;
    let mut steps = clock.0.into_inner()?.1;
    steps.sort_by(f64::total_cmp);
    let (median, quickest) = (steps[steps.len() / 2], steps[0]);
    println!(
        "{preset}, {size} x {size}, batch {batch}: median {median:.1} ms a step, quickest {quickest:.1} ms"
    );

    let rgb = vec![0.1; batch * 3 * size * size];
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let start = Instant::now();
        codec.encode(&rgb, batch, size)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("encoding: {:.0} pictures a second", batch as f64 / best);
    Ok(())
}
