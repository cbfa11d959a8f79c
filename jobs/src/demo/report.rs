//! The demo's report: its data put into sections of one [`Page`].

use super::growth::Moment;
use super::mark::Stage;
use super::recipe::{CONTEXT, DEVIATIONS};
use crate::page::{Card, Curve, Page, Table, cards, charts, command, escape, img, mark, share_bar};
use crate::shapes::{Answers, Description, Drawing, Score, Tally, Verdict};
use crate::terminal::time;

/// All that the page shows.
pub(super) struct Report<'a> {
    /// What was done, in sentences; the first stands large.
    pub(super) summary: Vec<String>,
    /// Machine, versions, counts: name and value.
    pub(super) facts: Vec<(&'static str, String)>,
    /// What the model answered.
    pub(super) answers: &'a Answers,
    /// Losses over steps.
    pub(super) curves: Vec<Curve>,
    /// What was drawn while the model trained.
    pub(super) prompts: Vec<String>,
    /// The same prompts at several moments, in order.
    pub(super) moments: Vec<Moment>,
    /// Where the packed row stands, and the row as HTML.
    pub(super) row: (String, String),
    /// What ran, in order.
    pub(super) stages: &'a [Stage],
}

impl Report<'_> {
    /// The page.
    pub(super) fn html(&self) -> String {
        let (lead, rest) = self.summary.split_first().expect("a report begins with a sentence");
        let mut page = Page::new("transfusion demo", lead, rest);
        page.section(
            "Scores",
            "Fresh prompts and fresh pictures, scored without a model: nearest palette colour, connected parts, overlap \
             with templates. Both true wordings of a pair count. \u{201c}Held out\u{201d} are combinations that no \
             picture of the training shows.",
            &scores(&self.answers.scores()),
        );
        page.section(
            "Drawn from a prompt",
            "The model writes BOI, denoises 16 patches of noise, and the codec turns them into pixels. Nothing is \
             picked: these are the first of each kind.",
            &cards(&self.answers.drawings(14, 7).into_iter().map(drawing).collect::<Vec<_>>()),
        );
        page.section(
            "Described from a picture",
            "A fresh drawing stands before the text, clean; the caption is the most likely continuation, token by token.",
            &cards(&self.answers.descriptions(7, 7).into_iter().map(description).collect::<Vec<_>>()),
        );
        page.section(
            "While it learned",
            "The same prompts and the same noise, by the averaged weights of that step.",
            &timeline(&self.prompts, &self.moments),
        );
        page.section(
            "Losses",
            "Pale: as measured. Line: running mean, its end beside the title.",
            &charts(&self.curves),
        );
        let (place, row) = &self.row;
        page.section(
            "What the model reads",
            &format!(
                "One packed row of {CONTEXT} positions ({place}): documents one after another, none seeing the others. \
                 Images are shown as the codec decodes their stored latents."
            ),
            row,
        );
        page.section(
            "What ran",
            &format!(
                "The jobs that anyone would run, {} in all. The configs lie beside this page. Each command works again \
                 from the folder that the demo was started in; what is finished is never overwritten, so give vae \
                 train and train a new place with --set output=DIR and --set run=DIR.",
                time(self.seconds())
            ),
            &stages(self.stages, self.seconds()),
        );
        page.section(
            "Where the demo leaves the paper",
            "A model of under a million parameters and a few minutes of training ask for other settings than 7 billion \
             parameters and a trillion tokens. All of these are settings of the same jobs; their defaults are the \
             paper\u{2019}s values.",
            &deviations(),
        );
        let mut facts = Table::new("facts");
        self.facts.iter().for_each(|(name, value)| facts.texts([name, value.as_str()]));
        page.section("Where and with what", "", &facts.finish());
        page.finish()
    }

    fn seconds(&self) -> f64 {
        self.stages.iter().map(|stage| stage.seconds).sum()
    }
}

/// Goal beside reached, held-out combinations beside.
fn scores(scores: &[Score]) -> String {
    let mut table =
        Table::new("scores").heading(["What is counted", "", "Reached", "Goal", "Aim", "Held out"]);
    for score in scores {
        let reached = score.seen.percent().unwrap_or_default();
        let (right, ticks) = (reached >= score.goal, if reached >= score.aim { 2 } else { 1 });
        table.row([
            escape(score.what),
            share_bar(if right { "right" } else { "wrong" }, reached, &[score.goal, score.aim]),
            format!("<b>{}</b> {}", tally(score.seen), mark(right).repeat(ticks)),
            format!("{} %", score.goal),
            format!("{} %", score.aim),
            tally(score.held_out),
        ]);
    }
    table.finish()
}

fn tally(tally: Tally) -> String {
    let Some(percent) = tally.percent() else { return "\u{2013}".to_owned() };
    format!("{} % <small>of {}</small>", (percent * 10.0).round() / 10.0, tally.of)
}

fn drawing(drawing: &Drawing) -> Card {
    let why = match drawing.verdict {
        Verdict { wholly: true, .. } => "",
        Verdict { colour: true, .. } => "shape or size",
        Verdict { count: true, .. } => "colour or place",
        _ => "number of things",
    };
    Card {
        png: drawing.picture.png(),
        caption: format!("{}{}", escape(&drawing.prompt), held_out(drawing.held_out)),
        right: drawing.verdict.wholly,
        why: why.to_owned(),
    }
}

