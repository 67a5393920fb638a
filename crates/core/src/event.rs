//! Events that a trainer reports and commands that it accepts: the complete interface.
//!
//! Events describe what has happened: one JSON object per line, with the kind in `event`. Commands are requests: one JSON object per line,
//! with the kind in `command`; the trainer answers each with an event. A reader that joins late replays the file.
//!
//! Length: the complete interface in one place.

mod inside;
mod tokens;

pub use inside::{Norms, Predicted, Predictions};
pub use tokens::{BinGradient, Binned, Bins, ProbabilityChange, Probe, Tokens};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum Event {
    /// The trainer is about to make its first update (reported again after a resume).
    Started(Started),
    /// One optimizer update.
    Step(Step),
    /// GRPO: the tokens of a step's completions, by probability.
    Tokens(Box<Tokens>),
    /// An evaluation on held-out data.
    Eval(Eval),
    /// Supervised learning: the tokens of an evaluation, by their probability under the model.
    Predictions(Box<Predictions>),
    /// Norms of weights and gradients, block by block.
    Norms(Norms),
    /// An evaluation on held-out questions.
    TaskEval(TaskEval),
    /// Generated text.
    Sample(Sample),
    /// The merge of the newest snapshots was evaluated; the run itself is unchanged.
    Merged(Merged),
    /// A checkpoint is on disk, verified and durable.
    Checkpoint(SavedCheckpoint),
    /// Training diverged and went back to good weights.
    Rescue(Rescue),
    /// The run is paused until `Resume`.
    Paused {
        /// Updates made so far.
        step: u64,
    },
    /// The run continued after a pause.
    Resumed {
        /// Updates made so far.
        step: u64,
    },
    /// A live setting was changed.
    HyperChanged {
        /// Updates made so far.
        step: u64,
        /// The setting's name.
        name: String,
        /// Its previous value.
        #[serde(with = "number")]
        before: f64,
        /// Its new value.
        #[serde(with = "number")]
        after: f64,
    },
    /// A warning, with the remedy in the text.
    Warning {
        /// Plain text.
        text: String,
    },
    /// The run ended as planned, or was stopped after a save.
    Finished(Finished),
    /// The run ended in an error.
    Failed {
        /// One line: cause, place and remedy.
        text: String,
    },
}

/// The first line of each start of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// `pretrain`, `sft` or `grpo`.
    pub stage: String,
    /// The run folder.
    pub run: PathBuf,
    /// Updates already made (0 unless resumed).
    pub step: u64,
    /// Updates planned.
    pub max_steps: u64,
    /// Number of trainable parameters.
    pub parameters: u64,
    /// Tokens per update.
    pub tokens_per_step: u64,
    /// Tokens of training data.
    pub train_tokens: u64,
    /// Tokens of validation data.
    pub val_tokens: u64,
    /// Adapter name.
    pub adapter: String,
    /// Driver name and version.
    pub driver: String,
    /// Seconds from process start to this event.
    #[serde(with = "number")]
    pub startup_seconds: f64,
    /// lehr's version.
    pub version: String,
    /// Starting point of the run, `RUN@STEP` or a merge; absent when it started from nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Unix time, seconds.
    #[serde(with = "number")]
    pub time: f64,
}

/// One optimizer update. Names as in Hugging Face and TRL.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Updates made so far, this one included.
    pub step: u64,
    /// Mean cross-entropy over this update's tokens, in nats, before the update.
    #[serde(with = "number")]
    pub loss: f64,
    /// Global L2 norm of the gradient before clipping.
    #[serde(with = "number")]
    pub grad_norm: f64,
    /// Learning rate of this update.
    #[serde(with = "number")]
    pub learning_rate: f64,
    /// Mean entropy of the predictions, in nats.
    #[serde(with = "number")]
    pub entropy: f64,
    /// Share of this update's targets that were the most probable token.
    #[serde(default, with = "number")]
    pub mean_token_accuracy: f64,
    /// Training tokens seen so far, without padding.
    pub num_tokens: u64,
    /// Passes over the training data so far.
    #[serde(default, with = "number")]
    pub epoch: f64,
    /// Throughput over the most recent updates.
    #[serde(with = "number")]
    pub tokens_per_second: f64,
    /// Model FLOPs as a share of this adapter's measured matmul peak, 0 to 1.
    #[serde(with = "number")]
    pub mfu: f64,
    /// Seconds of training so far, without pauses, over all starts of the run.
    #[serde(with = "number")]
    pub seconds: f64,
    /// Bytes of device memory allocated by the run; 0 in logs that do not record it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub device_bytes: u64,
    /// True when the gradient was not finite and the update was not applied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// GRPO: all other metrics, named as in TRL and verl (`reward`, `kl`, `clip_ratio/low_mean`, `timing_s/gen`, ...).
    #[serde(flatten)]
    pub metrics: BTreeMap<String, Number>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// An evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Eval {
    /// Updates made so far.
    pub step: u64,
    /// Mean cross-entropy in nats.
    #[serde(with = "number")]
    pub eval_loss: f64,
    /// exp(eval_loss).
    #[serde(with = "number")]
    pub perplexity: f64,
    /// Share of the targets that were the most probable token.
    #[serde(default, with = "number")]
    pub eval_mean_token_accuracy: f64,
    /// Number of tokens evaluated.
    pub eval_tokens: u64,
    /// Wall time of the evaluation, in seconds.
    #[serde(with = "number")]
    pub eval_seconds: f64,
}

