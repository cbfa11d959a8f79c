//! What a run says of itself, before its first step and after its last, in lines of at most 80 columns.

use std::path::Path;

use trainer::run::{Description, Memory, StepReport};

use crate::settings::shell;
use crate::terminal::{bytes, count, percent, thousands};

/// The run, its model, memory and data, each from a line of its own.
pub(super) fn description_lines(of: &Description) -> Vec<String> {
    let from =
        if of.first_step > 0 { format!(" from step {}", thousands(of.first_step)) } else { String::new() };
    let mut lines = vec![
        format!("run: {}: {} of {}{from}", of.run, count(of.steps, "step"), count(of.batch as u64, "row")),
        format!(
            "model: {} parameters ({} transformer, {} image ends)",
            thousands(of.parameters),
            thousands(of.transformer_parameters),
            thousands(of.image_parameters)
        ),
        memory_line(&of.memory),
    ];
    if let Some(init) = &of.init {
        lines.push(format!("weights: those of {init}"));
    }
    for data in &of.datasets {
        let all = data.tokens + data.patches + data.padding;
        let source = data.source.as_ref().map_or_else(String::new, |source| format!(" ({source})"));
        lines.push(format!(
            "data: {}{source}: {}, {} text, {} patches, {} padding; {:.0} % of the mix, {:.1} epochs",
            data.uri,
            count(data.rows, "row"),
            thousands(data.tokens),
            thousands(data.patches),
            percent(data.padding, all),
            100.0 * data.share,
            data.epochs
        ));
    }
    lines
}

/// All memory, and what it is for.
fn memory_line(of: &Memory) -> String {
    let parts = [
        ("weights", of.weights),
        ("gradients", of.gradients),
        ("optimizer", of.optimizer),
        ("average", of.average),
        ("activations", of.activations),
        ("rows", of.rows),
        ("save", of.save),
    ];
    let parts = parts.into_iter().filter(|&(_, size)| size > 0);
    let parts: Vec<String> = parts.map(|(name, size)| format!("{name} {}", bytes(size))).collect();
    format!("memory: about {} at most: {}", bytes(of.total()), parts.join(", "))
}

/// The last step in numbers.
pub(super) fn last_lines(last: &StepReport) -> Vec<String> {
    let named = |name: &str, value: Option<f64>| value.map(|value| format!("{name} {value:.3}"));
    let mut lines = Vec::new();
    let mut line = |label: &str, parts: Vec<Option<String>>| {
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if !parts.is_empty() {
            lines.push(format!("{label}: {}", parts.join(", ")));
        }
    };
    line("last step", vec![named("text loss", last.text_loss), named("image loss", last.image_loss)]);
    let order = &last.image_error_by_order;
    line(
        "image error by order",
        vec![
            named("caption first", order.caption_first),
            named("image first", order.image_first),
            named("neither", order.neither),
        ],
    );
    let by_t = last.image_error_by_t;
    if by_t.iter().any(Option::is_some) {
        let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        let by_t: Vec<String> = by_t.into_iter().map(show).collect();
        lines.push(format!("image error by noise, clean to noisy: {}", by_t.join(" / ")));
    }
    lines
}

/// The command that draws from a finished run, and what it needs: a model of text alone writes, and one whose
/// checkpoints hold no codec needs its folder named.
pub(super) fn sample_command(run: &Path, prompt: Option<&str>, draws: bool, has_codec: bool) -> String {
    let run = shell(&run.display().to_string());
    let prompt = shell(prompt.unwrap_or(if draws { "a red circle" } else { "Once upon a time" }));
    match (draws, has_codec) {
        (true, true) => format!("transfusion sample {run} --prompt {prompt}"),
        (true, false) => format!("transfusion sample {run} --prompt {prompt} --codec DIR"),
        (false, _) => format!("transfusion sample {run} --text --prompt {prompt}"),
    }
}

#[cfg(test)]
mod tests {
    use trainer::run::ByOrder;

    use super::*;
    use crate::terminal::{NARROW, columns_of, wrapped};

    #[test]
    fn the_largest_runs_fit_a_terminal() {
        let dataset = trainer::run::DatasetDescription {
            uri: "s3://a-bucket-of-some-length/corpora/packed/pairs".to_owned(),
            source: Some("pairs".to_owned()),
            share: 0.5,
            rows: 123_456_789,
            tokens: 498_765_432_101,
            patches: 498_765_432_101,
            padding: 9_876_543_210,
            epochs: 1.0,
        };
        let description = Description {
            run: "runs/7b-1t".to_owned(),
            first_step: 120_000,
            steps: 250_000,
            batch: 2048,
            parameters: 7_123_456_789,
            transformer_parameters: 7_000_000_000,
            image_parameters: 123_456_789,
            init: Some("runs/a-run-before/checkpoints/step-00120000".to_owned()),
            memory: Memory {
                weights: 28_000_000_000,
                gradients: 56_000_000_000,
                optimizer: 57_000_000_000,
                average: 28_000_000_000,
                activations: 1_234_000_000_000,
                rows: 12_000_000_000,
                save: 1_000_000_000,
            },
            datasets: vec![dataset],
        };
        let lines: Vec<String> =
            description_lines(&description).iter().map(|line| wrapped(line, NARROW, 2)).collect();
        let lines: Vec<&str> = lines.iter().flat_map(|line| line.lines()).collect();
        assert!(lines.iter().all(|line| columns_of(line) <= 80), "{lines:#?}");
        assert!(lines.last().is_some_and(|line| line.contains("epochs")), "the data stands last: {lines:#?}");
    }

    #[test]
    fn a_last_step_says_what_there_was() {
        let report = StepReport {
            text_loss: Some(2.345),
            image_loss: Some(1_234.5),
            image_error_by_t: [Some(1_000.25), Some(0.2), Some(0.3), None],
            image_error_by_order: ByOrder { caption_first: Some(0.4), ..ByOrder::default() },
            ..StepReport::default()
        };
        let expected = [
            "last step: text loss 2.345, image loss 1234.500",
            "image error by order: caption first 0.400",
            "image error by noise, clean to noisy: 1000.250 / 0.200 / 0.300 / -",
        ];
        assert_eq!(last_lines(&report), expected);
        let text = StepReport { text_loss: Some(1.0), ..StepReport::default() };
        assert_eq!(last_lines(&text), ["last step: text loss 1.000"]);
    }

    #[test]
    fn a_command_to_sample_fits_the_model() {
        let run = Path::new("runs/my run");
        let found = |draws, codec| sample_command(run, None, draws, codec);
        assert_eq!(found(true, true), "transfusion sample 'runs/my run' --prompt 'a red circle'");
        assert_eq!(
            found(true, false),
            "transfusion sample 'runs/my run' --prompt 'a red circle' --codec DIR"
        );
        assert_eq!(found(false, true), "transfusion sample 'runs/my run' --text --prompt 'Once upon a time'");
    }
}
