//! What a worker counts, by who called whom.
//!
//! Only the worker writes, so that adding is a load and a store; others may read at any moment. Its table is
//! locked when labels are resolved and when the numbers are read, never to count.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::flag::Flag;
use crate::metrics::{self, BUCKETS, Direction, Ends, Family, Labels, MOST_SERIES, Outcome, Unit};
use crate::outlets::Telemetry;

/// A number that one thread adds to, and others read.
#[derive(Debug, Default)]
pub struct Plain(AtomicU64);

impl Plain {
    /// Of the one thread that adds: two at a time would lose numbers.
    pub fn add(&self, more: u64) {
        self.0.store(self.get() + more, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

type Row = [Plain; Outcome::COUNT];

/// The numbers of one caller and called on one worker.
pub struct Series {
    pub(crate) labels: Labels,
    fine: Row,
    /// Most flags never come up.
    failed: [OnceLock<Box<Row>>; Flag::ALL.len()],
    /// The last has no upper bound.
    buckets: [Plain; BUCKETS + 1],
    micros: Plain,
    sent: Plain,
    received: Plain,
}

impl Series {
    fn new(labels: Labels) -> Self {
        Self {
            labels,
            fine: Row::default(),
            failed: [const { OnceLock::new() }; Flag::ALL.len()],
            buckets: Default::default(),
            micros: Plain::default(),
            sent: Plain::default(),
            received: Plain::default(),
        }
    }

    pub(crate) fn count(&self, outcome: Outcome, flag: Option<Flag>, took: Duration) {
        let row = match flag {
            None => &self.fine,
            Some(flag) => self.failed[flag as usize].get_or_init(Box::default),
        };
        row[outcome.index()].add(1);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bounds = bounds(self.labels.unit);
        let bucket = bounds.iter().position(|bound| micros <= *bound).unwrap_or(BUCKETS);
        self.buckets[bucket].add(1);
        self.micros.add(micros);
    }

    pub(crate) fn moved(&self, sent: u64, received: u64) {
        self.sent.add(sent);
        self.received.add(received);
    }

    fn rows(&self) -> impl Iterator<Item = (Option<Flag>, &Row)> {
        let failed = Flag::ALL.iter().zip(&self.failed);
        let failed = failed.filter_map(|(flag, row)| Some((Some(*flag), &**row.get()?)));
        std::iter::once((None, &self.fine)).chain(failed)
    }
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Series").field("labels", &self.labels).finish_non_exhaustive()
    }
}

fn bounds(unit: Unit) -> &'static [u64; BUCKETS] {
    match unit {
        Unit::Request => &metrics::REQUEST_BUCKETS,
        Unit::Connection => &metrics::CONNECTION_BUCKETS,
    }
}

/// All series of one worker.
#[derive(Default)]
pub(crate) struct Table {
    series: Mutex<HashMap<Labels, Arc<Series>>>,
    forgotten: Plain,
}

impl Table {
    fn locked(&self) -> MutexGuard<'_, HashMap<Labels, Arc<Series>>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn series(&self, labels: Labels) -> Arc<Series> {
        let mut table = self.locked();
        if let Some(series) = table.get(&labels) {
            return series.clone();
        }
        if table.len() >= MOST_SERIES {
            self.make_room(&mut table);
        }
        let labels = if table.len() < MOST_SERIES { labels } else { labels.other() };
        table.entry(labels).or_insert_with_key(|labels| Arc::new(Series::new(labels.clone()))).clone()
    }

    /// Adds what nobody holds any more to `other`: sums never fall.
    fn make_room(&self, table: &mut HashMap<Labels, Arc<Series>>) {
        let unheld: Vec<Labels> = table
            .iter()
            .filter(|(labels, series)| Arc::strong_count(series) == 1 && labels.other() != **labels)
            .map(|(labels, _)| labels.clone())
            .collect();
        for labels in unheld {
            if let Some(gone) = table.remove(&labels) {
                let other = labels.other();
                let other =
                    table.entry(other).or_insert_with_key(|labels| Arc::new(Series::new(labels.clone())));
                other.absorb(&gone);
                self.forgotten.add(1);
            }
        }
    }
}

impl Series {
    fn absorb(&self, gone: &Self) {
        for (flag, row) in gone.rows() {
            let own = match flag {
                None => &self.fine,
                Some(flag) => self.failed[flag as usize].get_or_init(Box::default),
            };
            own.iter().zip(row).for_each(|(own, more)| own.add(more.get()));
        }
        self.buckets.iter().zip(&gone.buckets).for_each(|(own, more)| own.add(more.get()));
        self.micros.add(gone.micros.get());
        self.moved(gone.sent.get(), gone.received.get());
    }
}

