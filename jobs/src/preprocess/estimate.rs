//! What a job would do, said before it starts: `--explain` and `--dry-run`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use pipeline::codec::{ImageCodec, RgbBatch};
use pipeline::{Estimate, PreprocessPlan};
use serde_json::json;

use super::say_passed_over;
use crate::cli::PreprocessArgs;
use crate::terminal::{Palette, Printer, bytes, count, duration, percent, table, thousands};

/// Says how the job would run, and what would come of it.
pub(super) async fn show(
    plan: &PreprocessPlan,
    args: &PreprocessArgs,
    printer: &Printer,
) -> anyhow::Result<()> {
    if plan.units().is_empty() {
        return nothing_left(plan, args, printer);
    }
    let explained = if args.explain { Some(plan.explain().await?) } else { None };
    let predicted = if args.dry_run { Some(Prediction::of(plan).await?) } else { None };
    if printer.json() {
        let units: Vec<_> = plan
            .units()
            .into_iter()
            .map(|unit| json!({ "unit": unit.unit, "source": unit.source, "files": unit.files, "bytes": unit.bytes }))
            .collect();
        let (estimate, seconds) = predicted.map(|predicted| (predicted.estimate, predicted.seconds)).unzip();
        return printer.document(&json!({
            "units": units, "plan": explained, "estimate": estimate, "seconds": seconds,
            "passed-over": plan.passed_over(), "config": plan.config(),
        }));
    }
    let predicted = predicted.map(|predicted| prediction(&predicted, printer.palette(), printer.width()));
    printer.data(&[predicted, explained].into_iter().flatten().collect::<Vec<_>>().join("\n"))?;
    plan.passed_over().iter().for_each(|passed| say_passed_over(passed, printer));
    printer.note("nothing was written; leave `--dry-run` and `--explain` out to start");
    Ok(())
}

/// Says that the output has all there is, and how it could get more.
fn nothing_left(plan: &PreprocessPlan, args: &PreprocessArgs, printer: &Printer) -> anyhow::Result<()> {
    if printer.json() {
        return printer.document(&json!({
            "units": [], "plan": null, "estimate": null, "seconds": 0.0, "config": plan.config(),
        }));
    }
    let output = &plan.config().output;
    printer.data(&match args.retry_rejects {
        true => {
            format!("no row of {output} was refused for a reason that may pass: nothing would be run again\n")
        }
        false => format!("all input is packed in {output} already: nothing would be done\n"),
    })?;
    printer.note("new files in the sources make a further version of it; `--set output=OTHER` packs all of it elsewhere");
    Ok(())
}

/// A prediction, and how long the job would take at the speed of the sample.
struct Prediction {
    estimate: Estimate,
    seconds: f64,
}

impl Prediction {
    async fn of(plan: &PreprocessPlan) -> anyhow::Result<Self> {
        let start = Instant::now();
        let estimate = plan.estimate().await?;
        let share = estimate.bytes as f64 / estimate.sampled_bytes.max(1) as f64;
        let mut seconds = start.elapsed().as_secs_f64() * share;
        let images: u64 = estimate.sources.iter().map(|source| source.images).sum();
        if let (Some(settings), Some(codec)) = (&plan.config().codec, plan.codec()) {
            seconds +=
                seconds_a_picture(codec, settings.size as usize, settings.batch).await? * images as f64;
        }
        Ok(Self { estimate, seconds })
    }
}

/// What the codec takes for a picture, from one batch, on a thread that a stop does not wait for.
async fn seconds_a_picture(codec: Arc<dyn ImageCodec>, size: usize, count: usize) -> anyhow::Result<f64> {
    let encoding = tokio::task::spawn_blocking(move || {
        let mut batch = RgbBatch { images: 0, size, values: Vec::new() };
        let grey = vec![128; 3 * size * size];
        (0..count).for_each(|_| batch.push(&grey));
        let start = Instant::now();
        codec.encode(&batch, false).map(|_| start.elapsed().as_secs_f64() / count as f64)
    });
    let seconds = encoding.await.context("the codec failed")?;
    seconds.map_err(|error| anyhow!(error).context("the codec failed"))
}

/// The prediction for a person.
fn prediction(predicted: &Prediction, palette: Palette, width: usize) -> String {
    let Prediction { estimate, seconds } = predicted;
    let of = match estimate.exact {
        true => format!("all {} of input", bytes(estimate.bytes)),
        false => format!("{} of {} of input", bytes(estimate.sampled_bytes), bytes(estimate.bytes)),
    };
    let mut text = format!("predicted from {of}:\n");
    let names = [
        "source", "units", "read", "kept", "rejected", "text", "images", "rows", "padding", "shards", "bytes",
    ];
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    rows.extend(estimate.sources.iter().map(|source| {
        let numbers =
            [source.units as u64, source.read, source.kept, source.rejected(), source.tokens, source.images];
        let positions = source.tokens + source.patches + source.padding;
        let mut row = vec![source.name.clone()];
        row.extend(numbers.map(thousands));
        row.extend([thousands(source.rows), percent(source.padding, positions)]);
        row.extend([thousands(source.shards), bytes(source.shard_bytes)]);
        row
    }));
    text.push_str(&table(&rows, palette, width));
    for source in estimate.sources.iter().filter(|source| !source.rejects.is_empty()) {
        let reasons: Vec<_> = source
            .rejects
            .iter()
            .map(|(reason, number)| format!("{reason} {}", thousands(*number)))
            .collect();
        text.push_str(&format!("rejects of {}: {}\n", source.name, reasons.join(", ")));
    }
    let units = count(estimate.units_at_once as u64, "unit");
    text.push_str(&format!("memory: {} for {units} at a time", bytes(estimate.memory_bytes)));
    if let (Some(weights), Some(activations)) = (estimate.codec_weight_bytes, estimate.codec_activation_bytes)
    {
        let (weights, activations) = (bytes(weights), bytes(activations));
        text.push_str(&format!(
            "; beside it {weights} of codec weights and {activations} of a batch in the codec"
        ));
    }
    text.push_str(&format!("\ntime: about {}\n", duration(Duration::from_secs_f64(*seconds))));
    text
}
