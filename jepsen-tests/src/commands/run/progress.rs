//! What a person sees while a run goes on: a bar on a terminal, a line for each event elsewhere. On standard error, so
//! that standard output holds the verdict alone.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jepsen_tests::workload::Recorder;
use rpc_core::runtime::{Instant, Runtime};

/// Between two pictures of the bar.
const FRAME: Duration = Duration::from_millis(100);
const TEMPLATE: &str = "{spinner} {bar:24} {msg}";

#[derive(Clone)]
pub(super) struct Progress {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Runtime,
    started: Instant,
    recorder: Recorder,
    time: Duration,
    /// `None` where there is no terminal.
    bar: Option<ProgressBar>,
    last: Mutex<String>,
}

impl Progress {
    /// Shows how a run of about `time` goes, until [`Progress::finish`].
    pub(super) fn start(runtime: &Runtime, recorder: Recorder, time: Duration) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(millis(time)), ProgressDrawTarget::stderr());
            // The template is ours: were it wrong, the bar would only look plain.
            bar.set_style(
                ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        let shared = Shared {
            runtime: runtime.clone(),
            started: runtime.now(),
            recorder,
            time,
            bar,
            last: Mutex::new(String::new()),
        };
        let progress = Self { shared: Arc::new(shared) };
        if progress.shared.bar.is_some() {
            let frames = progress.clone();
            runtime.spawn("progress", async move {
                while frames.draw() {
                    frames.shared.runtime.sleep(FRAME).await;
                }
            });
        }
        progress
    }

    /// Something happened.
    pub(super) fn event(&self, event: &str) {
        let shared = &*self.shared;
        event.clone_into(&mut shared.last.lock().unwrap_or_else(PoisonError::into_inner));
        if shared.bar.is_none() {
            let seconds = (shared.runtime.now() - shared.started).as_secs_f64();
            eprintln!("{seconds:>8.3} s  {event}  ({} operations)", shared.recorder.operations());
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.shared.bar {
            bar.finish_and_clear();
        }
    }

    /// Draws the bar as it is now; false once it is finished.
    fn draw(&self) -> bool {
        let Shared { runtime, started, recorder, time, bar, last } = &*self.shared;
        let Some(bar) = bar.as_ref().filter(|bar| !bar.is_finished()) else { return false };
        let elapsed = runtime.now() - *started;
        let last = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        bar.set_position(millis(elapsed.min(*time)));
        bar.set_message(format!(
            "{:.0} s  {} operations  {last}",
            elapsed.as_secs_f64(),
            recorder.operations()
        ));
        bar.tick();
        true
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
