//! The demo's report: one HTML page that needs nothing else.
//!
//! [`Report`] holds what there is to show and nothing of how; [`Report::html`] draws it. Style and the one small
//! script (copy buttons) are part of the page, curves are SVG drawn by [`chart`], pictures are PNG in `data:`
//! addresses, shown with hard pixels. Nothing is loaded from anywhere, so that the page can be sent as a file.

mod chart;
mod sections;

pub(crate) use chart::Curve;

use super::drawing::Picture;
use super::scorer::Verdict;

/// All that the page shows.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// What was done, in sentences; the first stands large.
    pub(crate) summary: Vec<String>,
    /// Machine, versions, counts: name and value.
    pub(crate) facts: Vec<(String, String)>,
    /// Shares right, with what was to be reached.
    pub(crate) scores: Vec<Score>,
    /// Losses over steps.
    pub(crate) curves: Vec<Curve>,
    /// The same prompts drawn at several moments of the training.
    pub(crate) timeline: Timeline,
    /// Pictures drawn from prompts.
    pub(crate) drawn: Vec<Drawn>,
    /// Captions given to pictures.
    pub(crate) told: Vec<Told>,
    /// One packed row.
    pub(crate) row: RowDrawing,
    /// What ran, in order.
    pub(crate) stages: Vec<Stage>,
    /// Settings that are not the paper's.
    pub(crate) deviations: Vec<Deviation>,
}

/// A share of answers that are right.
#[derive(Clone, Debug)]
pub(crate) struct Score {
    /// What is counted, for example "single objects: the right colour".
    pub(crate) what: String,
    /// Right answers among those trained on.
    pub(crate) seen: Tally,
    /// Right answers among combinations that were never trained on.
    pub(crate) held_out: Tally,
    /// Per cent to reach.
    pub(crate) goal: f64,
    /// Per cent to aim at.
    pub(crate) aim: f64,
}

/// Right answers of all answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Tally {
    /// Right ones.
    pub(crate) right: usize,
    /// All.
    pub(crate) of: usize,
}

impl Tally {
    /// Counts `true`.
    pub(crate) fn count(answers: impl IntoIterator<Item = bool>) -> Self {
        answers.into_iter().fold(Self::default(), |tally, right| Self {
            right: tally.right + usize::from(right),
            of: tally.of + 1,
        })
    }

    /// Right ones in per cent; none without answers.
    pub(crate) fn percent(&self) -> Option<f64> {
        (self.of > 0).then(|| 100.0 * self.right as f64 / self.of as f64)
    }
}

/// The same prompts at several moments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {
    /// The prompts, one a column.
    pub(crate) prompts: Vec<String>,
    /// The moments in order.
    pub(crate) moments: Vec<Moment>,
}

/// Pictures sampled at one moment of the training.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    /// Steps done.
    pub(crate) step: u64,
    /// One picture a prompt.
    pub(crate) pictures: Vec<(Picture, Verdict)>,
}

/// A picture drawn from a prompt.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    /// What was asked for.
    pub(crate) prompt: String,
    /// What came.
    pub(crate) picture: Picture,
    /// What of it is right.
    pub(crate) verdict: Verdict,
    /// Whether the combination was never trained on.
    pub(crate) held_out: bool,
}

/// A caption given to a picture.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// The picture shown.
    pub(crate) picture: Picture,
    /// What it shows.
    pub(crate) truth: String,
    /// What the model said.
    pub(crate) caption: String,
    /// Whether that is true, in either wording.
    pub(crate) right: bool,
    /// Whether the combination was never trained on.
    pub(crate) held_out: bool,
}

/// A packed row, ready to be drawn.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowDrawing {
    /// Where it stands: shard and row.
    pub(crate) place: String,
    /// Positions of the row.
    pub(crate) context: usize,
    /// Its documents in order.
    pub(crate) documents: Vec<DocumentDrawing>,
    /// Positions that hold nothing.
    pub(crate) padding: usize,
}

/// One document of a row.
#[derive(Clone, Debug)]
pub(crate) struct DocumentDrawing {
    /// Where it came from and which part stands first.
    pub(crate) label: String,
    /// What stands in it.
    pub(crate) parts: Vec<Part>,
}

/// A piece of a document.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// One token of text: its piece and id.
    Token(String, u32),
    /// BOS, EOS, BOI or EOI, and its id.
    Marker(&'static str, u32),
    /// An image, decoded from its latent.
    Image {
        /// The picture.
        picture: Picture,
        /// Positions it takes.
        patches: usize,
    },
}

