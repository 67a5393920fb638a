//! Run folders with known numbers, written line by line as a trainer does.

use lehr::config::{Settings, Stage};
use lehr::event::{
    Binned, Bins, Completion, Eval, Event, Finished, Merged, Norms, Number, Predicted, Predictions, ProbabilityChange, Probe,
    Rescue, Sample, SavedCheckpoint, Score, Started, Step, TaskEval, Tokens,
};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A run folder to be.
pub struct Made {
    pub path: PathBuf,
    log: std::fs::File,
}

pub fn numbers(values: &[f64]) -> Vec<Number> {
    values.iter().map(|v| Number(*v)).collect()
}

impl Made {
    pub fn new(dir: &Path, name: &str) -> Self {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).unwrap();
        let log = std::fs::File::create(path.join("events.jsonl")).unwrap();
        Self { path, log }
    }

    pub fn settings(&self, change: impl FnOnce(&mut Settings)) -> &Self {
        let mut settings = Settings::default();
        change(&mut settings);
        std::fs::write(self.path.join("config.toml"), toml::to_string(&settings).unwrap()).unwrap();
        self
    }

    pub fn event(&mut self, event: &Event) {
        let line = serde_json::to_string(event).unwrap();
        self.line(&line);
    }

    pub fn line(&mut self, line: &str) {
        writeln!(self.log, "{line}").unwrap();
    }

    pub fn torn(&mut self, text: &str) {
        write!(self.log, "{text}").unwrap();
    }

    pub fn started(&mut self, stage: Stage, max_steps: u64, parent: Option<&str>) {
        self.event(&Event::Started(Started {
            stage: stage.name().into(),
            run: self.path.clone(),
            step: 0,
            max_steps,
            parameters: 812_288,
            tokens_per_step: 768,
            train_tokens: 1_003_854,
            val_tokens: 111_540,
            adapter: "an adapter".into(),
            driver: "a driver 1.2".into(),
            startup_seconds: 0.5,
            version: "0.1.0".into(),
            parent: parent.map(str::to_owned),
            time: 1_795_617_248.8,
        }));
    }

    pub fn finished(&mut self, step: u64) {
        self.event(&Event::Finished(Finished {
            step,
            reason: "completed".into(),
            eval_loss: None,
            accuracy: None,
            tokens: 768 * step,
            seconds: step as f64 * 0.5,
            tokens_per_second: 1500.0,
            checkpoint: None,
            grad_norm: BTreeMap::new(),
            spikes: 0,
            rescues: 0,
        }));
    }

    /// A step whose every number follows from its own.
    pub fn step(&mut self, step: u64, metrics: &[(&str, f64)]) {
        let wave = (step as f64 * 0.7).sin();
        self.event(&Event::Step(Step {
            step,
            loss: 2.0 + 2.0 / step as f64 + 0.1 * wave,
            grad_norm: 1.0 + 0.5 * wave,
            learning_rate: 1e-3,
            entropy: 2.0,
            num_tokens: 768 * step,
            tokens_per_second: 1500.0 + 20.0 * wave,
            seconds: 0.5 * step as f64,
            mean_token_accuracy: f64::NAN,
            metrics: metrics.iter().map(|(name, v)| ((*name).to_owned(), Number(*v))).collect(),
            ..Step::default()
        }));
    }
}

/// Pre-training with evaluations, merges, a rescue, a live change, norms, samples: everything that such a run can tell.
pub fn pretrain(dir: &Path, name: &str, steps: u64) -> PathBuf {
    let mut run = Made::new(dir, name);
    run.settings(|s| s.train.max_steps = steps);
    run.started(Stage::Pretrain, steps, None);
    for step in 1..=steps {
        run.step(step, &[]);
        if step % (steps / 10).max(1) != 0 {
            continue;
        }
        let eval_loss = 2.1 + 2.0 / step as f64;
        let eval = Eval {
            step,
            eval_loss,
            perplexity: eval_loss.exp(),
            eval_mean_token_accuracy: 0.4,
            eval_tokens: 16_384,
            eval_seconds: 1.0,
        };
        run.event(&Event::Eval(eval));
        run.event(&Event::Merged(Merged {
            step,
            method: "sma".into(),
            steps: vec![step / 2, step],
            mean_age_tokens: 384.0 * step as f64,
            metrics: [("merge/sma/eval_loss".to_owned(), Number(eval_loss - 0.05))].into(),
            eval_loss: Some(eval_loss),
            anneal_estimate: Some(eval_loss - 0.06),
            eval_tokens: 16_384,
            ..Merged::default()
        }));
        let parts: Vec<String> = ["embed", "layers.0", "layers.1", "norm", "head"].map(String::from).into();
        let norms = |by: f64| numbers(&[3.0, 4.0, 5.0, 1.0, 2.0].map(|v| v * by));
        run.event(&Event::Norms(Norms { step, parts, weights: norms(1.0), gradients: norms(0.01) }));
        run.event(&Event::Predictions(Box::new(predictions(step))));
        run.event(&Event::Sample(Sample {
            step,
            prompt: "Once".into(),
            text: format!(" upon a time, at step {step}"),
            ..Sample::default()
        }));
        run.event(&Event::Checkpoint(SavedCheckpoint { step, path: "c".into(), bytes: 9, save_seconds: 0.1 }));
    }
    run.event(&Event::HyperChanged { step: steps / 2, name: "learning_rate_scale".into(), before: 1.0, after: 0.5 });
    run.event(&Event::Rescue(Rescue {
        step: steps,
        to_step: steps - 1,
        method: "pma".into(),
        cause: "the loss rose".into(),
        note: "two checkpoints were gone".into(),
        count: 1,
        ..Rescue::default()
    }));
    run.step(steps, &[]);
    run.event(&Event::Warning { text: "grad_norm is 9, usual is 1".into() });
    run.finished(steps);
    run.path
}

