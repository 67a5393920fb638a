//! `lehr eval --task`: held-out questions, answered greedily and by sampling; accuracy with intervals.

use crate::cli::{open, output};
use crate::config::{DataSettings, TaskKind, TaskSettings};
use crate::data::tasks::{self, Split, Task};
use crate::data::{Notices, Tokenizer};
use crate::model::{RolloutEngine, rollout};
use crate::number_format::counted;
use crate::ops::sample::Sampling;
use crate::session;
use crate::train::reinforce::task_eval::{GradedQuestion, TaskEvalSpec, TaskModel, TaskScores, reports};
use crate::vfs::RealFs;
use crate::world::World;
use anyhow::ensure;
use serde::Serialize;
use std::collections::BTreeMap;
use web_time::Instant;

/// Flags of `lehr eval --task`.
#[derive(clap::Args, Debug)]
#[group(id = "TaskEvalArgs")]
#[command(next_help_heading = "Answers to a task")]
pub struct Args {
    /// Number of held-out questions.
    #[arg(long, default_value_t = 200)]
    count: usize,
    /// Sampled answers per question; 0 for greedy answers only.
    #[arg(long, default_value_t = 1)]
    samples: usize,
    /// Temperature of the sampled answers.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Maximum tokens in an answer; the rest of the model's context, at most 1024, when absent.
    #[arg(long)]
    max_completion_length: Option<usize>,
    /// Seed of the questions and of the sampling. Evaluation questions never occur in training, whatever the seed.
    #[arg(long, default_value_t = 1337)]
    seed: u64,
}

/// Default maximum of tokens in an answer.
const MOST_TOKENS: usize = 1024;

/// Results of one decoding mode, greedy or sampled.
#[derive(Serialize)]
struct TaskMode {
    temperature: f64,
    samples: usize,
    /// Number of ungraded answers, excluded from all other numbers.
    ungraded: u64,
    #[serde(flatten)]
    all: TaskScores,
    levels: BTreeMap<u32, TaskScores>,
    /// Share of correct answers to each question, in order, for paired comparisons. `None` if no answer was graded.
    per_question: Vec<Option<f64>>,
    /// 1 if at least one answer to the question is correct, else 0.
    any_right: Vec<Option<f64>>,
    eval_seconds: f64,
    tokens_per_second: f64,
}

/// Tokens of the longest question, and the maximum tokens of an answer.
fn lengths(
    task: &dyn Task,
    tokenizer: &Tokenizer,
    chat: bool,
    asked: Option<usize>,
    (context, why): (usize, String),
) -> anyhow::Result<(usize, usize)> {
    let mut longest = 0;
    for n in 0..task.eval_questions() {
        longest = longest.max(task.question(Split::Eval, n)?.encode(tokenizer, chat)?.len());
    }
    ensure!(
        longest < context,
        "--task {}: a question has {longest} tokens, but this model takes at most {context} at once, answer included ({why}); use shorter questions",
        task.name()
    );
    let most = asked.unwrap_or(MOST_TOKENS).min(context - longest);
    if asked.is_some_and(|asked| asked > most) {
        output::note(&format!(
            "note: answers of up to {most} tokens: this model takes at most {context} at once, question included ({why})"
        ));
    }
    Ok((longest, most))
}

