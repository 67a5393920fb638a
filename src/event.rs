//! What a trainer says and what it can be told: the whole contract, on two screens.
//!
//! Events are facts in the past tense, one JSON object a line with the kind in `event`. Commands are requests, one JSON object a line
//! with the kind in `command`; the trainer answers each with an event. A reader that joins late replays the file.
//!
//! Length: the whole contract in one place.

mod inside;
mod tokens;

pub use inside::{Norms, Predicted, Predictions};
pub use tokens::{BinGradient, Binned, Bins, Moved, Probe, Tokens};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum Event {
    /// The trainer is about to take its first step (again, after a resume).
    Started(Started),
    /// One optimiser update.
    Step(Step),
    /// Reinforcement: the tokens of a step's completions, by probability.
    Tokens(Box<Tokens>),
    /// An evaluation on held-out data.
    Eval(Eval),
    /// Supervised learning: the tokens of an evaluation, by the probability that the model gave them.
    Predictions(Box<Predictions>),
    /// Size of weights and gradients, block by block.
    Norms(Norms),
    /// An evaluation on held-out questions.
    TaskEval(TaskEval),
    /// Generated text.
    Sample(Sample),
    /// The merge of the newest snapshots was judged; the run itself was not touched.
    Merged(Merged),
    /// A checkpoint is on disk, verified and durable.
    Checkpoint(Checkpoint),
    /// Training had diverged and went back.
    Rescue(Rescue),
    /// The run waits for `Resume`.
    Paused {
        /// Updates made so far.
        step: u64,
    },
    /// The run goes on after a pause.
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
        /// Its value before.
        #[serde(with = "number")]
        before: f64,
        /// Its value from now on.
        #[serde(with = "number")]
        after: f64,
    },
    /// Something that the user should know, with the cure in the text.
    Warning {
        /// Plain words.
        text: String,
    },
    /// The run ended as planned, or was stopped after a save.
    Finished(Finished),
    /// The run ended in an error.
    Failed {
        /// One line: what, where, and what to do.
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
    /// Trainable numbers.
    pub parameters: u64,
    /// Tokens in one update.
    pub tokens_per_step: u64,
    /// Training tokens in the data.
    pub train_tokens: u64,
    /// Validation tokens in the data.
    pub val_tokens: u64,
    /// Adapter name.
    pub adapter: String,
    /// Driver name and version.
    pub driver: String,
    /// Seconds from process start to here.
    #[serde(with = "number")]
    pub startup_seconds: f64,
    /// lehr's version.
    pub version: String,
    /// What the run began from, `RUN@STEP` or a merge, when it did not begin from nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Unix time, seconds.
    #[serde(with = "number")]
    pub time: f64,
}

/// One optimiser update. Names follow Hugging Face / TRL.
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
    /// Share of the update's targets that were the most probable token.
    #[serde(default, with = "number")]
    pub mean_token_accuracy: f64,
    /// Training tokens seen so far, padding left out.
    pub num_tokens: u64,
    /// Passes over the training data so far.
    #[serde(default, with = "number")]
    pub epoch: f64,
    /// Throughput over the last updates.
    #[serde(with = "number")]
    pub tokens_per_second: f64,
    /// Share of this adapter's measured matmul peak that the model's FLOPs used, 0 to 1.
    #[serde(with = "number")]
    pub mfu: f64,
    /// Seconds of training so far, pauses left out, over all starts of the run.
    #[serde(with = "number")]
    pub seconds: f64,
    /// Bytes of the device's memory that the run has taken; 0 of a log that does not say.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub device_bytes: u64,
    /// True when the gradient was not finite and the update was not applied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Reinforcement: everything else by TRL's and verl's names (`reward`, `kl`, `clip_ratio/low_mean`, `timing_s/gen`, ...).
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
    /// Tokens scored.
    pub eval_tokens: u64,
    /// Wall time of the evaluation.
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
    /// Divides the logits; 0 always takes the most probable token.
    #[serde(with = "number")]
    pub temperature: f64,
    /// All questions together.
    #[serde(flatten)]
    pub all: Score,
    /// The same by level: number of people, grade of difficulty.
    #[serde(deserialize_with = "levels")]
    pub levels: BTreeMap<u32, Score>,
    /// Answers that the grader could not judge; no other number counts them.
    pub ungraded: u64,
    /// Why the last of them has no reward.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ungraded_reason: String,
    /// Wall time of the evaluation.
    #[serde(with = "number")]
    pub eval_seconds: f64,
}