fn predictions(step: u64) -> Predictions {
    let bins = |n: usize| Predicted {
        from: (0..n).map(|b| b as f64 / n as f64).collect(),
        count: vec![25; n],
        share: numbers(&vec![1.0 / n as f64; n]),
        loss: numbers(&(0..n).map(|b| 2.0 * (n - b) as f64 / (n * (n + 1)) as f64).collect::<Vec<_>>()),
        gradient: numbers(&vec![1.0 / n as f64; n]),
    };
    Predictions { step, tokens: 250, quartiles: bins(4), deciles: bins(10) }
}

/// A GRPO run with token statistics, evaluations and completions.
pub fn grpo(dir: &Path, name: &str, steps: u64, parent: Option<&str>) -> PathBuf {
    let mut run = Made::new(dir, name);
    run.settings(|s| {
        s.train.max_steps = steps;
        s.train.learning_rate = 3e-4;
        s.task = Some(Default::default());
        s.rollout = Some(Default::default());
        s.grpo = Some(Default::default());
    });
    run.started(Stage::Grpo, steps, parent);
    run.event(&Event::TaskEval(task_eval(0, 0.1)));
    for step in 1..=steps {
        let metrics =
            [("reward", 0.01 * step as f64), ("rewards/format/mean", 0.5), ("kl", 0.001), ("completions/mean_length", 40.0)];
        run.step(step, &metrics);
        run.event(&Event::Tokens(Box::new(tokens(step))));
    }
    run.event(&Event::TaskEval(task_eval(steps, 0.4)));
    run.finished(steps);
    let mut file = std::fs::File::create(run.path.join("samples.jsonl")).unwrap();
    for step in [1, steps] {
        for i in 0..6 {
            writeln!(file, "{}", serde_json::to_string(&completion(step, i)).unwrap()).unwrap();
        }
    }
    run.path
}

pub fn completion(step: u64, i: u32) -> Completion {
    Completion {
        step,
        group: i / 2,
        prompt: "Who is a knave?".into(),
        text: "A is not".into(),
        answer: "B".into(),
        level: 2,
        reward: 0.5,
        reason: "wrong about A".into(),
        pieces: vec!["A".into(), " is".into(), " not".into(), String::new()],
        logprobs: vec![-0.1, -2.0, -0.5, -0.01],
        entropy: vec![0.3, 1.2, 0.9, 0.1],
        advantages: vec![-0.7; 4],
        ..Completion::default()
    }
}

pub fn task_eval(step: u64, accuracy: f64) -> TaskEval {
    let score =
        |count: u64, accuracy: f64| Score { count, accuracy, interval: [accuracy - 0.05, accuracy + 0.06], ..Score::default() };
    let levels = [(2, score(50, accuracy + 0.1)), (3, score(50, accuracy - 0.1))].into();
    TaskEval {
        step,
        task: "kk".into(),
        temperature: 0.0,
        all: score(100, accuracy),
        levels,
        eval_seconds: 1.0,
        ..TaskEval::default()
    }
}

fn tokens(step: u64) -> Tokens {
    let binned = |n: usize| Binned {
        count: vec![10; n],
        share: numbers(&vec![1.0 / n as f64; n]),
        advantage: numbers(&vec![0.5; n]),
        gradient: numbers(&(0..n).map(|b| 2.0 * (n - b) as f64 / (n * (n + 1)) as f64).collect::<Vec<_>>()),
        entropy: numbers(&vec![1.0; n]),
        weight: numbers(&vec![1.0; n]),
    };
    let bins = |n: usize| Bins {
        from: (0..n).map(|b| b as f64 / n as f64).collect(),
        all: binned(n),
        positive: binned(n),
        negative: binned(n),
    };
    let moved = |sign: f64| ProbabilityChange {
        count: vec![10, 10, 10, 0],
        least: numbers(&[-0.2, -0.2, -0.1, f64::NAN]),
        lower: numbers(&[-0.02, -0.02, -0.01, f64::NAN]),
        median: numbers(&[sign * 0.01, 0.0, 0.0, f64::NAN]),
        upper: numbers(&[0.03, 0.02, 0.01, f64::NAN]),
        most: numbers(&[0.2, 0.2, 0.1, f64::NAN]),
        right: numbers(&[0.7, 0.6, 0.5, f64::NAN]),
        // The last of the three with tokens is of a log without counts.
        cells: vec![(0..40).map(|i| 20 - u64::abs_diff(i, 20)).collect(), vec![1; 40], Vec::new(), Vec::new()],
    };
    Tokens {
        step,
        tokens: 100,
        quartiles: bins(4),
        deciles: bins(10),
        grad_norm: [("low".to_owned(), Number(0.8)), ("high".to_owned(), Number(0.2))].into(),
        probe: Some(Probe { all: moved(0.5), positive: moved(1.0), negative: moved(-1.0) }),
        gradient: None,
    }
}