impl Part {
    const fn positions(&self) -> usize {
        match self {
            Self::Token(..) | Self::Marker(..) => 1,
            Self::Image { patches, .. } => *patches,
        }
    }
}

/// One job that ran.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// Short name.
    pub(crate) name: String,
    /// What it did, with its counts.
    pub(crate) what: String,
    /// The command that does the same; none for what has no command of its own.
    pub(crate) command: Option<String>,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// A setting that differs from the paper's.
#[derive(Clone, Debug)]
pub(crate) struct Deviation {
    /// What is set, with the config key.
    pub(crate) setting: String,
    /// The paper's value, which is the program's default.
    pub(crate) paper: String,
    /// The demo's value.
    pub(crate) demo: String,
    /// Why.
    pub(crate) why: String,
}

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("copy.js");

impl Report {
    /// The page.
    pub(crate) fn html(&self) -> String {
        let body: String = [
            sections::head(self),
            sections::scores(&self.scores),
            sections::drawn(&self.drawn),
            sections::told(&self.told),
            sections::timeline(&self.timeline),
            sections::curves(&self.curves),
            sections::row(&self.row),
            sections::stages(&self.stages),
            sections::deviations(&self.deviations),
            sections::facts(&self.facts),
        ]
        .concat();
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>transfusion demo</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
             <script>\n{SCRIPT}</script>\n</body>\n</html>\n"
        )
    }
}