/// An evaluation on held-out questions: exact match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskEval {
    /// Updates made so far.
    pub step: u64,
    /// The task.
    pub task: String,
    /// Sampling temperature; 0 is greedy decoding.
    #[serde(with = "number")]
    pub temperature: f64,
    /// All questions.
    #[serde(flatten)]
    pub all: Score,
    /// The same by level: number of people, or difficulty.
    #[serde(deserialize_with = "levels")]
    pub levels: BTreeMap<u32, Score>,
    /// Completions that the grader could not grade; no other number includes them.
    pub ungraded: u64,
    /// Why the last of them has no reward.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ungraded_reason: String,
    /// Wall time of the evaluation, in seconds.
    #[serde(with = "number")]
    pub eval_seconds: f64,
}

impl TaskEval {
    /// How the answers were decoded: `greedy`, or `sampled at temperature 1`.
    pub fn decoding(&self) -> String {
        if self.temperature == 0.0 { "greedy".into() } else { format!("sampled at temperature {}", self.temperature) }
    }
}

/// Next to a flattened field serde passes map keys as strings, and accepts no numbers for them.
fn levels<'de, D: serde::Deserializer<'de>>(d: D) -> Result<BTreeMap<u32, Score>, D::Error> {
    let named = BTreeMap::<String, Score>::deserialize(d)?;
    let number = |(name, score): (String, Score)| Ok((name.parse().map_err(serde::de::Error::custom)?, score));
    named.into_iter().map(number).collect()
}

/// Results of a set of graded completions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Score {
    /// Number of completions.
    pub count: u64,
    /// Share of exact matches.
    #[serde(with = "number")]
    pub accuracy: f64,
    /// 95 % Wilson interval of that share.
    pub interval: [f64; 2],
    /// Mean reward.
    #[serde(with = "number")]
    pub reward: f64,
    /// Mean length of a completion, in tokens.
    #[serde(with = "number")]
    pub mean_length: f64,
    /// Share that was cut off at the maximum length.
    #[serde(with = "number")]
    pub clipped_ratio: f64,
}

/// One completion as written to `samples.jsonl`. Vectors have one entry per token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Completion {
    /// The step in which it was sampled.
    pub step: u64,
    /// Shared by all completions of one prompt in one step.
    pub group: u32,
    /// The prompt.
    pub prompt: String,
    /// Text of the completion, without the token that ended it.
    pub text: String,
    /// The reference answer.
    pub answer: String,
    /// Number of people, or difficulty.
    pub level: u32,
    /// The grader's reward.
    #[serde(with = "number")]
    pub reward: f64,
    /// Components of the reward, by name.
    pub rewards: BTreeMap<String, f64>,
    /// Exact match.
    pub correct: bool,
    /// Reason for the grade.
    pub reason: String,
    /// Whether it was cut off at the maximum length.
    pub truncated: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: Vec<u32>,
    /// Tokens of the completion, including the one that ended it.
    pub tokens: Vec<u32>,
    /// Text of each token.
    pub pieces: Vec<String>,
    /// log pi(token) before the step's updates, in nats.
    pub logprobs: Vec<f32>,
    /// Entropy of the distribution that each token was sampled from, in nats.
    pub entropy: Vec<f32>,
    /// Advantage, including Advantage Reweighting.
    pub advantages: Vec<f32>,
}

