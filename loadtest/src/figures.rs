//! Numbers and how they are shown: medians of alternating runs, their spread, ratios, and a table that lines up.
//! Measures nothing.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// What several runs of one thing gave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figure {
    pub median: f64,
    /// Largest less smallest, as a part of the median: how far to trust it.
    pub spread: f64,
    pub runs: Vec<f64>,
}

impl Figure {
    pub fn of(runs: Vec<f64>) -> Self {
        let mut sorted = runs.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            at(middle)
        } else {
            f64::midpoint(at(middle.saturating_sub(1)), at(middle))
        };
        let range = at(sorted.len().saturating_sub(1)) - at(0);
        Self { median, spread: if median > 0.0 { range / median } else { 0.0 }, runs }
    }

    /// One run more.
    pub fn add(&mut self, run: f64) {
        self.runs.push(run);
        *self = Self::of(std::mem::take(&mut self.runs));
    }

    /// This as a multiple of another.
    pub fn ratio(&self, other: &Self) -> f64 {
        if other.median > 0.0 { self.median / other.median } else { f64::NAN }
    }
}

/// Rows under a heading; the first column is text and stands left, the others stand right.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    /// So many columns stand left.
    left: usize,
}

impl Table {
    pub fn new(left: usize, heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()], left }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                // Writing to a String does not fail.
                let _ = if column < self.left {
                    write!(line, "{gap}{cell:width$}")
                } else {
                    write!(line, "{gap}{cell:>width$}")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// The same for a page.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if number == 0 {
                let dashes = (0..row.len()).map(|column| if column < self.left { "---" } else { "---:" });
                let _ = writeln!(text, "|{}|", dashes.collect::<Vec<_>>().join("|"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_middle_of_its_runs() {
        let figure = Figure::of(vec![30.0, 10.0, 20.0]);
        assert!((figure.median - 20.0).abs() < f64::EPSILON && (figure.spread - 1.0).abs() < f64::EPSILON);
        let even = Figure::of(vec![1.0, 2.0]);
        assert!((even.median - 1.5).abs() < f64::EPSILON);
        assert!((Figure::of(Vec::new()).median).abs() < f64::EPSILON);
        assert!((even.ratio(&figure) - 0.075).abs() < 1e-9);
    }

    #[test]
    fn a_table_lines_up() {
        let mut table = Table::new(1, &["what", "n"]);
        table.row(vec!["a".into(), "10".into()]);
        table.row(vec!["bcdef".into(), "1".into()]);
        assert_eq!(table.render(), "what    n\na      10\nbcdef   1\n");
        assert_eq!(table.markdown(), "| what | n |\n|---|---:|\n| a | 10 |\n| bcdef | 1 |\n");
    }
}