/// Text as it may stand in HTML, in attributes too.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// A length of time for people: `48 s`, `11 min 20 s`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=9 => format!("{seconds:.1} s"),
        10..=119 => format!("{whole} s"),
        _ => format!("{} min {:02} s", whole / 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::super::drawing::{Corpus, Subset};
    use super::super::scorer::{caption_is_right, judge};
    use super::*;

    /// A report of drawings instead of samples, every seventh of them swapped with its neighbour.
    fn example() -> Report {
        let sample = |subset, index: u64| Corpus { seed: 1, subset }.sample(index);
        let subset = |index: u64| match index % 12 {
            0..5 => Subset::Singles,
            5..10 => Subset::Pairs,
            10 => Subset::HeldOutSingles,
            _ => Subset::HeldOutPairs,
        };
        let drawn: Vec<Drawn> = (0..24)
            .map(|index| {
                let asked = sample(subset(index), index);
                let came = sample(subset(index), if index % 7 == 3 { index + 100 } else { index });
                Drawn {
                    prompt: asked.scene.caption(),
                    verdict: judge(&came.picture, &asked.scene),
                    picture: came.picture,
                    held_out: asked.scene.is_held_out(),
                }
            })
            .collect();
        let told = (0..16)
            .map(|index| {
                let (shown, said) =
                    (sample(subset(index), index), sample(subset(index), index + u64::from(index == 4)));
                let caption = said.scene.other_wording().caption();
                Told {
                    right: caption_is_right(&caption, &shown.scene),
                    truth: shown.scene.caption(),
                    held_out: shown.scene.is_held_out(),
                    picture: shown.picture,
                    caption,
                }
            })
            .collect();
        let tally = |right, of| Tally { right, of };
        let score =
            |what: &str, seen, held_out, goal, aim| Score { what: what.into(), seen, held_out, goal, aim };
        let prompts: Vec<_> = (0..6).map(|index| sample(subset(index * 2), 50 + index)).collect();
        let moments = [200, 1000, 4000].map(|step| Moment {
            step,
            pictures: prompts
                .iter()
                .map(|prompt| {
                    let fade = (step as f32 / 4000.0).powf(0.3);
                    let grey = |value: &f32| 0.6 + fade * (value - 0.6);
                    let picture = Picture(prompt.picture.0.iter().map(grey).collect());
                    let verdict = judge(&picture, &prompt.scene);
                    (picture, verdict)
                })
                .collect(),
        });
        let decay = |scale: f64, floor: f64, rate: f64| {
            (1..=1000).map(move |step| {
                let noise = 1.0 + 0.15 * f64::from(step * 7919 % 101) / 101.0;
                (f64::from(step * 8), (floor + scale * (-f64::from(step) * rate).exp()) * noise)
            })
        };
        Report {
            summary: vec![
                "A model of 812,000 parameters learned to draw and to describe shapes in 10 min 12 s.".into(),
                "It never saw a picture before this run: 100,000 were drawn for it.".into(),
            ],
            facts: vec![
                ("transfusion".into(), env!("CARGO_PKG_VERSION").into()),
                ("processor".into(), "an example <processor>".into()),
                ("threads".into(), "2".into()),
                ("seed".into(), "0".into()),
            ],
            scores: vec![
                score("captions of single objects", tally(100, 100), tally(24, 25), 95.0, 99.0),
                score("captions of pairs", tally(88, 100), tally(20, 25), 90.0, 97.0),
                score("drawn singles: the right colour", tally(99, 100), tally(25, 25), 95.0, 99.0),
                score("drawn singles: wholly right", tally(86, 100), tally(19, 25), 80.0, 95.0),
                score("drawn pairs: wholly right", tally(54, 100), tally(0, 0), 50.0, 80.0),
            ],
            curves: vec![
                Curve {
                    title: "Text".into(),
                    unit: "nats a token".into(),
                    points: decay(5.0, 0.35, 0.02).collect(),
                },
                Curve {
                    title: "Image".into(),
                    unit: "weighted square error".into(),
                    points: decay(1.0, 0.11, 0.006).collect(),
                },
                Curve {
                    title: "Codec".into(),
                    unit: "L1 + MSE + KL".into(),
                    points: decay(0.4, 0.02, 0.01).collect(),
                },
            ],
            timeline: Timeline {
                prompts: prompts.iter().map(|prompt| prompt.scene.caption()).collect(),
                moments: moments.into(),
            },
            drawn,
            told,
            row: RowDrawing {
                place: "shard-00000.arrow, row 0".into(),
                context: 64,
                documents: (0..2)
                    .map(|index| example_document(&sample(subset(index * 5), index), index))
                    .collect(),
                padding: 64 - 24 - 27,
            },
            stages: vec![
                Stage {
                    name: "draw".into(),
                    what: "100,000 pictures of 32 x 32 pixels with their captions".into(),
                    command: None,
                    seconds: 6.2,
                },
                Stage {
                    name: "codec".into(),
                    what: "145,000 parameters, 2,250 steps of 64 pictures".into(),
                    command: Some("transfusion vae train transfusion-demo/codec.toml".into()),
                    seconds: 74.0,
                },
                Stage {
                    name: "train".into(),
                    what: "8,500 steps of 32 documents".into(),
                    command: Some(
                        "transfusion train transfusion-demo/train.toml --set optimizer.rate=\"2e-3\"".into(),
                    ),
                    seconds: 611.0,
                },
            ],
            deviations: vec![Deviation {
                setting: "what is predicted".into(),
                paper: "the noise".into(),
                demo: "the velocity".into(),
                why: "keeps the signal of small models at high noise".into(),
            }],
        }
    }

    fn example_document(sample: &super::super::drawing::Sample, index: u64) -> DocumentDrawing {
        let mut parts = vec![Part::Marker("BOS", 1)];
        let words = sample.scene.caption();
        parts.extend(
            words.split(' ').enumerate().map(|(at, word)| Part::Token(format!(" {word}"), 260 + at as u32)),
        );
        parts.push(Part::Marker("BOI", 384));
        parts.push(Part::Image { picture: sample.picture.clone(), patches: 16 });
        parts.extend([Part::Marker("EOI", 385), Part::Marker("EOS", 2)]);
        DocumentDrawing { label: format!("pictures.parquet, row {index}: caption first"), parts }
    }

    #[test]
    fn the_page_holds_everything_and_loads_nothing() {
        let report = example();
        let page = report.html();
        if let Some(path) = std::env::var_os("TRANSFUSION_REPORT") {
            std::fs::write(path, &page).unwrap();
        }
        for drawn in &report.drawn {
            assert!(page.contains(&format!("<figcaption>{}", drawn.prompt)), "{}", drawn.prompt);
        }
        for stage in &report.stages {
            assert!(stage.command.as_ref().is_none_or(|command| page.contains(&escape(command))));
        }
        assert!(page.contains("an example &lt;processor&gt;"));
        assert!(page.contains("class=\"wrong\"") && page.contains("class=\"right\""));
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
        let page = example().html();
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
        let mut report = example();
        (report.drawn, report.told, report.curves, report.stages) = (vec![], vec![], vec![], vec![]);
        report.timeline = Timeline::default();
        report.row = RowDrawing::default();
        let page = report.html();
        assert!(!page.contains("NaN") && page.contains("</html>"));
    }

    #[test]
    fn times_are_for_people() {
        let said = [0.04, 9.44, 48.2, 119.0, 680.4].map(duration);
        assert_eq!(said, ["0.0 s", "9.4 s", "48 s", "119 s", "11 min 20 s"]);
    }

    #[test]
    fn a_tally_without_answers_has_no_share() {
        assert_eq!(Tally::count([true, false, true, true]).percent(), Some(75.0));
        assert_eq!(Tally::default().percent(), None);
    }
}