/// Beside a flattened field serde hands out names as text, and takes no numbers from them.
fn levels<'de, D: serde::Deserializer<'de>>(d: D) -> Result<BTreeMap<u32, Score>, D::Error> {
    let named = BTreeMap::<String, Score>::deserialize(d)?;
    let number = |(name, score): (String, Score)| Ok((name.parse().map_err(serde::de::Error::custom)?, score));
    named.into_iter().map(number).collect()
}

/// How some answers were graded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Score {
    /// Answers.
    pub count: u64,
    /// Share that is entirely right.
    #[serde(with = "number")]
    pub accuracy: f64,
    /// Bounds of that share: Wilson's interval at 95 %.
    pub interval: [f64; 2],
    /// Mean reward.
    #[serde(with = "number")]
    pub reward: f64,
    /// Mean length of a completion, in tokens.
    #[serde(with = "number")]
    pub mean_length: f64,
    /// Share that ran into the limit of its length.
    #[serde(with = "number")]
    pub clipped_ratio: f64,
}

/// One completion as `samples.jsonl` keeps it. Vectors have an entry a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Completion {
    /// The step that it was sampled in.
    pub step: u64,
    /// Completions of one prompt in one step share this number.
    pub group: u32,
    /// What was asked.
    pub prompt: String,
    /// The answer as text, the token that ended it left out.
    pub text: String,
    /// The right answer.
    pub answer: String,
    /// Number of people, grade of difficulty.
    pub level: u32,
    /// What the grader gave.
    #[serde(with = "number")]
    pub reward: f64,
    /// Parts of that by name.
    pub rewards: BTreeMap<String, f64>,
    /// Entirely right.
    pub correct: bool,
    /// Why.
    pub reason: String,
    /// It ran into the limit of its length.
    pub truncated: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: Vec<u32>,
    /// Tokens of the completion, with the one that ended it.
    pub tokens: Vec<u32>,
    /// Each as text.
    pub pieces: Vec<String>,
    /// log pi(token) before the step's updates, in nats.
    pub logprobs: Vec<f32>,
    /// Entropy of the distribution it was drawn from, in nats.
    pub entropy: Vec<f32>,
    /// Advantage, Advantage Reweighting included.
    pub advantages: Vec<f32>,
}

/// Generated text. Lists have an entry a token, and are empty in logs of earlier versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Updates made so far.
    pub step: u64,
    /// What was given.
    pub prompt: String,
    /// What came.
    pub text: String,
    /// What the logits were divided by; 0 took the most probable token each time. None in logs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The prompt was put to the model as what a user says, through its chat template.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chat: bool,
    /// Each token of `text` as text; empty where it completes no character.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pieces: Vec<String>,
    /// log pi(token) under the distribution it was drawn from (greedy: at temperature 1), in nats.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<f32>,
}

/// A merge along the trajectory, judged on the same validation tokens as the run's own weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    /// Updates made so far.
    pub step: u64,
    /// The method with its parameter, such as `sma` or `ema 0.2`.
    pub method: String,
    /// Steps of the merged snapshots, oldest first.
    pub steps: Vec<u64>,
    /// Mean age of the merged weights, in training tokens.
    #[serde(with = "number")]
    pub mean_age_tokens: f64,
    /// `merge/METHOD/eval_loss`: validation loss of the merge in nats.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, Number>,
    /// Validation loss of the run's own weights at this step, on the same tokens.
    #[serde(with = "optional_number")]
    pub eval_loss: Option<f64>,
    /// What the validation loss would be had the learning rate been annealed to zero by now, as estimated from the merge.
    #[serde(with = "optional_number")]
    pub anneal_estimate: Option<f64>,
    /// Tokens scored.
    pub eval_tokens: u64,
    /// Wall time of merging and scoring.
    #[serde(with = "number")]
    pub merge_seconds: f64,
    /// The model folder that `MergeNow` wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// A run that diverged and went back to good weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rescue {
    /// Updates made when it was decided.
    pub step: u64,
    /// Updates made in the state that it went back to.
    pub to_step: u64,
    /// `rollback` or `pma`.
    pub method: String,
    /// Steps of the checkpoints whose weights it goes on from (one, or those merged), oldest first.
    pub from_steps: Vec<u64>,
    /// What was seen, in words.
    pub cause: String,
    /// What was done differently than asked for, and why, in words; empty if nothing.
    #[serde(default)]
    pub remark: String,
    /// First update that may have been part of the spike.
    #[serde(default)]
    pub onset: u64,
    /// Median loss before the spike.
    #[serde(with = "number")]
    pub loss_before: f64,
    /// Highest finite loss in it.
    #[serde(with = "number")]
    pub loss_at_spike: f64,
    /// Validation loss of the weights that it goes on from.
    #[serde(default, with = "optional_number")]
    pub eval_loss: Option<f64>,
    /// `keep` or `reset`.
    pub optimizer: String,
    /// Batches passed over by this rescue.
    pub skipped_batches: u64,
    /// Factor on the learning rate from now on.
    #[serde(with = "number")]
    pub learning_rate_scale: f64,
    /// How many rescues the run has had, this one included.
    pub count: u64,
}