/// Evaluate and report; `rows` is the explicit number of answers generated at once.
pub fn run(args: &super::Args, rows: Option<usize>) -> anyhow::Result<i32> {
    let own = &args.task_eval;
    check(own)?;
    let dir = open::model_folder("--model", &args.model)?;
    let config = open::config(&dir)?;
    let tokenizer = open::tokenizer(&dir, &config)?;
    let mut task = questions(args, &tokenizer)?;
    let (count, chat) = (task.eval_questions(), args.task.chat);
    let context = config.model.usable_context();
    let (longest, most) = lengths(task.as_ref(), &tokenizer, chat, own.max_completion_length, context)?;
    let device = open::device(&args.device)?;
    let max_len = longest + most;
    let model = open::frozen_model(&device, &dir, &config, max_len, args.storage.dtype)?;
    let answers = count as usize * own.samples.max(1);
    let cache = args.cache.kv_cache_dtype.element();
    let suits = || rollout::default_slots(&config.model, max_len, cache, device.sizes());
    let rows = rows.unwrap_or_else(suits).min(answers).max(1);
    let mut engine = RolloutEngine::in_world(&device, &model, rows, max_len, cache, World::solo())?;
    let stops = tokenizer.end_tokens().ids();
    let mut evaluator = TaskModel { device: &device, model: &model, engine: &mut engine, tokenizer: &tokenizer, stops, chat };
    let mut ways = vec![(0.0, 1)];
    if own.samples > 0 && own.temperature > 0.0 {
        ways.push((own.temperature, own.samples));
    }
    let mut progress = EvaluationProgress::new(ways.iter().map(|(_, samples)| count as usize * samples).sum());
    let mut modes = Vec::new();
    for (temperature, samples) in ways {
        let begin = Instant::now();
        let sampling = Sampling { temperature, seed: own.seed, ..Sampling::default() };
        let spec = TaskEvalSpec { questions: count, samples, max_completion_length: most, sampling };
        let Some((graded_questions, ungraded)) =
            evaluator.evaluate(task.as_mut(), &spec, &mut |_, done, _| Ok(progress.show(done as usize)))?
        else {
            return Ok(session::control::INTERRUPTED);
        };
        progress.passed += count as usize * samples;
        modes.push(TaskMode::of(&graded_questions, ungraded.0, (temperature, samples), begin.elapsed().as_secs_f64()));
        if ungraded.0 > 0 {
            progress.line.print_line(&format!(
                "note: {} of {} without a reward, not counted, since the grader failed twice: {}",
                ungraded.0,
                counted((count as usize * samples) as u64, "answer"),
                ungraded.1
            ));
        }
    }
    progress.line.end();
    if args.json {
        let (greedy, sampled) = (&modes[0], modes.get(1));
        output::json_line(&serde_json::json!({
            "task": task.name(), "questions": count, "max_completion_length": most, "seed": own.seed,
            "greedy": greedy, "sampled": sampled,
        }))?;
    } else {
        show(task.name(), args.task.task, most, &modes)?;
    }
    Ok(0)
}

fn check(args: &Args) -> anyhow::Result<()> {
    ensure!(args.count > 0, "--count 0: must be at least 1");
    Sampling { temperature: args.temperature, ..Sampling::default() }.check("--")?;
    ensure!(args.max_completion_length != Some(0), "--max-completion-length 0: must be at least 1");
    Ok(())
}

/// The held-out questions: generated, or the rows of --data.
fn questions(args: &super::Args, tokenizer: &Tokenizer) -> anyhow::Result<Box<dyn Task>> {
    ensure!(args.data.len() <= 1, "--data: --task reads one file of questions; name one");
    let data = DataSettings { val_data: args.data.first().cloned(), ..DataSettings::default() };
    let settings = TaskSettings { eval_questions: args.task_eval.count, ..args.task.clone() };
    let mut notices = Notices::new();
    let now = crate::vfs::unix_time() as i64;
    let task = tasks::open(&RealFs, &settings, &data, args.task_eval.seed, Some(tokenizer), now, &mut notices)?;
    notices.take().iter().for_each(|n| output::note(&format!("note: {n}")));
    Ok(task)
}

impl TaskMode {
    fn of(graded_questions: &[GradedQuestion], ungraded: u64, (temperature, samples): (f64, usize), eval_seconds: f64) -> Self {
        let (all, levels) = reports(graded_questions);
        let tokens: usize = graded_questions.iter().flat_map(|e| &e.answers).map(|a| a.tokens).sum();
        let right = |e: &GradedQuestion| e.answers.iter().filter(|a| a.grade.correct).count() as f64;
        let if_graded = |e: &GradedQuestion, value: f64| (!e.answers.is_empty()).then_some(value);
        let per_question = graded_questions.iter().map(|e| if_graded(e, right(e) / e.answers.len() as f64)).collect();
        let any_right = graded_questions.iter().map(|e| if_graded(e, f64::from(u8::from(right(e) > 0.0)))).collect();
        let tokens_per_second = tokens as f64 / eval_seconds;
        Self { temperature, samples, ungraded, all, levels, per_question, any_right, eval_seconds, tokens_per_second }
    }
}

