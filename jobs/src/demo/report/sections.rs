//! The parts of the page, each a pure function from data to HTML.

use base64::Engine;

use super::super::drawing::Picture;
use super::{
    Curve, Deviation, DocumentDrawing, Drawn, Part, Report, RowDrawing, Score, Stage, Tally, Timeline, Told,
    duration, escape,
};

/// Title and what was done.
pub(super) fn head(report: &Report) -> String {
    let mut sentences = report.summary.iter().map(|sentence| escape(sentence));
    let lead = sentences.next().unwrap_or_default();
    let rest: String = sentences.map(|sentence| format!("<p>{sentence}</p>\n")).collect();
    format!("<header>\n<p class=\"kicker\">transfusion demo</p>\n<h1>{lead}</h1>\n{rest}</header>\n")
}

fn section(title: &str, note: &str, content: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    format!("<section>\n<h2>{title}</h2>\n<p class=\"note\">{note}</p>\n{content}</section>\n")
}

/// Goal beside reached, held-out combinations beside.
pub(super) fn scores(scores: &[Score]) -> String {
    let rows: String = scores.iter().map(score_row).collect();
    let table = format!(
        "<div class=\"scroll\"><table class=\"scores\">\n<thead><tr><th>What is counted</th>\
         <th class=\"wide\"></th><th>Reached</th><th>Goal</th><th>Aim</th><th>Held out</th></tr></thead>\n\
         <tbody>\n{rows}</tbody></table></div>\n"
    );
    section(
        "Scores",
        "Fresh prompts and fresh pictures, scored without a model: nearest palette colour, connected parts, overlap \
         with templates. Both true wordings of a pair count. \u{201c}Held out\u{201d} are combinations that no \
         picture of the training shows.",
        if scores.is_empty() { "" } else { &table },
    )
}

fn score_row(score: &Score) -> String {
    let reached = score.seen.percent().unwrap_or(0.0);
    let (class, mark) = if reached >= score.aim {
        ("right", "\u{2713}\u{2713}")
    } else if reached >= score.goal {
        ("right", "\u{2713}")
    } else {
        ("wrong", "\u{2717}")
    };
    format!(
        "<tr><th scope=\"row\">{}</th><td class=\"wide\"><div class=\"bar\"><div class=\"fill {class}\" \
         style=\"width:{reached:.1}%\"></div><span style=\"left:{:.1}%\"></span><span style=\"left:{:.1}%\"></span>\
         </div></td><td class=\"number\"><b>{}</b> <span class=\"{class}\">{mark}</span></td>\
         <td class=\"number\">{} %</td><td class=\"number\">{} %</td><td class=\"number\">{}</td></tr>\n",
        escape(&score.what),
        score.goal,
        score.aim,
        tally(score.seen),
        score.goal,
        score.aim,
        tally(score.held_out),
    )
}

fn tally(tally: Tally) -> String {
    let Some(percent) = tally.percent() else { return "\u{2013}".to_owned() };
    format!("{} % <small>of {}</small>", (percent * 10.0).round() / 10.0, tally.of)
}

/// Pictures beside their prompts.
pub(super) fn drawn(drawn: &[Drawn]) -> String {
    let cards: String = drawn
        .iter()
        .map(|one| {
            let why = match (one.verdict.count, one.verdict.colour, one.verdict.wholly) {
                (.., true) => "",
                (true, true, _) => "shape or size",
                (true, false, _) => "colour or place",
                (false, ..) => "number of things",
            };
            let said = format!("{}{}", escape(&one.prompt), held_out(one.held_out));
            card(&one.picture, one.verdict.wholly, &said, why)
        })
        .collect();
    section(
        "Drawn from a prompt",
        "The model writes BOI, denoises 16 patches of noise, and the codec turns them into pixels. Nothing is picked: \
         these are the first of each kind.",
        &grid(&cards),
    )
}

/// Captions beside their pictures.
pub(super) fn told(told: &[Told]) -> String {
    let cards: String = told
        .iter()
        .map(|one| {
            let why = if one.right { String::new() } else { format!("it is {}", escape(&one.truth)) };
            let said = format!("\u{201c}{}\u{201d}{}", escape(&one.caption), held_out(one.held_out));
            card(&one.picture, one.right, &said, &why)
        })
        .collect();
    section(
        "Described from a picture",
        "A fresh drawing stands before the text, clean; the caption is the most likely continuation, token by token.",
        &grid(&cards),
    )
}

