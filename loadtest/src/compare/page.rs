//! `cargo loadtest page`: writes the figures of `all` into docs/performance.md, between a pair of marks for each table, and the
//! plots beside them. Says nothing itself but what follows from figures.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::all::{self, All};
use super::sheet::short;
use super::{DIRECT, Report, Sheet, pass_through, starts, stream, syscalls, target, tunnels};
use crate::figures::Table;
use crate::plot::{self, Panel};

mod arithmetic;

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What `all --output json` has printed
    #[arg(default_value = "docs/performance/figures.json")]
    figures: PathBuf,
    /// The page
    #[arg(long, default_value = "docs/performance.md")]
    page: PathBuf,
}

/// The plots go beside the figures.
pub fn write(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { figures, page } = arguments;
    let reading =
        |path: &PathBuf| fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
    let all: All = serde_json::from_str(&reading(figures)?)
        .with_context(|| format!("understanding {}", figures.display()))?;
    let mut text = reading(page)?;
    for (name, table) in [
        ("machine", all.pass_through.remarks().replace('\n', "\n\n") + "\n"),
        ("pass-through", report(&all.pass_through, &[pass_through::CULVERT])),
        ("tunnel", report(&all.tunnel, &tunnels::CULVERT)),
        ("idle", sheet(&all.idle, &[])),
        ("claims", sheet(&all.claims, &[])),
        ("links", all.links.as_ref().map_or_else(|| "Not measured.\n".to_owned(), |links| sheet(links, &[]))),
        ("arithmetic", arithmetic::table(&all)),
    ] {
        text = between(&text, name, &table)?;
    }
    fs::write(page, text)?;
    let beside = figures.parent().context("a file without a directory")?;
    fs::write(beside.join("pass-through.svg"), drawn(&all.pass_through))?;
    fs::write(beside.join("tunnel.svg"), drawn(&all.tunnel))?;
    Ok(())
}

/// What is worth a picture.
pub fn drawn(report: &Report) -> String {
    let columns =
        [target::CPU, target::ADDED, syscalls::COLUMN, target::PER_IDLE, starts::STARTED, starts::RESTARTED];
    let columns = columns.into_iter().chain([stream::DOWN, stream::UP]);
    let panels =
        report.sheets.iter().flat_map(|sheet| columns.clone().filter_map(|column| Panel::of(sheet, column)));
    plot::svg(&panels.collect::<Vec<_>>())
}

/// The cases in one table, and what is not a case in its own.
fn report(report: &Report, ours: &[&str]) -> String {
    let is_case = |sheet: &&Sheet| sheet.columns.iter().any(|column| column == target::RATE);
    let cases: Vec<_> = report.sheets.iter().filter(is_case).collect();
    let mut text =
        format!("CPU of the measured processes, µs per request:\n\n{}", costs(&cases, report, ours));
    text.push_str(&format!("\nRequests per second:\n\n{}", matrix(&cases, target::RATE)));
    for case in cases.iter().filter(|case| !case.failed.is_empty()) {
        text.push_str(&format!("\n{}:\n{}", case.name, case.failures()));
    }
    for other in report.sheets.iter().filter(|sheet| !is_case(sheet)) {
        text.push_str(&format!("\n{}:\n\n{}", other.name, sheet(other, &report.baselines)));
    }
    text
}

fn sheet(sheet: &Sheet, baselines: &[String]) -> String {
    sheet.table(baselines).markdown() + &sheet.failures()
}

/// A row for each case, a column for each target, and how ours compare with each baseline, in the order of `ours`.
fn costs(cases: &[&Sheet], report: &Report, ours: &[&str]) -> String {
    let names = targets(cases);
    let mut heading = vec![String::new()];
    heading.extend(names.iter().cloned());
    heading.extend(report.baselines.iter().map(|base| format!("{} vs {base}", ours.join(", "))));
    let mut table = Table::new(1, &heading.iter().map(String::as_str).collect::<Vec<_>>());
    for case in cases {
        let of = |target: &str| case.figure(target, target::CPU);
        let mut row = vec![case.name.clone()];
        row.extend(
            names.iter().map(|name| of(name).map_or_else(|| "-".to_owned(), |figure| short(figure.median))),
        );
        row.extend(report.baselines.iter().map(|base| {
            let ratios = ours.iter().filter_map(|our| Some(format!("{:.2}x", of(our)?.ratio(of(base)?))));
            ratios.collect::<Vec<_>>().join(", ")
        }));
        table.row(row);
    }
    table.markdown()
}

fn matrix(cases: &[&Sheet], column: &str) -> String {
    let names = targets(cases);
    let mut heading = vec![""];
    heading.extend(names.iter().map(String::as_str));
    let mut table = Table::new(1, &heading);
    for case in cases {
        let mut row = vec![case.name.clone()];
        row.extend(names.iter().map(|name| {
            case.figure(name, column).map_or_else(
                || "-".to_owned(),
                |figure| format!("{} ±{:.0} %", short(figure.median), figure.spread * 50.0),
            )
        }));
        table.row(row);
    }
    table.markdown()
}

/// In the order of the first case, which has all of them.
fn targets(cases: &[&Sheet]) -> Vec<String> {
    let rows = cases.first().map(|case| &case.rows).into_iter().flatten();
    let mut names: Vec<_> = rows.map(|row| row.target.clone()).collect();
    names.sort_by_key(|name| name != DIRECT);
    names
}

/// The text with what is between `<!-- NAME -->` and `<!-- /NAME -->` replaced.
fn between(text: &str, name: &str, table: &str) -> anyhow::Result<String> {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let parted = text.split_once(&open).and_then(|(before, rest)| Some((before, rest.split_once(&close)?.1)));
    let Some((before, after)) = parted else { bail!("the page has no place for {name}") };
    Ok(format!("{before}{open}\n{table}\n{close}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_replaces_the_one_that_was_there_and_nothing_else() {
        let page = "a\n<!-- t -->\n\nold\n\n<!-- /t -->\nb\n";
        let once = between(page, "t", "| new |\n").unwrap();
        assert_eq!(once, "a\n<!-- t -->\n\n| new |\n\n<!-- /t -->\nb\n");
        assert_eq!(between(&once, "t", "| new |\n").unwrap(), once);
        assert!(between(page, "other", "").is_err());
    }
}
