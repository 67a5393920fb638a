//! `lehr inspect`: attention, logit lens and next-token distributions of one text.

use crate::cli::{held_out_text, open, output};
use crate::config::{DeviceSettings, StorageSettings};
use crate::model::inspect::{self, InspectRequest, Inspection, PredictedToken};
use std::io::Read as _;

const EXAMPLES: &str = "\
Examples:
  Inspect a text with the newest checkpoint of a run, and with that of step 200:
    lehr inspect --model runs/stories --text \"Once upon a time\"
    lehr inspect --model runs/stories@200 --text \"Once upon a time\"
  Everything, for a program: attention[layer][head][query][key], lens[layer].positions[token], tokens[token]
    lehr inspect --model ./SmolLM2-135M --text \"The capital of France is\" --top 10 --json

The last row of the output has the predictions for the token after the text.";

/// Flags of `lehr inspect`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model folder (lehr's or Hugging Face's), a run folder (its newest checkpoint), or RUN@STEP.
    #[arg(long, value_name = "DIR|RUN@STEP")]
    model: String,
    /// The text; read from standard input when absent.
    #[arg(long, allow_hyphen_values = true)]
    text: Option<String>,
    /// Number of predictions per next token.
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    /// Print everything as one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    storage: StorageSettings,
    #[command(flatten)]
    device: DeviceSettings,
}

/// Longer texts are rejected before tokenization.
const MOST_BYTES: u64 = 1 << 20;

/// Inspect.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    anyhow::ensure!(
        (1..=inspect::MOST_GUESSES).contains(&args.top),
        "--top {}: must lie between 1 and {}",
        args.top,
        inspect::MOST_GUESSES
    );
    let dir = held_out_text::folder_of(&args.model)?;
    let config = open::config(&dir)?;
    let tokenizer = open::tokenizer(&dir, &config)?;
    let tokens = tokenizer.encode_text(&text(args)?)?;
    anyhow::ensure!(!tokens.is_empty(), "--text: holds no token; give at least one character");
    let most = inspect::most_tokens(&config.model);
    anyhow::ensure!(
        tokens.len() <= most,
        "--text: {} tokens; of this model at most {most} can be inspected at once: shorten the text",
        tokens.len()
    );
    let device = open::device(&args.device)?;
    let model = open::frozen_model(&device, &dir, &config, tokens.len(), args.storage.dtype)?;
    let piece = |id: u32| tokenizer.token_text(id).unwrap_or_default();
    let found = inspect::inspect(&device, &model, InspectRequest { tokens: &tokens, top: args.top, piece: &piece })?;
    let found = Inspection { model: crate::vfs::display_path(&dir).to_string(), ..found };
    if args.json {
        output::json_line(&found)?;
    } else {
        print(&found)?;
    }
    Ok(0)
}

fn text(args: &Args) -> anyhow::Result<String> {
    let mut text = String::new();
    match &args.text {
        Some(given) => text.clone_from(given),
        None => {
            std::io::stdin().take(MOST_BYTES + 1).read_to_string(&mut text)?;
        }
    }
    anyhow::ensure!(text.len() as u64 <= MOST_BYTES, "--text: longer than a MiB; shorten the text");
    Ok(text)
}

/// Maximum columns of parts, or of heads, side by side.
const MOST_COLUMNS: usize = 6;
/// Maximum characters shown of a piece.
const PIECE: usize = 12;
/// Spaces between columns.
const GAP: usize = 2;

fn print(found: &Inspection) -> anyhow::Result<()> {
    let losses: Vec<f64> = found.tokens.iter().filter_map(|t| t.logprob).map(|l| -f64::from(l)).collect();
    let loss = match losses.len() {
        0 => String::new(),
        _ => format!(", loss {:.4} nats per token", crate::stats::mean(&losses)),
    };
    let heads = found.attention.first().map_or(0, Vec::len);
    output::folded_line(&format!(
        "{}: {} layers of {heads} heads, {} tokens{loss}",
        found.model,
        found.attention.len(),
        found.tokens.len()
    ))?;
    output::line("")?;
    tokens(found)?;
    lens(found)?;
    attention(found)
}

/// Every token with its probability, and the predictions for the next token, wrapped.
fn tokens(found: &Inspection) -> anyhow::Result<()> {
    let head = format!("{:>4}  {:PIECE$}  {:>7}  {:>6}  {:>7}  ", "", "token", "p", "rank", "entropy");
    output::line(&format!("{head}then"))?;
    for (i, token) in found.tokens.iter().enumerate() {
        let p = token.logprob.map_or("given".into(), |l| percent(l.exp()));
        let rank = token.rank.map_or(String::new(), |rank| rank.to_string());
        let piece = visible_piece(&token.piece);
        let mut line = format!("{i:>4}  {piece:PIECE$}  {p:>7}  {rank:>6}  {:>7.3}", token.entropy);
        for guess in token.next.iter().map(guess) {
            if line.chars().count() + GAP + guess.chars().count() > output::COLUMNS {
                output::line(&line)?;
                line = " ".repeat(head.len() - GAP);
            }
            line += &format!("{:GAP$}{guess}", "");
        }
        output::line(line.trim_end())?;
    }
    Ok(())
}

