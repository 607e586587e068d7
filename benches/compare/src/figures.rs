//! Figures of a run, their medians and ratios.

use crate::workload::Kind;

/// A workload's figures.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// As in the workload.
    pub(crate) key: &'static str,
    /// As in the workload.
    pub(crate) title: &'static str,
    /// As in the workload.
    pub(crate) unit: &'static str,
    /// One for each contender.
    pub(crate) rows: Vec<Row>,
}

/// A contender's figures, one for each round.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The contender.
    pub(crate) name: String,
    /// Who it is.
    pub(crate) kind: Kind,
    /// In the order of the rounds.
    pub(crate) figures: Vec<f64>,
}

impl Row {
    /// The middle figure.
    pub(crate) fn median(&self) -> f64 {
        median(&self.figures)
    }

    /// The least and the greatest.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let least = self.figures.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self.figures.iter().copied().fold(0.0, f64::max);
        (least, greatest)
    }

    /// The middle of the ratios to another one, round by round: what slows a round down slows both down.
    pub(crate) fn over(&self, other: &Row) -> f64 {
        let ratios: Vec<f64> = self.figures.iter().zip(&other.figures).map(|(a, b)| a / b).collect();
        median(&ratios)
    }
}

impl Measured {
    /// Whether less is better.
    pub(crate) fn is_time(&self) -> bool {
        self.unit == "ms"
    }

    /// The contender of this name.
    pub(crate) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// The raw limit.
    pub(crate) fn raw(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.kind == Kind::Raw)
    }

    /// everfold, where it has one row.
    pub(crate) fn own(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.kind == Kind::Own)
    }

    /// The fastest of the other engines, or of those among them that are named.
    pub(crate) fn best_peer(&self, among: Option<&[&str]>) -> Option<&Row> {
        self.best_where(|name| among.is_none_or(|names| names.contains(&name)))
    }

    /// The fastest of the other engines whose names are wanted.
    pub(crate) fn best_where(&self, is_wanted: impl Fn(&str) -> bool) -> Option<&Row> {
        let peers = self.rows.iter().filter(|row| row.kind == Kind::Peer && is_wanted(&row.name));
        peers.max_by(|a, b| a.median().total_cmp(&b.median()))
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len() / 2, sorted.len() % 2) {
        (_, _) if sorted.is_empty() => f64::NAN,
        (middle, 1) => sorted[middle],
        (middle, _) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}
