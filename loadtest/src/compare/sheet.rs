//! One thing that was measured of several targets: a row for each, a figure in each column. The first column is what the sheet
//! is about; it is shown with its spread and as a multiple of whom it is compared with.

use serde::{Deserialize, Serialize};

use super::DIRECT;
use crate::figures::{Figure, Table};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sheet {
    pub name: String,
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
    /// Runs of peers that did not come to an end.
    pub failed: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub target: String,
    /// As many as there are columns; one without runs was not measured.
    pub figures: Vec<Figure>,
}

impl Sheet {
    pub fn new(name: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { name: name.into(), columns, rows: Vec::new(), failed: Vec::new() }
    }

    /// Another run of a target; a column of it that is not a number was not measured.
    pub fn add<const COLUMNS: usize>(&mut self, target: &str, runs: [f64; COLUMNS]) {
        let row = match self.rows.iter().position(|row| row.target == target) {
            Some(row) => row,
            None => {
                let figures = vec![Figure::default(); self.columns.len()];
                self.rows.push(Row { target: target.to_owned(), figures });
                self.rows.len() - 1
            }
        };
        if let Some(row) = self.rows.get_mut(row) {
            for (figure, run) in row.figures.iter_mut().zip(runs).filter(|(_, run)| run.is_finite()) {
                figure.add(run);
            }
        }
    }

    /// Another run, or why there is none. What is ours has to work; a peer is left out where it does not, and that is said.
    pub fn take<const COLUMNS: usize>(
        &mut self,
        target: &str,
        run: anyhow::Result<[f64; COLUMNS]>,
    ) -> anyhow::Result<()> {
        match run {
            Ok(run) => self.add(target, run),
            Err(error) if target == DIRECT || target.starts_with("culvert") => {
                return Err(error.context(format!("{target}: {}", self.name)));
            }
            Err(error) => self.failed.push(format!("{target}: {error:#}")),
        }
        Ok(())
    }

    /// Below a table: whose runs failed.
    pub fn failures(&self) -> String {
        self.failed.iter().map(|failed| format!("\nFAILED: {failed}\n")).collect()
    }

    /// A target whose figures are there.
    pub fn push(&mut self, target: impl Into<String>, figures: Vec<Figure>) {
        self.rows.push(Row { target: target.into(), figures });
    }

    pub fn of(&self, target: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.target == target)
    }

    /// Where it was measured.
    pub fn figure(&self, target: &str, column: &str) -> Option<&Figure> {
        let column = self.columns.iter().position(|name| name == column)?;
        let figure = self.of(target)?.figures.get(column)?;
        (!figure.runs.is_empty()).then_some(figure)
    }

    pub fn table(&self, baselines: &[String]) -> Table {
        let baselines: Vec<_> = baselines.iter().filter_map(|name| self.of(name)).collect();
        let mut heading = vec![String::new()];
        for (number, column) in self.columns.iter().enumerate() {
            heading.push(column.clone());
            if number == 0 {
                heading.push("spread".to_owned());
                heading.extend(baselines.iter().map(|row| format!("vs {}", row.target)));
            }
        }
        let heading: Vec<_> = heading.iter().map(String::as_str).collect();
        let mut table = Table::new(1, &heading);
        for row in &self.rows {
            let mut cells = vec![row.target.clone()];
            for (number, figure) in row.figures.iter().enumerate() {
                let measured = !figure.runs.is_empty();
                let or_dash = |text: String| if measured { text } else { "-".to_owned() };
                cells.push(or_dash(short(figure.median)));
                if number == 0 {
                    cells.push(or_dash(format!("{:.0} %", figure.spread * 100.0)));
                    for baseline in &baselines {
                        let ratio = baseline.figures.first().map_or(f64::NAN, |base| figure.ratio(base));
                        cells.push(or_dash(if ratio.is_finite() {
                            format!("{ratio:.2}x")
                        } else {
                            "-".to_owned()
                        }));
                    }
                }
            }
            table.row(cells);
        }
        table
    }
}

/// Three digits or so.
pub fn short(number: f64) -> String {
    match number.abs() {
        size if size < 10.0 => format!("{number:.2}"),
        size if size < 100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_compared_by_the_first_column_with_whom_it_is_to_be() {
        let mut sheet = Sheet::new("CPU", &["us", "per second"]);
        sheet.add("peer", [20.0, 1000.0]);
        sheet.add("culvert", [10.0, f64::NAN]);
        sheet.add("culvert", [12.0, f64::NAN]);
        let shown = sheet.table(&["peer".to_owned(), "absent".to_owned()]).markdown();
        assert_eq!(
            shown,
            "|  | us | spread | vs peer | per second |\n|---|---:|---:|---:|---:|\n\
             | peer | 20.0 | 0 % | 1.00x | 1000 |\n| culvert | 11.0 | 18 % | 0.55x | - |\n"
        );
        assert!(sheet.figure("culvert", "per second").is_none());
    }

    #[test]
    fn a_peer_that_fails_is_said_and_what_is_ours_may_not() {
        let mut sheet = Sheet::new("CPU", &["us"]);
        sheet.take("peer", Err::<[f64; 1], _>(anyhow::anyhow!("timed out"))).unwrap();
        assert_eq!(sheet.failures(), "\nFAILED: peer: timed out\n");
        assert!(sheet.take("culvert", Err::<[f64; 1], _>(anyhow::anyhow!("timed out"))).is_err());
    }
}
