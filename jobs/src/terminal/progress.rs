//! Progress on stderr: a bar in a terminal, one line every ten seconds elsewhere, nothing with `--quiet` or `--json`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::printer::Printer;
use super::text::{NARROW, bytes, columns_of, thousands};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes, shown in MB.
    Bytes,
    /// Things with a name, e.g. `step`.
    Things(&'static str),
}

/// One job under way. Thread-safe.
#[derive(Debug)]
pub(crate) struct Progress {
    printer: Printer,
    label: &'static str,
    unit: Unit,
    bar: Option<ProgressBar>,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    done: u64,
    /// Where this start began, so that a resumed job's rate is its own.
    first: u64,
    total: u64,
    message: String,
    last_line: Instant,
}

impl Progress {
    /// Starts at `first` of `total`; a total of 0 is one that is not known yet.
    pub(crate) fn new(printer: &Printer, label: &'static str, unit: Unit, first: u64, total: u64) -> Self {
        let now = Instant::now();
        let bar = (printer.shows_progress() && printer.live()).then(|| {
            let bar = printer.bars().add(ProgressBar::new(total).with_prefix(label).with_style(style(unit)));
            bar.set_position(first);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        let state = State { done: first, first, total, message: String::new(), last_line: now };
        Self { printer: printer.clone(), label, unit, bar, started: now, state: Mutex::new(state) }
    }

    /// Sets a total that became known.
    pub(crate) fn set_total(&self, total: u64) {
        self.lock().total = total;
        self.bar.iter().for_each(|bar| bar.set_length(total));
    }

    /// So much more is done.
    pub(crate) fn add(&self, more: u64) {
        let done = self.lock().done + more;
        self.set(done);
    }

    /// So much is done in all.
    pub(crate) fn set(&self, done: u64) {
        self.lock().done = done;
        self.bar.iter().for_each(|bar| bar.set_position(done));
        self.line_if_due();
    }

    /// What stands below the bar.
    pub(crate) fn message(&self, message: String) {
        self.put_message(message);
        self.line_if_due();
    }

    /// Both at once.
    pub(crate) fn update(&self, done: u64, message: String) {
        self.put_message(message);
        self.set(done);
    }

    fn put_message(&self, message: String) {
        self.bar.iter().for_each(|bar| bar.set_message(message.clone()));
        self.lock().message = message;
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn line_if_due(&self) {
        if self.bar.is_some() || !self.printer.shows_progress() {
            return;
        }
        let mut state = self.lock();
        if state.last_line.elapsed() >= LINE_EVERY {
            state.last_line = Instant::now();
            let line = line(self.label, self.unit, &state, self.started.elapsed());
            drop(state);
            self.printer.note(&line);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let counts = match unit {
        Unit::Bytes => "{decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}".to_owned(),
        Unit::Things(name) => format!("{name} {{human_pos}}/{{human_len}}"),
    };
    // A terminal of 80 columns has no room for both in one line.
    let template = format!("{{prefix}} {{bar:24}} {counts}, {{eta}} left\n  {{wide_msg}}");
    ProgressStyle::with_template(&template).expect("the template is well-formed").progress_chars("█▉▊▋▌▍▎▏ ")
}

fn line(label: &str, unit: Unit, state: &State, elapsed: Duration) -> String {
    let amount = |value: u64| match unit {
        Unit::Bytes => bytes(value),
        Unit::Things(_) => thousands(value),
    };
    let name = match unit {
        Unit::Bytes => String::new(),
        Unit::Things(name) => format!("{name} "),
    };
    let mut text = format!("{label}: {name}{}", amount(state.done));
    let seconds = elapsed.as_secs_f64();
    if state.total > 0 {
        let share = 100.0 * state.done as f64 / state.total as f64;
        text.push_str(&format!(" of {} ({share:.0} %)", amount(state.total)));
        let made = state.done.saturating_sub(state.first) as f64;
        if made > 0.0 && state.done < state.total {
            let left = seconds / made * (state.total - state.done) as f64;
            text.push_str(&format!(", {} left", duration(Duration::from_secs_f64(left))));
        }
    }
    if unit == Unit::Bytes && seconds > 0.0 {
        let rate = state.done.saturating_sub(state.first) as f64 / seconds / 1e6;
        text.push_str(&format!(", {rate:.1} MB/s"));
    }
    if !state.message.is_empty() {
        // As with the bar: a terminal of 80 columns has no room for both in one line.
        let fits = columns_of(&text) + 2 + columns_of(&state.message) <= NARROW;
        text.push_str(&format!("{}{}", if fits { ", " } else { "\n  " }, state.message));
    }
    text
}

/// A duration for people: `3.2 s`, `4 min 10 s`, `2 h 5 min`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// A duration given in seconds.
pub(crate) fn time(seconds: f64) -> String {
    duration(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let cases = [(0.25, "0.2 s"), (59.9, "59.9 s"), (60.0, "1 min 0 s"), (3_725.0, "1 h 2 min")];
        cases
            .iter()
            .for_each(|(seconds, text)| assert_eq!(duration(Duration::from_secs_f64(*seconds)), *text));
    }

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let state =
            State { done: 30, first: 10, total: 50, message: "loss 2.1".into(), last_line: Instant::now() };
        let text = line("train", Unit::Things("step"), &state, Duration::from_secs(20));
        assert_eq!(text, "train: step 30 of 50 (60 %), 20.0 s left, loss 2.1");
    }

    #[test]
    fn a_long_message_stands_in_a_line_of_its_own() {
        let message = "text 10.123, image 1.234, norm 12.34, rate 3.0e-4, 123,456 tok/s, waiting 25 %";
        let state = State {
            done: 123_456,
            first: 0,
            total: 250_000,
            message: message.to_owned(),
            last_line: Instant::now(),
        };
        let text = line("train", Unit::Things("step"), &state, Duration::from_secs(360_000));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "train: step 123,456 of 250,000 (49 %), 102 h 30 min left");
        assert_eq!(lines[1].trim_start(), message);
        assert!(lines.iter().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn an_unknown_total_is_left_out() {
        let state =
            State { done: 3_000_000, first: 0, total: 0, message: String::new(), last_line: Instant::now() };
        assert_eq!(line("read", Unit::Bytes, &state, Duration::from_secs(2)), "read: 3.0 MB, 1.5 MB/s");
    }
}
