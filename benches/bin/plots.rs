//! `plots`: pictures of what `quorate bench write --json` has measured.
//!
//! Each file is one curve or time line, a JSON object per line; its name says what is drawn (`curves.sh`
//! makes them). Invariant: a point is the median of the runs with the same abscissa, and least and most are
//! drawn beside it; nothing is smoothed.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use plotters::{chart::SeriesAnno, prelude::*};
use serde_json::Value;

const USAGE: &str = "\
usage: plots DIRECTORY
Draws DIRECTORY/{batch,hosts,tasks,nodes,level}-*.jsonl as rates and latencies, and
DIRECTORY/timeline-*.jsonl as time lines, each into an .svg beside it.";

const SIZE: (u32, u32) = (900, 420);
const FONT: (&str, u32) = ("sans-serif", 15);
/// Told apart also without colours: dark, middle, light.
const COLOURS: [RGBColor; 3] =
    [RGBColor(20, 60, 120), RGBColor(200, 90, 20), RGBColor(120, 160, 90)];

const LINES: RGBColor = RGBColor(200, 200, 200);
const FINE_LINES: RGBColor = RGBColor(238, 238, 238);

type Failed = Box<dyn Error>;

/// Least, median and most.
type Spread = (f64, f64, f64);

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (least, most) = (*values.first()?, *values.last()?);
    let half = values.len() / 2;
    let median =
        if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 };
    Some((least, median, most))
}

fn runs(path: &Path) -> Result<Vec<Value>, Failed> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// A key of all runs against another one.
fn curve(runs: &[Value], x: &str, y: &str) -> Vec<(f64, Spread)> {
    let mut found: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for run in runs {
        if let (Some(x), Some(y)) = (run[x].as_f64(), run[y].as_f64()) {
            found.entry(x as u64).or_default().push(y);
        }
    }
    found.into_iter().filter_map(|(x, values)| Some((x as f64, spread(values)?))).collect()
}

