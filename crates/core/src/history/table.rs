//! Metrics as tables for other programs.

use super::{Axis, History};
use std::fmt::Write as _;

/// Metrics as comma-separated values: step, tokens, seconds, then a column per metric; empty where not measured.
pub fn csv(run: &History, metrics: &[&str]) -> String {
    let mut out = String::from("step,tokens,seconds");
    metrics.iter().for_each(|name| write!(out, ",{}", quoted(name)).unwrap_or_default());
    out.push('\n');
    let curves: Vec<_> = metrics.iter().map(|name| run.curves.get(*name)).collect();
    let mut next = vec![0; curves.len()];
    for row in 0..run.clock.len() as u32 {
        let values: Vec<Option<f64>> = curves
            .iter()
            .zip(&mut next)
            .map(|(curve, next)| {
                let curve = (*curve)?;
                // Of several values in one row, the last is the final one of the step.
                let mut value = None;
                while curve.rows().get(*next).is_some_and(|&r| r == row) {
                    value = Some(curve.values()[*next]);
                    *next += 1;
                }
                value
            })
            .collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let at = |axis| run.clock.at(axis, row);
        write!(out, "{},{},{}", at(Axis::Steps), at(Axis::Tokens), at(Axis::Relative)).unwrap_or_default();
        for value in values {
            out.push(',');
            value.map_or(Ok(()), |v| write!(out, "{v}")).unwrap_or_default();
        }
        out.push('\n');
    }
    out
}

fn quoted(name: &str) -> String {
    if name.contains([',', '"', '\n']) { format!("\"{}\"", name.replace('"', "\"\"")) } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Eval, Event, Step};

    #[test]
    fn table_rows_are_the_measured_steps() {
        let mut run = History::default();
        for step in 1..=3 {
            run.push(Event::Step(Step { step, num_tokens: 8 * step, loss: 0.5 * step as f64, ..Step::default() }));
        }
        let eval = |step| Eval {
            step,
            eval_loss: 2.0,
            perplexity: 0.0,
            eval_mean_token_accuracy: 0.0,
            eval_tokens: 1,
            eval_seconds: 0.0,
        };
        run.push(Event::Eval(eval(3)));
        let text = csv(&run, &["loss", "eval_loss", "gone"]);
        assert_eq!(text, "step,tokens,seconds,loss,eval_loss,gone\n1,8,0,0.5,,\n2,16,0,1,,\n3,24,0,1.5,2,\n");
        assert_eq!(csv(&run, &["eval_loss"]).lines().count(), 2);
    }
}