fn held_out(held_out: bool) -> &'static str {
    if held_out { " <span class=\"tag\">held out</span>" } else { "" }
}

fn grid(cards: &str) -> String {
    if cards.is_empty() { String::new() } else { format!("<div class=\"grid\">\n{cards}</div>\n") }
}

/// A picture with its words; `said` and `why` are HTML.
fn card(picture: &Picture, right: bool, said: &str, why: &str) -> String {
    let (class, mark, word) = mark(right);
    let why = if why.is_empty() { String::new() } else { format!(" <small>{why}</small>") };
    format!(
        "<figure class=\"{class}\">{}<figcaption>{said}&nbsp;<b class=\"mark\" title=\"{word}\">{mark}</b>{why}\
         </figcaption></figure>\n",
        pixels(picture)
    )
}

const fn mark(right: bool) -> (&'static str, &'static str, &'static str) {
    if right { ("right", "\u{2713}", "right") } else { ("wrong", "\u{2717}", "wrong") }
}

fn pixels(picture: &Picture) -> String {
    let data = base64::engine::general_purpose::STANDARD.encode(picture.png());
    format!("<img alt=\"\" src=\"data:image/png;base64,{data}\">")
}

/// The same prompts while the model learns.
pub(super) fn timeline(timeline: &Timeline) -> String {
    let head: String = timeline.prompts.iter().map(|prompt| format!("<th>{}</th>", escape(prompt))).collect();
    let rows: String = timeline
        .moments
        .iter()
        .map(|moment| {
            let cells: String = moment
                .pictures
                .iter()
                .map(|(picture, verdict)| {
                    let (class, mark, word) = mark(verdict.wholly);
                    format!("<td>{}<b class=\"{class}\" title=\"{word}\">{mark}</b></td>", pixels(picture))
                })
                .collect();
            format!("<tr><th scope=\"row\">step {}</th>{cells}</tr>\n", moment.step)
        })
        .collect();
    let table = format!(
        "<div class=\"scroll\"><table class=\"timeline\">\n<thead><tr><th></th>{head}</tr></thead>\n\
         <tbody>\n{rows}</tbody></table></div>\n"
    );
    section(
        "While it learned",
        "The same prompts and the same noise, by the averaged weights of that step.",
        if timeline.moments.is_empty() { "" } else { &table },
    )
}

/// Loss curves.
pub(super) fn curves(curves: &[Curve]) -> String {
    let charts: String = curves
        .iter()
        .map(|curve| {
            let last = curve.last().map_or(String::new(), |last| format!("{last:.3}"));
            format!(
                "<figure class=\"chart\"><figcaption><b>{}</b> <small>{} over steps</small>\
                 <span class=\"number\">{last}</span></figcaption>{}</figure>\n",
                escape(&curve.title),
                escape(&curve.unit),
                curve.svg()
            )
        })
        .collect();
    let content = format!("<div class=\"charts\">\n{charts}</div>\n");
    section(
        "Losses",
        "Pale: as measured. Line: running mean, its end beside the title.",
        if curves.is_empty() { "" } else { &content },
    )
}

/// One packed row: a strip to scale, then its documents.
pub(super) fn row(row: &RowDrawing) -> String {
    if row.documents.is_empty() {
        return String::new();
    }
    let documents: String = row.documents.iter().map(document).collect();
    let padding = match row.padding {
        0 => String::new(),
        count => format!("<li class=\"document\"><p class=\"note\">padding: {count} positions</p></li>\n"),
    };
    let content = format!("{}<ol class=\"documents\">\n{documents}{padding}</ol>\n", strip(row));
    section(
        "What the model reads",
        &format!(
            "One packed row of {} positions ({}): documents one after another, none seeing the others. \
             Images are shown as the codec decodes their stored latents.",
            row.context,
            escape(&row.place)
        ),
        &content,
    )
}