/// A saved checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Updates made so far.
    pub step: u64,
    /// The checkpoint's folder.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Wall time of the save.
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
    /// Last validation loss, if there was one.
    #[serde(with = "optional_number")]
    pub eval_loss: Option<f64>,
    /// Reinforcement: share of the held-out questions answered rightly at the end, by chance as in training.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Training tokens seen.
    pub tokens: u64,
    /// Seconds of training, over all starts of the run.
    #[serde(with = "number")]
    pub seconds: f64,
    /// Tokens over seconds; of a fork, the tokens that it has seen itself.
    #[serde(with = "number")]
    pub tokens_per_second: f64,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Mean, standard deviation, 99th percentile of grad_norm, and spikes over twice the running median.
    pub grad_norm: BTreeMap<String, f64>,
    /// Loss spikes, those that passed included.
    #[serde(default)]
    pub spikes: u64,
    /// How often the run went back to good weights.
    #[serde(default)]
    pub rescues: u64,
}

/// Something that a trainer is asked to do between two steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command")]
pub enum Command {
    /// Stop before the next step, keep everything in memory.
    Pause,
    /// Go on.
    Resume,
    /// While paused: make one update.
    Step,
    /// Save and leave.
    Stop,
    /// Change live settings; absent fields stay.
    SetHyper(LiveSettings),
    /// Save a checkpoint now.
    SaveNow,
    /// Generate text now.
    SampleNow {
        /// What to continue.
        prompt: String,
        /// Divides the logits; 0 takes the most probable token each time; 0.8 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        temperature: Option<f64>,
        /// Tokens to add at most; 200 when absent, or as many as the run's own samples have if that is more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens: Option<u64>,
        /// Put the prompt to the model as what a user says, through its chat template.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        chat: bool,
    },
    /// Evaluate now.
    EvalNow,
    /// Merge the snapshots of the ring now and judge the result.
    MergeNow,
}

/// The settings that may change while a run goes on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LiveSettings {
    /// Factor on the scheduled learning rate.
    pub learning_rate_scale: Option<f64>,
    /// Clip the global gradient norm to this.
    pub max_grad_norm: Option<f64>,
    /// Reinforcement: divides the logits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Reinforcement: strength of Advantage Reweighting, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reweight_alpha: Option<f64>,
    /// Reinforcement: Lopti's threshold; 0 turns it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lopti_eta: Option<f64>,
}

/// A number that may be NaN or infinite, as [`number`] writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Number(#[serde(with = "number")] pub f64);

/// A number that may be NaN or infinite, which JSON cannot hold: those become the strings "NaN", "Infinity", "-Infinity".
pub mod number {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// See the module.
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

    /// See the module.
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

/// [`number`], or null.
pub mod optional_number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "super::number")] f64);

    /// See the module.
    pub fn serialize<S: Serializer>(x: &Option<f64>, s: S) -> Result<S::Ok, S::Error> {
        x.map(Wrapped).serialize(s)
    }

    /// See the module.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Wrapped>::deserialize(d)?.map(|w| w.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_metric_survives_the_trip() {
        let step = Step { step: 3, loss: f64::NAN, grad_norm: f64::INFINITY, ..Step::default() };
        let line = serde_json::to_string(&Event::Step(step)).unwrap();
        assert!(line.starts_with(r#"{"event":"Step","step":3,"loss":"NaN","grad_norm":"Infinity""#), "{line}");
        let Event::Step(back) = serde_json::from_str(&line).unwrap() else { panic!("kind changed") };
        assert!(back.loss.is_nan() && back.grad_norm == f64::INFINITY);
    }

    #[test]
    fn an_exam_with_levels_survives_the_trip() {
        let score = Score { count: 7, accuracy: 0.5, ..Score::default() };
        let exam =
            TaskEval { step: 3, all: score.clone(), levels: [(2, score.clone()), (13, score)].into(), ..TaskEval::default() };
        let event = Event::TaskEval(exam);
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event, "{line}");
    }

    #[test]
    fn commands_are_one_object_a_line() {
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