/// Generated text. Lists have one entry per token, and are empty in logs of earlier versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Updates made so far.
    pub step: u64,
    /// The prompt.
    pub prompt: String,
    /// The generated text.
    pub text: String,
    /// Sampling temperature; 0 is greedy decoding. None in logs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Whether the prompt was sent as a user message through the chat template.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chat: bool,
    /// Text of each token of `text`; empty where a token completes no character.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pieces: Vec<String>,
    /// log pi(token) under the distribution it was sampled from (greedy: at temperature 1), in nats.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<f32>,
}

/// A live merge, evaluated on the same validation tokens as the run's own weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    /// Updates made so far.
    pub step: u64,
    /// The method with its parameter, for example `sma` or `ema 0.2`.
    pub method: String,
    /// Steps of the merged snapshots, oldest first.
    pub steps: Vec<u64>,
    /// Mean age of the merged weights, in training tokens.
    #[serde(with = "number")]
    pub mean_age_tokens: f64,
    /// `merge/METHOD/eval_loss`: validation loss of the merge, in nats.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, Number>,
    /// Validation loss of the run's own weights at this step, on the same tokens, in nats.
    #[serde(with = "optional_number")]
    pub eval_loss: Option<f64>,
    /// Validation loss after annealing the learning rate to zero, as estimated from the merge.
    #[serde(with = "optional_number")]
    pub anneal_estimate: Option<f64>,
    /// Number of tokens evaluated.
    pub eval_tokens: u64,
    /// Wall time of merging and evaluation, in seconds.
    #[serde(with = "number")]
    pub merge_seconds: f64,
    /// The model folder written by `MergeNow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// A rescue: a run that diverged and went back to good weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rescue {
    /// Updates made when the rescue was decided.
    pub step: u64,
    /// Updates made in the state that was restored.
    pub to_step: u64,
    /// `rollback` or `pma`.
    pub method: String,
    /// Steps of the checkpoints whose weights were restored (one, or those merged), oldest first.
    pub from_steps: Vec<u64>,
    /// The observed cause, as text.
    pub cause: String,
    /// Deviations from the settings, with reasons, as text; empty if there are none.
    #[serde(default, alias = "remark")]
    pub note: String,
    /// First update that may have been part of the spike.
    #[serde(default)]
    pub onset: u64,
    /// Median loss before the spike.
    #[serde(with = "number")]
    pub loss_before: f64,
    /// Highest finite loss in the spike.
    #[serde(with = "number")]
    pub loss_at_spike: f64,
    /// Validation loss of the restored weights.
    #[serde(default, with = "optional_number")]
    pub eval_loss: Option<f64>,
    /// `keep` or `reset`.
    pub optimizer: String,
    /// Batches skipped by this rescue.
    pub skipped_batches: u64,
    /// Factor on the learning rate after the rescue.
    #[serde(with = "number")]
    pub learning_rate_scale: f64,
    /// Number of rescues of the run, this one included.
    pub count: u64,
}

/// A saved checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedCheckpoint {
    /// Updates made so far.
    pub step: u64,
    /// The checkpoint's folder.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Wall time of the save, in seconds.
    #[serde(with = "number")]
    pub save_seconds: f64,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Updates made.
    pub step: u64,
    /// `completed` or `stopped`.
    pub reason: String,
    /// Last validation loss, if any.
    #[serde(with = "optional_number")]
    pub eval_loss: Option<f64>,
    /// GRPO: exact match on the held-out questions at the end, greedy decoding.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Training tokens seen.
    pub tokens: u64,
    /// Seconds of training, over all starts of the run.
    #[serde(with = "number")]
    pub seconds: f64,
    /// Tokens divided by seconds; for a fork, only the tokens that it has trained on itself.
    #[serde(with = "number")]
    pub tokens_per_second: f64,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Mean, standard deviation and 99th percentile of grad_norm, and spikes over twice the running median.
    pub grad_norm: BTreeMap<String, f64>,
    /// Loss spikes, including those that recovered by themselves.
    #[serde(default)]
    pub spikes: u64,
    /// Number of rescues.
    #[serde(default)]
    pub rescues: u64,
}

/// A request to a trainer, carried out between two steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command")]
pub enum Command {
    /// Stop before the next step and keep everything in memory.
    Pause,
    /// Continue.
    Resume,
    /// While paused: make one update.
    Step,
    /// Save and exit.
    Stop,
    /// Change live settings; absent fields keep their values.
    SetHyper(LiveSettings),
    /// Save a checkpoint now.
    SaveNow,
    /// Generate text now.
    SampleNow {
        /// The prompt.
        prompt: String,
        /// Sampling temperature; 0 is greedy decoding; 0.8 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        temperature: Option<f64>,
        /// Maximum number of new tokens; when absent, 200 or the length of the run's own samples, whichever is greater.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens: Option<u64>,
        /// Send the prompt as a user message through the chat template.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        chat: bool,
    },
    /// Evaluate now.
    EvalNow,
    /// Merge the ring's snapshots now and evaluate the result.
    MergeNow,
}