fn strip(row: &RowDrawing) -> String {
    let parts = row.documents.iter().flat_map(|document| &document.parts);
    let block =
        |class: &str, positions: usize| format!("<span class=\"{class}\" style=\"flex:{positions}\"></span>");
    let mut blocks: String = parts.map(|part| block(class_of(part), part.positions())).collect();
    if row.padding > 0 {
        blocks.push_str(&block("padding", row.padding));
    }
    format!(
        "<div class=\"strip\" aria-hidden=\"true\">{blocks}</div>\n<p class=\"legend\"><span class=\"marker\"></span>\
         marker <span class=\"text\"></span>text <span class=\"image\"></span>image patch \
         <span class=\"padding\"></span>padding</p>\n"
    )
}

const fn class_of(part: &Part) -> &'static str {
    match part {
        Part::Token(..) => "text",
        Part::Marker(..) => "marker",
        Part::Image { .. } => "image",
    }
}

fn document(document: &DocumentDrawing) -> String {
    let parts: String = document
        .parts
        .iter()
        .map(|part| {
            let class = class_of(part);
            match part {
                Part::Token(piece, id) => {
                    let piece = escape(piece).replace([' ', '\u{2581}', '\u{120}'], "\u{b7}");
                    format!("<span class=\"{class}\">{piece}<small>{id}</small></span>")
                }
                Part::Marker(name, id) => format!("<span class=\"{class}\">{name}<small>{id}</small></span>"),
                Part::Image { picture, patches } => {
                    format!(
                        "<span class=\"{class}\">{}<small>{patches} patches</small></span>",
                        pixels(picture)
                    )
                }
            }
        })
        .collect();
    format!(
        "<li class=\"document\"><p class=\"note\">{}</p><div class=\"parts\">{parts}</div></li>\n",
        escape(&document.label)
    )
}

/// What ran, with its commands and times.
pub(super) fn stages(stages: &[Stage]) -> String {
    let total: f64 = stages.iter().map(|stage| stage.seconds).sum();
    let rows: String = stages
        .iter()
        .map(|stage| {
            let command = stage.command.as_ref().map_or(String::new(), |command| {
                format!("<pre class=\"command\"><code>{}</code></pre>", escape(command))
            });
            format!(
                "<li><div class=\"line\"><b>{}</b> <span>{}</span> <span class=\"number\">{}</span></div>\
                 <div class=\"bar thin\"><div class=\"fill\" style=\"width:{:.1}%\"></div></div>{command}</li>\n",
                escape(&stage.name),
                escape(&stage.what),
                duration(stage.seconds),
                100.0 * stage.seconds / total.max(1e-9),
            )
        })
        .collect();
    section(
        "What ran",
        &format!(
            "The jobs that anyone would run, {} in all. The configs lie beside this page. Each command works again from \
             the folder that the demo was started in; what is finished is never overwritten, so give vae train and \
             train a new place with --set output=DIR and --set run=DIR.",
            duration(total)
        ),
        &if stages.is_empty() { String::new() } else { format!("<ol class=\"stages\">\n{rows}</ol>\n") },
    )
}

/// The demo's settings beside the paper's.
pub(super) fn deviations(deviations: &[Deviation]) -> String {
    let row = |one: &Deviation| {
        format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            escape(&one.setting),
            escape(&one.paper),
            escape(&one.demo),
            escape(&one.why)
        )
    };
    let rows: String = deviations.iter().map(row).collect();
    let table = format!(
        "<div class=\"scroll\"><table>\n<thead><tr><th>Setting</th><th>Paper, and default</th><th>This demo</th>\
         <th>Why</th></tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    );
    section(
        "Where the demo leaves the paper",
        "A model of under a million parameters and a few minutes of training ask for other settings than 7 billion \
         parameters and a trillion tokens. All of these are settings of the same jobs; the shipped configs have the \
         paper\u{2019}s values.",
        if deviations.is_empty() { "" } else { &table },
    )
}

/// Machine, versions and counts.
pub(super) fn facts(facts: &[(String, String)]) -> String {
    let rows: String = facts
        .iter()
        .map(|(name, value)| {
            format!("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escape(name), escape(value))
        })
        .collect();
    let table = format!("<table class=\"facts\">\n<tbody>\n{rows}</tbody></table>\n");
    section("Where and with what", "", if facts.is_empty() { "" } else { &table })
}