/// Where one worker's records go.
#[derive(Clone)]
pub struct Recorder {
    pub(crate) table: Arc<Table>,
    pub(crate) telemetry: Telemetry,
}

impl Recorder {
    pub(crate) fn new(table: Arc<Table>, telemetry: Telemetry) -> Self {
        Self { table, telemetry }
    }

    /// The numbers for these labels; for configuration and handshakes, not for each request.
    pub fn series(&self, labels: Labels) -> Arc<Series> {
        self.table.series(labels)
    }
}

/// Counts only, and nobody reads it.
impl Default for Recorder {
    fn default() -> Self {
        Telemetry::default().worker()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

/// The sum of all workers' numbers for the same labels.
#[derive(Default)]
struct Sum {
    ends: BTreeMap<(Option<Flag>, usize), u64>,
    buckets: [u64; BUCKETS + 1],
    micros: u64,
    sent: u64,
    received: u64,
}

impl Sum {
    fn add(&mut self, series: &Series) {
        for (flag, row) in series.rows() {
            for (outcome, count) in row.iter().enumerate().filter(|(_, count)| count.get() > 0) {
                *self.ends.entry((flag, outcome)).or_default() += count.get();
            }
        }
        self.buckets.iter_mut().zip(&series.buckets).for_each(|(sum, more)| *sum += more.get());
        self.micros += series.micros.get();
        self.sent += series.sent.get();
        self.received += series.received.get();
    }
}

/// What a scrape reads.
#[derive(Debug)]
pub(crate) struct Scrape(pub(crate) Telemetry);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sums: BTreeMap<Labels, Sum> = BTreeMap::new();
        let mut forgotten = 0;
        for table in self.0.tables() {
            forgotten += table.forgotten.get();
            for (labels, series) in table.locked().iter() {
                sums.entry(labels.clone()).or_default().add(series);
            }
        }
        let of = |unit| sums.iter().filter(move |(labels, _)| labels.unit == unit);
        encode_ends(&mut encoder, &metrics::REQUESTS, of(Unit::Request))?;
        encode_durations(&mut encoder, &metrics::REQUEST_DURATION, of(Unit::Request))?;
        encode_ends(&mut encoder, &metrics::CONNECTIONS, of(Unit::Connection))?;
        encode_durations(&mut encoder, &metrics::CONNECTION_DURATION, of(Unit::Connection))?;
        let relayed = |labels: &Labels| labels.direction == Direction::Relay;
        for (family, bytes) in
            [(&metrics::SENT, (|sum| sum.sent) as fn(&Sum) -> u64), (&metrics::RECEIVED, |sum| sum.received)]
        {
            let values = sums.iter().map(|(labels, sum)| (labels, bytes(sum)));
            encode_counters(
                &mut encoder,
                family,
                values.filter(|(labels, bytes)| *bytes > 0 || relayed(labels)),
            )?;
        }
        let (lines, spans) = self.0.dropped();
        for (family, value) in [
            (&metrics::FORGOTTEN, forgotten),
            (&metrics::LOG_DROPPED, lines),
            (&metrics::SPANS_DROPPED, spans),
        ] {
            let mut metric =
                encoder.encode_descriptor(family.name, family.help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

fn encode_ends<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    sums: impl Iterator<Item = (&'a Labels, &'a Sum)>,
) -> fmt::Result {
    let ends = sums.flat_map(|(labels, sum)| {
        sum.ends.iter().map(move |((flag, outcome), count)| {
            (Ends { labels, result: Outcome::text_of(*outcome), flag: *flag }, *count)
        })
    });
    let ends: Vec<(Ends<'_>, u64)> = ends.collect();
    encode_counters(encoder, family, ends.iter().map(|(labels, count)| (labels, *count)))
}

fn encode_counters<'a, L: EncodeLabelSet + 'a>(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    values: impl Iterator<Item = (&'a L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(family.name, family.help, None, MetricType::Counter)?;
    for (labels, value) in values {
        metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
    }
    Ok(())
}

fn encode_durations<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    sums: impl Iterator<Item = (&'a Labels, &'a Sum)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(family.name, family.help, None, MetricType::Histogram)?;
    for (labels, sum) in sums {
        let bounds = bounds(labels.unit).iter().map(|micros| *micros as f64 / 1e6);
        let buckets: Vec<(f64, u64)> =
            bounds.chain([f64::INFINITY]).zip(sum.buckets.iter().copied()).collect();
        let count = sum.buckets.iter().sum();
        let mut series = metric.encode_family(labels)?;
        series.encode_histogram::<NoLabelSet>(sum.micros as f64 / 1e6, count, &buckets, None)?;
    }
    Ok(())
}