/// Settings that can change during a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LiveSettings {
    /// Factor on the scheduled learning rate.
    pub learning_rate_scale: Option<f64>,
    /// Maximum norm of the global gradient, for clipping.
    pub max_grad_norm: Option<f64>,
    /// GRPO: sampling temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// GRPO: strength of Advantage Reweighting, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reweight_alpha: Option<f64>,
    /// GRPO: Lopti's threshold; 0 turns it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lopti_eta: Option<f64>,
}

/// A number that may be NaN or infinite, written as by [`number`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Number(#[serde(with = "number")] pub f64);

/// Numbers that may be NaN or infinite, which JSON cannot represent: those become the strings "NaN", "Infinity", "-Infinity".
pub mod number {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes a number, or one of the three strings.
    pub fn serialize<S: Serializer>(x: &f64, s: S) -> Result<S::Ok, S::Error> {
        if x.is_finite() {
            s.serialize_f64(*x)
        } else if x.is_nan() {
            s.serialize_str("NaN")
        } else {
            s.serialize_str(if *x > 0.0 { "Infinity" } else { "-Infinity" })
        }
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Number(f64),
        Text(String),
    }

    /// Reads a number, or one of the three strings.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        match Value::deserialize(d)? {
            Value::Number(x) => Ok(x),
            Value::Text(t) => match t.as_str() {
                "NaN" => Ok(f64::NAN),
                "Infinity" => Ok(f64::INFINITY),
                "-Infinity" => Ok(f64::NEG_INFINITY),
                other => Err(D::Error::custom(format!("'{other}' is not a number"))),
            },
        }
    }
}

/// As [`number`], or null.
pub mod optional_number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "super::number")] f64);

    /// Writes a number, one of the three strings, or null.
    pub fn serialize<S: Serializer>(x: &Option<f64>, s: S) -> Result<S::Ok, S::Error> {
        x.map(Wrapped).serialize(s)
    }

    /// Reads a number, one of the three strings, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Wrapped>::deserialize(d)?.map(|w| w.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_metrics_round_trip() {
        let step = Step { step: 3, loss: f64::NAN, grad_norm: f64::INFINITY, ..Step::default() };
        let line = serde_json::to_string(&Event::Step(step)).unwrap();
        assert!(line.starts_with(r#"{"event":"Step","step":3,"loss":"NaN","grad_norm":"Infinity""#), "{line}");
        let Event::Step(back) = serde_json::from_str(&line).unwrap() else { panic!("kind changed") };
        assert!(back.loss.is_nan() && back.grad_norm == f64::INFINITY);
    }

    #[test]
    fn task_evaluations_with_levels_round_trip() {
        let score = Score { count: 7, accuracy: 0.5, ..Score::default() };
        let eval =
            TaskEval { step: 3, all: score.clone(), levels: [(2, score.clone()), (13, score)].into(), ..TaskEval::default() };
        let event = Event::TaskEval(eval);
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event, "{line}");
    }

    #[test]
    fn commands_are_one_json_object_per_line() {
        let c: Command = serde_json::from_str(r#"{"command":"SetHyper","max_grad_norm":0.5}"#).unwrap();
        assert_eq!(c, Command::SetHyper(LiveSettings { max_grad_norm: Some(0.5), ..LiveSettings::default() }));
        assert_eq!(serde_json::to_string(&Command::Pause).unwrap(), r#"{"command":"Pause"}"#);
        let plain = Command::SampleNow { prompt: "a".into(), temperature: None, tokens: None, chat: false };
        let line = r#"{"command":"SampleNow","prompt":"a"}"#;
        assert_eq!((serde_json::from_str(line).unwrap(), serde_json::to_string(&plain).unwrap()), (plain, line.to_owned()));
        let asked: Command =
            serde_json::from_str(r#"{"command":"SampleNow","prompt":"a","temperature":0,"tokens":9,"chat":true}"#).unwrap();
        assert_eq!(asked, Command::SampleNow { prompt: "a".into(), temperature: Some(0.0), tokens: Some(9), chat: true });
    }
}
