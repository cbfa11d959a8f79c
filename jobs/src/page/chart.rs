//! Curves over steps as SVG, and bars.
//!
//! Each curve shows the values as they were, averaged to at most [`COLUMNS`] points, pale, and a running mean over them,
//! whose end is the number beside the chart. The value axis is logarithmic where the values span more than a factor of
//! four, as losses do.

use std::fmt::Write;

use super::element::{escape, share_bar};
use super::table::Table;

/// A value over the steps.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    /// What is measured.
    pub(crate) title: String,
    /// In what it is measured.
    pub(crate) unit: String,
    /// (step, value) in order of steps.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Charts side by side, each with its last value; nothing without curves.
pub(crate) fn charts(curves: &[Curve]) -> String {
    if curves.is_empty() {
        return String::new();
    }
    let charts: String = curves.iter().map(Curve::figure).collect();
    format!("<div class=\"charts\">\n{charts}</div>\n")
}

/// One bar a line: label, number, bar.
pub(crate) fn bars(entries: &[(String, u64)], number: impl Fn(u64) -> String) -> String {
    let most = entries.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1);
    let mut table = Table::new("bars");
    for (label, value) in entries {
        let bar = share_bar("", 100.0 * *value as f64 / most as f64, &[]);
        table.row([escape(label), number(*value), bar]);
    }
    table.finish()
}

/// Points drawn at most.
const COLUMNS: usize = 300;
/// Neighbours to each side in the running mean.
const AROUND: usize = 8;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;

/// A value axis: linear or logarithmic.
#[derive(Clone, Copy, Debug)]
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        let logarithmic = low > 0.0 && high > 4.0 * low;
        if logarithmic {
            return Self { low: low * 0.93, high: high * 1.07, logarithmic };
        }
        let room = ((high - low) * 0.06).max(high.abs() * 1e-3).max(1e-9);
        Self { low: low - room, high: high + room, logarithmic }
    }

    /// 0 at the low end, 1 at the high end.
    fn share(&self, value: f64) -> f64 {
        if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// Round values inside, about five of them.
    fn ticks(&self) -> Vec<f64> {
        let ticks = if self.logarithmic { logarithmic_ticks(self) } else { linear_ticks(self) };
        ticks.into_iter().filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }
}

fn logarithmic_ticks(axis: &Axis) -> Vec<f64> {
    let decades = axis.low.log10().floor() as i32..=axis.high.log10().ceil() as i32;
    let steps: &[f64] = if axis.high / axis.low > 200.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade))).collect()
}

fn linear_ticks(axis: &Axis) -> Vec<f64> {
    let rough = (axis.high - axis.low) / 4.0;
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade).into_iter().find(|&step| step >= rough);
    let step = step.unwrap_or(10.0 * decade);
    let first = (axis.low / step).ceil() as i64;
    (0..8).map(|tick| (first + tick) as f64 * step).collect()
}

impl Curve {
    fn figure(&self) -> String {
        let last = self.last().map_or(String::new(), |last| format!("{last:.3}"));
        format!(
            "<figure class=\"chart\"><figcaption><b>{}</b> <small>{} over steps</small>\
             <span class=\"number\">{last}</span></figcaption>{}</figure>\n",
            escape(&self.title),
            escape(&self.unit),
            self.svg()
        )
    }

    /// The chart as an SVG element.
    fn svg(&self) -> String {
        let points = thinned(&self.points);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} over steps\">",
            escape(&self.title)
        );
        if points.len() < 2 {
            svg.push_str("<text x=\"50%\" y=\"50%\" text-anchor=\"middle\">too few points</text></svg>\n");
            return svg;
        }
        let steps = linear_axis_from_zero(&points);
        let values = Axis::over(points.iter().map(|point| point.1));
        let place = |(step, value): (f64, f64)| {
            let x = LEFT + steps.share(step) * (WIDTH - LEFT - RIGHT);
            (x, HEIGHT - BOTTOM - values.share(value) * (HEIGHT - TOP - BOTTOM))
        };
        for tick in values.ticks() {
            let (_, y) = place((0.0, tick));
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 3.5,
                label(tick)
            );
        }
        for tick in steps.ticks() {
            let (x, _) = place((tick, values.high));
            let anchor = if x > WIDTH - RIGHT - 16.0 { "end" } else { "middle" };
            let y = HEIGHT - BOTTOM + 16.0;
            let _ = write!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
                label(tick)
            );
        }
        let _ = write!(svg, "<path class=\"raw\" d=\"{}\"/>", path(points.iter().map(|&point| place(point))));
        let smooth = running_mean(&points);
        let _ =
            write!(svg, "<path class=\"smooth\" d=\"{}\"/>", path(smooth.iter().map(|&point| place(point))));
        svg.push_str("</svg>\n");
        svg
    }

    /// The value at which the line ends.
    fn last(&self) -> Option<f64> {
        running_mean(&thinned(&self.points)).last().map(|point| point.1)
    }
}