fn description(one: &Description) -> Card {
    Card {
        png: one.picture.png(),
        caption: format!("\u{201c}{}\u{201d}{}", escape(&one.caption), held_out(one.held_out)),
        right: one.right,
        why: if one.right { String::new() } else { format!("it is {}", escape(&one.truth)) },
    }
}

fn held_out(held_out: bool) -> &'static str {
    if held_out { " <span class=\"tag\">held out</span>" } else { "" }
}

/// The same prompts while the model learns.
fn timeline(prompts: &[String], moments: &[Moment]) -> String {
    let heading = std::iter::once("").chain(prompts.iter().map(String::as_str));
    let mut table = Table::new("timeline").heading(heading);
    for moment in moments {
        let cells = moment
            .pictures
            .iter()
            .map(|(picture, verdict)| format!("{}{}", img(&picture.png()), mark(verdict.wholly)));
        table.row(std::iter::once(format!("step {}", moment.step)).chain(cells));
    }
    table.finish()
}

/// What ran, with its commands and times.
fn stages(stages: &[Stage], seconds: f64) -> String {
    let item = |stage: &Stage| {
        format!(
            "<li><div class=\"line\"><b>{}</b> <span>{}</span> <span class=\"number\">{}</span></div>{}{}</li>\n",
            escape(&stage.name),
            escape(&stage.what),
            time(stage.seconds),
            share_bar("thin", 100.0 * stage.seconds / seconds.max(1e-9), &[]),
            stage.command.as_deref().map_or(String::new(), command),
        )
    };
    let items: String = stages.iter().map(item).collect();
    if items.is_empty() { items } else { format!("<ol class=\"stages\">\n{items}</ol>\n") }
}

/// The demo's settings beside the paper's.
fn deviations() -> String {
    let mut table = Table::new("").heading(["Setting", "Paper, and default", "This demo", "Why"]);
    DEVIATIONS.lines().for_each(|line| table.texts(line.split(" | ")));
    table.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::{Corpus, Questions, Subset, milestones};

    /// A report of true drawings instead of samples, some of which answer another question.
    fn report<'a>(answers: &'a Answers, stages: &'a [Stage]) -> Report<'a> {
        let pictures = milestones(1).into_iter().map(|one| (one.picture, Verdict::default())).collect();
        let points = (1..=1000).map(|step| (f64::from(step), 5.0 / f64::from(step))).collect();
        Report {
            summary: vec!["A model learned to draw.".to_owned(), "From nothing.".to_owned()],
            facts: vec![("processor", "an example <processor>".to_owned())],
            answers,
            curves: vec![Curve { title: "Text".into(), unit: "nats a token".into(), points }],
            prompts: milestones(1).iter().map(|one| one.scene.caption()).collect(),
            moments: vec![Moment { step: 200, pictures }],
            row: ("shard, row 0".to_owned(), "<ol></ol>".to_owned()),
            stages,
        }
    }

    fn answers(seen: u64) -> Answers {
        let questions = Questions::new(1, seen, seen / 2);
        let (mut pictures, prompts) = (questions.pictures(), questions.prompts());
        if let Some(first) = pictures.first_mut() {
            *first = Corpus { seed: 9, subset: Subset::Pairs }.example(0).picture;
        }
        questions.judge(pictures, prompts)
    }

    fn stage() -> Stage {
        let command = Some("transfusion train a.toml --set x=\"2e-3\"".to_owned());
        Stage { name: "model".into(), what: "40 steps".into(), command, seconds: 3.0 }
    }

    #[test]
    fn the_page_holds_everything_and_loads_nothing() {
        let (answers, stages) = (answers(20), [stage()]);
        let page = report(&answers, &stages).html();
        for drawing in answers.drawings(14, 7) {
            assert!(page.contains(&format!("<figcaption>{}", drawing.prompt)), "{}", drawing.prompt);
        }
        assert!(page.contains(&escape(stages[0].command.as_ref().unwrap())));
        assert!(page.contains("an example &lt;processor&gt;"));
        assert!(page.contains("<figure class=\"wrong\">") && page.contains("<figure class=\"right\">"));
        // Every address is inside the page; the names of XML are no addresses that are loaded.
        for piece in page.split("src=\"").skip(1) {
            assert!(piece.starts_with("data:image/png;base64,"));
        }
        for outside in ["http://", "https://", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn tags_are_balanced() {
        let (answers, stages) = (answers(20), [stage()]);
        let page = report(&answers, &stages).html();
        for tag in [
            "section", "figure", "table", "tr", "td", "th", "div", "svg", "ol", "li", "p", "pre", "span",
            "main",
        ] {
            let opened =
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn an_empty_report_is_a_page_too() {
        let answers = answers(0);
        let empty =
            Report { curves: vec![], moments: vec![], row: Default::default(), ..report(&answers, &[]) };
        let page = empty.html();
        assert!(!page.contains("NaN") && page.contains("</html>") && !page.contains("While it learned"));
    }
}
