//! `lehr inspect`: attention, logit lens and next-token distributions of one text.

use super::{held_out_text, open, output};
use crate::config::DeviceSettings;
use crate::model::inspect::{self, Guess, Inspection, Question};
use std::io::Read as _;

const EXAMPLES: &str = "\
Examples:
  What a run's newest checkpoint makes of a sentence, and what it was 300 updates earlier:
    lehr inspect --model runs/stories --text \"Once upon a time\"
    lehr inspect --model runs/stories@200 --text \"Once upon a time\"
  Everything, for a program: attention[layer][head][query][key], lens[layer].positions[token], tokens[token]
    lehr inspect --model ./SmolLM2-135M --text \"The capital of France is\" --top 10 --json

At the end of the text stands what the model would say next.";

/// Flags of `lehr inspect`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model folder (ours or Hugging Face's), a run folder (its newest checkpoint), or RUN@STEP.
    #[arg(long, value_name = "DIR|RUN@STEP")]
    model: String,
    /// The text; read from standard input when absent.
    #[arg(long, allow_hyphen_values = true)]
    text: Option<String>,
    /// Guesses of each next token.
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    /// Print one JSON object with everything in it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceSettings,
}

/// Text longer than this is not even made tokens of.
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
    let model = open::model(&device, &dir, &config, tokens.len())?;
    let piece = |id: u32| tokenizer.token_text(id).unwrap_or_default();
    let found = inspect::inspect(&device, &model, Question { tokens: &tokens, top: args.top, piece: &piece })?;
    let found = Inspection { model: crate::vfs::shown(&dir).to_string(), ..found };
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

/// Columns of parts, and of heads, that fit beside each other.
const MOST_COLUMNS: usize = 6;
/// Characters of a piece that are shown.
const PIECE: usize = 12;

fn print(found: &Inspection) -> anyhow::Result<()> {
    let losses: Vec<f64> = found.tokens.iter().filter_map(|t| t.logprob).map(|l| -f64::from(l)).collect();
    let loss = match losses.len() {
        0 => String::new(),
        n => format!(", loss {:.4} nats a token", losses.iter().sum::<f64>() / n as f64),
    };
    let heads = found.attention.first().map_or(0, Vec::len);
    output::line(&format!(
        "{}: {} layers of {heads} heads, {} tokens{loss}\n",
        found.model,
        found.attention.len(),
        found.tokens.len()
    ))?;
    tokens(found)?;
    lens(found)?;
    attention(found)
}

/// Every token with its probability, and the guesses of what comes after it.
fn tokens(found: &Inspection) -> anyhow::Result<()> {
    output::line(&format!("{:>4}  {:PIECE$}  {:>6}  {:>6}  {:>7}  then", "", "token", "p", "rank", "entropy"))?;
    for (i, token) in found.tokens.iter().enumerate() {
        let p = token.logprob.map_or("given".into(), |l| percent(l.exp()));
        let rank = token.rank.map_or(String::new(), |rank| rank.to_string());
        let next: Vec<String> = token.next.iter().map(guess).collect();
        let piece = shown(&token.piece);
        output::line(&format!("{i:>4}  {piece:PIECE$}  {p:>6}  {rank:>6}  {:>7.3}  {}", token.entropy, next.join("  ")))?;
    }
    Ok(())
}

/// The best guess after each token, part by part.
fn lens(found: &Inspection) -> anyhow::Result<()> {
    let columns = spread(found.lens.len(), MOST_COLUMNS);
    let width = PIECE + 7;
    let head: Vec<String> = columns.iter().map(|i| format!("{:width$}", found.lens[*i].part)).collect();
    output::line("\nLogit lens: the best guess of what comes after each token, were this part the last")?;
    output::line(format!("{:>4}  {:PIECE$}  {}", "", "token", head.join("  ")).trim_end())?;
    for (i, token) in found.tokens.iter().enumerate() {
        let cell = |column: &usize| {
            let best = found.lens[*column].positions[i].next.first().map_or(String::new(), guess);
            format!("{best:width$}")
        };
        let row: Vec<String> = columns.iter().map(cell).collect();
        output::line(format!("{i:>4}  {:PIECE$}  {}", shown(&token.piece), row.join("  ")).trim_end())?;
    }
    Ok(())
}

/// Where each head of each layer looks from the last token.
fn attention(found: &Inspection) -> anyhow::Result<()> {
    let heads = found.attention.first().map_or(0, Vec::len);
    let more =
        if heads > MOST_COLUMNS { format!(" (the first {MOST_COLUMNS} of {heads}; --json has all)") } else { String::new() };
    output::line(&format!("\nAttention: where each head looks most from the last token{more}"))?;
    let width = PIECE + 7;
    for (layer, of_layer) in found.attention.iter().enumerate() {
        let cell = |head: &Vec<Vec<f32>>| {
            let row = head.last().map(Vec::as_slice).unwrap_or_default();
            let at = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
            let text = found.tokens.get(at).map_or(String::new(), |t| format!("{at}:{}", shown(&t.piece)));
            let weight = row.get(at).map_or(String::new(), |w| percent(*w));
            format!("{:width$}", format!("{text} {weight}"))
        };
        let row: Vec<String> = of_layer.iter().take(MOST_COLUMNS).map(cell).collect();
        output::line(format!("{:<10}  {}", format!("layers.{layer}"), row.join("  ")).trim_end())?;
    }
    Ok(())
}

/// At most `most` of `0..n`, evenly, the first and the last among them.
fn spread(n: usize, most: usize) -> Vec<usize> {
    let most = most.min(n);
    (0..most).map(|i| if most == 1 { 0 } else { i * (n - 1) / (most - 1) }).collect()
}

fn guess(guess: &Guess) -> String {
    format!("{} {}", shown(&guess.piece), percent(guess.probability))
}

/// 0.1234 as `12.3%`.
fn percent(p: f32) -> String {
    format!("{:.1}%", 100.0 * p)
}

/// A piece on one line, its spaces seen, cut where it is long.
fn shown(piece: &str) -> String {
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
    fn columns_are_spread_over_all_parts() {
        assert_eq!(spread(31, 6), [0, 6, 12, 18, 24, 30]);
        assert_eq!([spread(1, 6), spread(2, 6), spread(5, 6)], [vec![0], vec![0, 1], vec![0, 1, 2, 3, 4]]);
    }

    #[test]
    fn pieces_stay_on_their_line() {
        assert_eq!([" a\n", "\u{1b}[2J", "abcdefghijklmn"].map(shown), ["·a\\n", "\\u{1b}[2J", "abcdefghijk…"]);
    }
}