/// The columns that fit in a terminal after `left` characters, at least one; `pick` chooses N of them.
fn fitting(left: usize, widths: &[usize], pick: impl Fn(usize) -> Vec<usize>) -> Vec<usize> {
    let wide = |columns: &[usize]| left + columns.iter().map(|i| GAP + widths[*i]).sum::<usize>();
    let most = MOST_COLUMNS.min(widths.len());
    (1..=most).rev().map(&pick).find(|columns| wide(columns) <= output::COLUMNS).unwrap_or_else(|| pick(most.min(1)))
}

/// Rows of a table: the left cells, then the chosen columns.
fn rows(left: &[String], cells: &[Vec<String>], widths: &[usize], columns: &[usize]) -> anyhow::Result<()> {
    for (left, cells) in left.iter().zip(cells) {
        let row: String = columns.iter().map(|i| format!("{:GAP$}{:w$}", "", cells[*i], w = widths[*i])).collect();
        output::line(format!("{left}{row}").trim_end())?;
    }
    Ok(())
}

fn widths(cells: &[Vec<String>]) -> Vec<usize> {
    let columns = cells.first().map_or(0, Vec::len);
    (0..columns).map(|c| cells.iter().map(|row| row[c].chars().count()).max().unwrap_or(0)).collect()
}

/// The best prediction after each token, part by part.
fn lens(found: &Inspection) -> anyhow::Result<()> {
    output::line("\nLogit lens: the most likely next token if this part were the last")?;
    let best = |part: &inspect::Lens, i: usize| part.positions[i].next.first().map_or(String::new(), guess);
    let mut left = vec![format!("{:>4}  {:PIECE$}", "", "token")];
    let mut cells = vec![found.lens.iter().map(|part| part.part.clone()).collect::<Vec<String>>()];
    for (i, token) in found.tokens.iter().enumerate() {
        left.push(format!("{i:>4}  {:PIECE$}", visible_piece(&token.piece)));
        cells.push(found.lens.iter().map(|part| best(part, i)).collect());
    }
    let widths = widths(&cells);
    let columns = fitting(4 + GAP + PIECE, &widths, |most| spread(widths.len(), most));
    rows(&left, &cells, &widths, &columns)
}

/// The attention of each head of each layer from the last token.
fn attention(found: &Inspection) -> anyhow::Result<()> {
    let heads = found.attention.first().map_or(0, Vec::len);
    let cell = |head: &Vec<Vec<f32>>| {
        let row = head.last().map(Vec::as_slice).unwrap_or_default();
        let at = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
        let text = found.tokens.get(at).map_or(String::new(), |t| format!("{at}:{}", visible_piece(&t.piece)));
        format!("{text} {}", row.get(at).map_or(String::new(), |w| percent(*w)))
    };
    let left: Vec<String> = (0..found.attention.len()).map(|layer| format!("{:<10}", format!("layers.{layer}"))).collect();
    let cells: Vec<Vec<String>> = found.attention.iter().map(|layer| layer.iter().map(cell).collect()).collect();
    let widths = widths(&cells);
    let columns = fitting(10, &widths, |most| (0..most).collect());
    let more = match columns.len() {
        all if all == heads => String::new(),
        some => format!(" (the first {some} of {heads}; --json has all)"),
    };
    output::line("")?;
    output::folded_line(&format!("Attention: where each head looks most from the last token{more}"))?;
    rows(&left, &cells, &widths, &columns)
}

/// At most `most` of `0..n`, evenly spaced, including the first and the last.
fn spread(n: usize, most: usize) -> Vec<usize> {
    let most = most.min(n);
    (0..most).map(|i| if most == 1 { 0 } else { i * (n - 1) / (most - 1) }).collect()
}

fn guess(guess: &PredictedToken) -> String {
    format!("{} {}", visible_piece(&guess.piece), percent(guess.probability))
}

fn percent(p: f32) -> String {
    crate::number_format::percent(f64::from(p), 1)
}

/// A piece on one line with visible spaces, truncated if long.
fn visible_piece(piece: &str) -> String {
    let text = output::piece(piece).replace(' ', "\u{b7}");
    match text.chars().count() > PIECE {
        true => text.chars().take(PIECE - 1).chain(['\u{2026}']).collect(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_distributed_over_all_parts() {
        assert_eq!(spread(31, 6), [0, 6, 12, 18, 24, 30]);
        assert_eq!([spread(1, 6), spread(2, 6), spread(5, 6)], [vec![0], vec![0, 1], vec![0, 1, 2, 3, 4]]);
    }

    #[test]
    fn shown_columns_fit_the_terminal() {
        let all = |most: usize| (0..most).collect();
        assert_eq!(fitting(18, &[19; 5], all), [0, 1]);
        assert_eq!(fitting(18, &[8; 9], all), [0, 1, 2, 3, 4, 5]);
        assert_eq!(fitting(18, &[200; 3], all), [0], "one is always shown");
        assert!(fitting(18, &[], all).is_empty());
        let cells = [["a", "bcd"], ["ef", "g"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(widths(&cells), [2, 3]);
    }

    #[test]
    fn token_text_stays_on_one_line() {
        assert_eq!([" a\n", "\u{1b}[2J", "abcdefghijklmn"].map(visible_piece), ["·a\\n", "\\u{1b}[2J", "abcdefghijk…"]);
    }
}
