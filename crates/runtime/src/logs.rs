//! Logs on standard error: JSON for machines, text for people, filtered as `info` or `sync=debug,info`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};
use std::process::ExitCode;
use std::str::FromStr;
use std::thread;

use tracing::{Level, Subscriber, enabled, error};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::tasks::panic_text;

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    #[default]
    Text,
    /// One object per line.
    Json,
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a log format: use text or json")]
pub struct InvalidLogFormat(String);

impl FromStr for LogFormat {
    type Err = InvalidLogFormat;

    fn from_str(text: &str) -> Result<Self, InvalidLogFormat> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(InvalidLogFormat(text.into())),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error("'{filter}' is not a log filter: it looks like info or sync=debug,info")]
    Filter { filter: String, source: ParseError },
    #[error("logs were set up before")]
    Twice(#[from] TryInitError),
}

/// Installs the subscriber of this process, to which panics are events too: for `main` alone, and once.
pub fn install(format: LogFormat, filter: &str) -> Result<(), LogsError> {
    match format {
        LogFormat::Text => text(filter, io::stderr)?.try_init()?,
        LogFormat::Json => json(filter, io::stderr)?.try_init()?,
    }
    let otherwise = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !told_of_panic(panic) {
            otherwise(panic);
        }
    }));
    Ok(())
}

/// The end of a process. What made it fail is one event with all its causes; where logs are not shown, it is a line on
/// standard error.
pub fn exit_code(ended: anyhow::Result<()>) -> ExitCode {
    let Err(error) = ended else { return ExitCode::SUCCESS };
    if enabled!(Level::ERROR) {
        error!(error = format!("{error:#}"), "ended by a failure");
    } else {
        // Nobody is left to be told that this cannot be written.
        let _ = writeln!(io::stderr(), "error: {error:#}");
    }
    ExitCode::FAILURE
}

/// False where logs do not show it.
fn told_of_panic(panic: &PanicHookInfo<'_>) -> bool {
    if !enabled!(Level::ERROR) {
        return false;
    }
    let at = panic.location().map(ToString::to_string);
    let thread = thread::current();
    // Only where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    error!(panic = panic_text(panic.payload()), at, thread = thread.name(), backtrace, "panicked");
    true
}

/// A filter as a setting.
pub fn filter(text: &str) -> Result<String, LogsError> {
    parse(text).map(|_| text.to_owned())
}

fn text<W>(filter: &str, writer: W) -> Result<impl Subscriber + Send + Sync + 'static, LogsError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer).with_ansi(false);
    Ok(Registry::default().with(parse(filter)?).with(lines))
}

fn json<W>(filter: &str, writer: W) -> Result<impl Subscriber + Send + Sync + 'static, LogsError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer).json().flatten_event(true);
    Ok(Registry::default().with(parse(filter)?).with(lines))
}

fn parse(filter: &str) -> Result<EnvFilter, LogsError> {
    EnvFilter::try_new(filter).map_err(|source| LogsError::Filter { filter: filter.into(), source })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn read(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn json_logs_are_one_object_per_line_and_obey_the_filter() {
        let page = Page::default();
        let writer = page.clone();
        with_default(json("info", move || writer.clone()).unwrap(), || {
            tracing::info!(zone = "east", "joined");
            tracing::debug!("not shown");
        });
        let line: serde_json::Value = serde_json::from_str(&page.read()).unwrap();
        assert_eq!((&line["zone"], &line["message"]), (&"east".into(), &"joined".into()));
    }

    #[test]
    fn what_ends_a_process_is_one_event_with_its_causes() {
        let page = Page::default();
        let writer = page.clone();
        with_default(json("info", move || writer.clone()).unwrap(), || {
            let error = anyhow::anyhow!("address in use").context("the API\ncannot be served");
            assert_eq!(exit_code(Err(error)), ExitCode::FAILURE);
            assert_eq!(exit_code(Ok(())), ExitCode::SUCCESS);
        });
        let line: serde_json::Value = serde_json::from_str(&page.read()).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["error"], "the API\ncannot be served: address in use");
    }

    #[test]
    fn a_panic_is_one_event() {
        let page = Page::default();
        let writer = page.clone();
        let usual = panic::take_hook();
        panic::set_hook(Box::new(|panic| {
            told_of_panic(panic);
        }));
        let subscriber = json("info", move || writer.clone()).unwrap();
        let panicked = with_default(subscriber, || panic::catch_unwind(|| panic!("a bug\nof ours")));
        panic::set_hook(usual);
        assert!(panicked.is_err());
        let line: serde_json::Value = serde_json::from_str(&page.read()).unwrap();
        assert_eq!((&line["level"], &line["panic"]), (&"ERROR".into(), &"a bug\nof ours".into()));
        assert!(line["at"].as_str().unwrap().contains("logs.rs:"), "{line}");
    }

    #[test]
    fn text_logs_carry_their_fields() {
        let page = Page::default();
        let writer = page.clone();
        with_default(text("info", move || writer.clone()).unwrap(), || {
            tracing::info!(zone = "east", "joined");
        });
        assert!(page.read().contains("joined zone=\"east\""), "{}", page.read());
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error() {
        assert!(matches!(parse("sync=loud"), Err(LogsError::Filter { .. })));
    }
}