/// A table with one line per mode and level.
fn show(name: &str, kind: TaskKind, most: usize, modes: &[TaskMode]) -> anyhow::Result<()> {
    let seconds = modes.iter().map(|s| s.eval_seconds).sum();
    output::line(&format!(
        "{name}: {} held-out questions, answers of at most {most} tokens, in {}",
        output::count(modes[0].all.questions),
        output::duration(seconds)
    ))?;
    let level = match kind {
        TaskKind::Kk => "people",
        TaskKind::Math => "difficulty",
        TaskKind::Custom => "level",
    };
    let head = [level, "answers", "right", "95 % interval", "reward", "format", "tokens", "cut off"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    // The row before which each mode is named.
    let mut ways = Vec::new();
    for s in modes {
        let how = if s.temperature == 0.0 { "greedy".to_owned() } else { format!("temperature {}", s.temperature) };
        ways.push((rows.len(), how));
        let levels = s.levels.iter().filter(|_| s.levels.len() > 1).map(|(level, report)| (level.to_string(), report));
        let alone = s.levels.keys().next().filter(|_| s.levels.len() == 1);
        let all = alone.map_or("all".to_owned(), u32::to_string);
        rows.extend(levels.chain([(all, &s.all)]).map(|(level, report)| row(level, report)));
    }
    for (at, line) in output::aligned(&rows, |_| true).iter().enumerate() {
        if let Some((_, how)) = ways.iter().find(|(first, _)| *first == at) {
            output::line(how)?;
        }
        output::line(line)?;
    }
    for s in modes.iter().filter(|s| s.samples > 1) {
        let mut rows = vec![vec!["pass@k".to_owned(), level.to_owned()]];
        rows[0].extend(s.all.pass_at.keys().map(usize::to_string));
        let levels = s.levels.iter().filter(|_| s.levels.len() > 1).map(|(level, report)| (level.to_string(), report));
        for (level, report) in levels.chain([("all".to_owned(), &s.all)]) {
            rows.push([String::new(), level].into_iter().chain(report.pass_at.values().map(|share| percent(*share))).collect());
        }
        output::line("")?;
        output::aligned(&rows, |_| true).iter().try_for_each(|line| output::line(line))?;
    }
    Ok(())
}

fn row(level: String, report: &TaskScores) -> Vec<String> {
    let score = &report.score;
    let [low, high] = score.interval.map(|x| 100.0 * x);
    vec![
        level,
        score.count.to_string(),
        percent(score.accuracy),
        format!("{low:.1} to {high:.1}"),
        or_dash(score.reward, format!("{:.3}", score.reward)),
        report.format.map_or("-".to_owned(), percent),
        or_dash(score.mean_length, format!("{:.1}", score.mean_length)),
        percent(score.clipped_ratio),
    ]
}

fn percent(share: f64) -> String {
    crate::number_format::percent(share, 1)
}

/// A number as text, or a dash: no answers have no mean.
fn or_dash(number: f64, text: String) -> String {
    if number.is_finite() { text } else { "-".to_owned() }
}

/// Progress and estimated time.
struct EvaluationProgress {
    all: usize,
    /// Answers of earlier modes.
    passed: usize,
    begin: Instant,
    line: output::ProgressLine,
}

impl EvaluationProgress {
    fn new(all: usize) -> Self {
        Self { all, passed: 0, begin: Instant::now(), line: output::ProgressLine::after(output::LONG_LINE_SECONDS) }
    }

    /// Report the finished answers of this mode. Returns false when interrupted.
    fn show(&mut self, done: usize) -> bool {
        let (done, all, seconds) = (self.passed + done, self.all, self.begin.elapsed().as_secs_f64());
        self.line.show(|| {
            // Short answers end first: no estimate before a tenth is finished.
            let left = match 10 * done >= all {
                true => format!(", about {} left", output::duration(seconds * (all - done) as f64 / done as f64)),
                false => String::new(),
            };
            format!("{done} of {all} answers in {}{left}", output::duration(seconds))
        });
        !session::control::Control::interrupted()
    }
}