/// Rate above, latencies below, over a logarithmic abscissa.
fn draw_curve(path: &Path, runs: &[Value], x: &str) -> Result<(), Failed> {
    let rate = curve(runs, x, "rows_per_s");
    let (first, last) = match (rate.first(), rate.last()) {
        (Some(first), Some(last)) => (first.0, last.0),
        _ => return Err(format!("{} has no runs with {x}", path.display()).into()),
    };
    let described = match x {
        "batch" => "rows per batch",
        "hosts" => "series",
        other => other,
    };
    let out = path.with_extension("svg");
    let root = SVGBackend::new(&out, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(SIZE.0 / 2);
    let range = (first * 0.8..last.max(first * 1.01) * 1.25).log_scale();
    let top = rate.iter().map(|(_, (.., most))| *most).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(&left)
        .caption("rows per second", FONT)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(range.clone(), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc(described)
        .y_label_formatter(&|value| si(*value))
        .x_label_formatter(&|value| si(*value))
        .bold_line_style(LINES)
        .light_line_style(FINE_LINES)
        .draw()?;
    draw_series(&mut chart, &rate, COLOURS[0])?;
    let names = [("p50", "ack_p50_ms"), ("p99", "ack_p99_ms"), ("p99.9", "ack_p999_ms")];
    let latencies = names.map(|(name, key)| (name, curve(runs, x, key)));
    let all = || latencies.iter().flat_map(|(_, points)| points);
    let low = all().map(|(_, (least, ..))| *least).fold(f64::MAX, f64::min).max(0.01);
    let high = all().map(|(_, (.., most))| *most).fold(low * 1.01, f64::max);
    let mut chart = ChartBuilder::on(&right)
        .caption("acknowledgement of a batch, ms", FONT)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        // Room for the legend.
        .build_cartesian_2d(range, (low * 0.8..high * 3.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(described)
        .x_label_formatter(&|value| si(*value))
        .bold_line_style(LINES)
        .light_line_style(FINE_LINES)
        .draw()?;
    for ((name, points), colour) in latencies.iter().zip(COLOURS) {
        let sample = move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2));
        draw_series(&mut chart, points, colour)?.label(*name).legend(sample);
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .draw()?;
    root.present()?;
    println!("{}", out.display());
    Ok(())
}

fn draw_series<'a, 'c, X, Y>(
    chart: &'c mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    points: &[(f64, Spread)],
    colour: RGBColor,
) -> Result<&'c mut SeriesAnno<'a, SVGBackend<'a>>, Failed>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    let medians = points.iter().map(|(x, (_, median, _))| (*x, *median));
    chart.draw_series(medians.clone().map(|at| Circle::new(at, 3, colour.filled())))?;
    let bars = points
        .iter()
        .map(|(x, (least, _, most))| PathElement::new(vec![(*x, *least), (*x, *most)], colour));
    chart.draw_series(bars)?;
    Ok(chart.draw_series(LineSeries::new(medians, colour.stroke_width(2)))?)
}

/// Bars by name: for what is no number.
fn draw_levels(path: &Path, runs: &[Value]) -> Result<(), Failed> {
    let names = ["any", "one", "quorum", "all"];
    let rates = names.map(|name| {
        let of = runs.iter().filter(|run| run["consistency"] == name);
        spread(of.filter_map(|run| run["rows_per_s"].as_f64()).collect())
    });
    let top = rates.iter().flatten().map(|(.., most)| *most).fold(1.0, f64::max) * 1.1;
    let out = path.with_extension("svg");
    let root = SVGBackend::new(&out, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("rows per second", FONT)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..names.len() as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_label_formatter(&|value| si(*value))
        .bold_line_style(LINES)
        .light_line_style(FINE_LINES)
        .draw()?;
    for (at, (name, rate)) in names.iter().zip(rates).enumerate() {
        let Some((least, median, most)) = rate else { continue };
        let (left, right) = (at as f64 + 0.2, at as f64 + 0.8);
        let middle = at as f64 + 0.5;
        chart.draw_series([Rectangle::new([(left, 0.0), (right, median)], COLOURS[0].filled())])?;
        chart.draw_series([PathElement::new(vec![(middle, least), (middle, most)], COLOURS[1])])?;
        let font = FONT.into_font().color(&WHITE);
        chart.draw_series([Text::new((*name).to_owned(), (left + 0.05, top * 0.05), font)])?;
    }
    root.present()?;
    println!("{}", out.display());
    Ok(())
}

/// Rows per second and the longest latency over time, of the first run.
fn draw_timeline(path: &Path, runs: &[Value]) -> Result<(), Failed> {
    let run = runs.first().ok_or("no run")?;
    let step = run["timeline_step_s"].as_f64().ok_or("no time line")?;
    let numbers = |key: &str| -> Vec<f64> {
        run[key].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
    };
    // The last step is not whole.
    let mut rows = numbers("timeline_rows");
    rows.pop();
    let worst = numbers("timeline_worst_ms");
    let end = rows.len() as f64 * step;
    let top = rows.iter().fold(1.0, |top: f64, rows| top.max(rows / step)) * 1.1;
    let slow = worst.iter().fold(1.0, |top: f64, ms| top.max(*ms)) * 1.1;
    let out = path.with_extension("svg");
    let root = SVGBackend::new(&out, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("rows per second (dark), longest acknowledgement in ms (light, right)", FONT)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .right_y_label_area_size(60)
        .build_cartesian_2d(0.0..end, 0.0..top)?
        .set_secondary_coord(0.0..end, 0.0..slow);
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_label_formatter(&|value| si(*value))
        .bold_line_style(LINES)
        .light_line_style(FINE_LINES)
        .draw()?;
    chart.configure_secondary_axes().draw()?;
    let middle = |at: usize| (at as f64 + 0.5) * step;
    let worst = worst.iter().take(rows.len()).enumerate().map(|(at, ms)| (middle(at), *ms));
    chart.draw_secondary_series(LineSeries::new(worst, COLOURS[1]))?;
    let rates = rows.iter().enumerate().map(|(at, rows)| (middle(at), rows / step));
    chart.draw_series(LineSeries::new(rates, COLOURS[0].stroke_width(2)))?;
    root.present()?;
    println!("{}", out.display());
    Ok(())
}

/// A number in few characters.
fn si(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", value / 1e6),
        size if size >= 1e3 => format!("{}k", value / 1e3),
        _ => format!("{value}"),
    }
}

fn all(directory: &str) -> Result<(), Failed> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_, Failed>>()?;
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|end| end == "jsonl")) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let kind = name.split('-').next().unwrap_or_default();
        let runs = runs(path)?;
        match kind {
            "batch" | "hosts" | "tasks" | "nodes" => draw_curve(path, &runs, kind)?,
            "level" => draw_levels(path, &runs)?,
            "timeline" => draw_timeline(path, &runs)?,
            _ => {}
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [directory] = args.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match all(directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plots: {error}");
            ExitCode::FAILURE
        }
    }
}