fn linear_axis_from_zero(points: &[(f64, f64)]) -> Axis {
    let last = points.last().map_or(1.0, |point| point.0);
    Axis { low: 0.0, high: last.max(1.0), logarithmic: false }
}

/// Means of equal runs of points, at most [`COLUMNS`]; what is not finite is left out.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<_> = points.iter().copied().filter(|point| point.1.is_finite()).collect();
    let run = finite.len().div_ceil(COLUMNS).max(1);
    let mean = |run: &[(f64, f64)], part: fn(&(f64, f64)) -> f64| {
        run.iter().map(part).sum::<f64>() / run.len() as f64
    };
    finite.chunks(run).map(|run| (mean(run, |point| point.0), mean(run, |point| point.1))).collect()
}

/// The mean over [`AROUND`] neighbours to each side, fewer towards the ends, so that it doesn't lag.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |index: usize| {
        let around = AROUND.min(index).min(points.len() - 1 - index);
        let near = &points[index - around..=index + around];
        (points[index].0, near.iter().map(|point| point.1).sum::<f64>() / near.len() as f64)
    };
    (0..points.len()).map(mean).collect()
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut data = String::new();
    for (index, (x, y)) in points.enumerate() {
        let _ = write!(data, "{}{x:.1} {y:.1}", if index == 0 { "M" } else { "L" });
    }
    data
}

/// A tick in few letters: `0.05`, `2`, `8k`.
fn label(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e4 => format!("{}k", value / 1e3),
        value if value == 0.0 || value.abs() >= 1.0 => format!("{}", (value * 1e6).round() / 1e6),
        value => {
            let digits = (-value.abs().log10().floor()).max(1.0) as usize;
            format!("{value:.digits$}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let axis = Axis::over([0.04, 0.5, 6.0].into_iter());
        let ticks: Vec<String> = axis.ticks().into_iter().map(label).collect();
        assert_eq!(ticks, ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"]);
        let axis = Axis { low: 0.0, high: 8500.0, logarithmic: false };
        assert_eq!(axis.ticks(), [0.0, 5000.0]);
    }

    #[test]
    fn many_points_become_few_with_the_same_mean() {
        let points: Vec<_> = (0..9000).map(|step| (f64::from(step), f64::from(step % 10))).collect();
        let few = thinned(&points);
        assert_eq!(few.len(), 300);
        assert!(few.iter().all(|point| (point.1 - 4.5).abs() < 1e-9));
    }

    /// A label beside a chart that said the mean of the last points, 0.822, where its line ended at 0.333.
    #[test]
    fn the_number_beside_a_chart_is_the_end_of_its_line() {
        for points in [2, 3, 40, 900] {
            let falling = (1..=points).map(|step| (f64::from(step), 10.0 / f64::from(step))).collect();
            let curve = Curve { title: "Text".into(), unit: String::new(), points: falling };
            let svg = curve.svg();
            let line = svg.split("class=\"smooth\" d=\"").nth(1).and_then(|rest| rest.split('"').next());
            let end: f64 = line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap();
            let values = Axis::over(thinned(&curve.points).iter().map(|point| point.1));
            let label = HEIGHT - BOTTOM - values.share(curve.last().unwrap()) * (HEIGHT - TOP - BOTTOM);
            // Places in the chart are rounded to a tenth.
            assert!(
                (end - label).abs() <= 0.051,
                "{points} points: the line ends at {end}, its label is at {label}"
            );
        }
    }

    #[test]
    fn what_is_not_finite_is_left_out() {
        let curve = Curve {
            title: "Text".into(),
            unit: String::new(),
            points: vec![(1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0)],
        };
        assert!(!curve.svg().contains("NaN"));
        let flat = Curve { points: vec![(1.0, 2.0), (2.0, 2.0)], ..curve };
        assert!(!flat.svg().contains("NaN"));
    }
}
