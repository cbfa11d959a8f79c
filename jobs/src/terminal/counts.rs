//! What became of the rows of each source, as tables.

use schemas::SourceStatistics;

use super::text::{percent, thousands, visible};

/// A source's name and counts.
pub(crate) type Counted<'a> = (&'a str, &'a SourceStatistics);

/// The counts of each source and of all, below a heading.
pub(crate) fn counts(sources: &[Counted<'_>]) -> Vec<Vec<String>> {
    let heading = [
        "source",
        "read",
        "kept",
        "rejected",
        "filtered",
        "deduplicated",
        "documents",
        "images",
        "tokens",
        "patches",
        "padding",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let mut sum = SourceStatistics::default();
    for (name, of) in sources {
        sum.merge(of);
        rows.push(line(visible(name), of));
    }
    if sources.len() != 1 {
        rows.push(line("all".to_owned(), &sum));
    }
    rows
}

fn line(name: String, of: &SourceStatistics) -> Vec<String> {
    let rows = [of.read, of.kept, of.rejected, of.filtered, of.deduplicated];
    let content = [of.documents, of.images, of.tokens, of.patches];
    let numbers = rows.into_iter().chain(content).map(thousands);
    let padding = percent(of.padding, of.tokens + of.patches + of.padding);
    std::iter::once(name).chain(numbers).chain([padding]).collect()
}

/// The balance of all rows, in one line.
pub(crate) fn balance(sources: &[Counted<'_>]) -> String {
    let sum =
        |of: fn(&SourceStatistics) -> u64| thousands(sources.iter().map(|(_, counts)| of(counts)).sum());
    format!(
        "{} rows read = {} kept + {} rejected + {} filtered + {} deduplicated",
        sum(|of| of.read),
        sum(|of| of.kept),
        sum(|of| of.rejected),
        sum(|of| of.filtered),
        sum(|of| of.deduplicated)
    )
}

/// Rows that were refused, or taken with a remark, by reason, below a heading. Nothing but the heading if there are
/// none.
pub(crate) fn refused(sources: &[Counted<'_>]) -> Vec<Vec<String>> {
    let mut rows = vec![["source", "reason", "rows", "of those read"].map(str::to_owned).to_vec()];
    for (name, of) in sources {
        let mut add = |reason: String, number: u64| {
            rows.push(vec![visible(name), reason, thousands(number), percent(number, of.read)]);
        };
        let mut rejects: Vec<_> = of.rejects.iter().collect();
        rejects.sort_by_key(|(reason, number)| (std::cmp::Reverse(**number), *reason));
        rejects.into_iter().for_each(|(reason, number)| add(visible(reason), *number));
        of.warnings.iter().for_each(|(remark, number)| add(format!("{} (kept)", visible(remark)), *number));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::palette::Palette;
    use super::super::table::table;
    use super::*;

    fn statistics() -> SourceStatistics {
        SourceStatistics {
            read: 1234,
            kept: 1200,
            rejected: 20,
            filtered: 4,
            deduplicated: 10,
            rejects: [("empty".to_owned(), 3), ("invalid_json".to_owned(), 17)].into(),
            warnings: [("exif_bad".to_owned(), 2)].into(),
            documents: 1200,
            tokens: 990,
            padding: 10,
            ..SourceStatistics::default()
        }
    }

    #[test]
    fn a_source_alone_needs_no_sum() {
        let statistics = statistics();
        let one = counts(&[("web", &statistics)]);
        assert_eq!(one.len(), 2);
        let two = counts(&[("web", &statistics), ("books", &statistics)]);
        assert_eq!((two.len(), two[3][0].as_str(), two[3][1].as_str()), (4, "all", "2,468"));
        assert_eq!(one[1].last().map(String::as_str), Some("1.0 %"));
    }

    #[test]
    fn the_balance_names_every_fate_of_a_row() {
        let statistics = statistics();
        assert!(statistics.is_balanced());
        assert_eq!(
            balance(&[("web", &statistics)]),
            "1,234 rows read = 1,200 kept + 20 rejected + 4 filtered + 10 deduplicated"
        );
    }

    #[test]
    fn reasons_stand_in_the_order_of_their_rows() {
        let statistics = statistics();
        let text = table(&refused(&[("web", &statistics)]), Palette::new(false), 80);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert!(lines[1].contains("invalid_json") && lines[2].contains("empty"), "{text}");
        assert!(lines[3].contains("exif_bad (kept)"), "{text}");
    }
}
