//! Completions of GRPO, those of one prompt side by side.

use crate::app::draw::{Part, ScoredTokens, StepPick, TokenColor, TokenText, arrow, card, key_to, printable, stat, tiles};
use crate::app::format::number;
use crate::app::loader::{Loaded, Loader};
use crate::app::panels::shared;
use crate::app::state::{Action, OpenRun};
use crate::app::theme;
use crate::event::Completion;
use crate::history::{SampleLog, SampleStep};
use eframe::egui::{Context, Id, RichText, Ui};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two reads of the file.
const PAUSE: Duration = Duration::from_millis(500);
/// Characters of a question, an answer, a reason.
const QUESTION: usize = 2_000;
/// Answers side by side.
const MOST: usize = 64;

/// Filter of the answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Which {
    #[default]
    All,
    Right,
    Wrong,
}

impl Which {
    fn holds(self, c: &Completion) -> bool {
        match self {
            Self::All => true,
            Self::Right => c.correct,
            Self::Wrong => !c.correct,
        }
    }
}

/// A step's completions.
#[derive(Debug)]
struct Completions {
    completions: Vec<Completion>,
    /// Completions of each question.
    groups: Vec<Vec<usize>>,
    /// Greatest entropy and |advantage|.
    most: [f64; 2],
}

/// A step, and how many of its completions have been written.
type Key = (u64, usize);

/// See the module.
#[derive(Debug, Default)]
pub struct Rollouts {
    of: PathBuf,
    looked: Option<Instant>,
    follower: Loader<Result<Option<SampleLog>, String>>,
    step: StepPick,
    loaded: Loaded<Key, Arc<Result<Completions, String>>>,
    /// The source of the laid out texts.
    drawn: Option<Key>,
    colouring: TokenColor,
    which: Which,
    group: usize,
    texts: HashMap<usize, TokenText>,
    trouble: Option<String>,
}

impl Rollouts {
    /// Follow the run's file, which is read by a thread now and then.
    pub fn follow(&mut self, ctx: &Context, run: &mut OpenRun) {
        if self.of != run.files.path {
            *self = Self { of: run.files.path.clone(), colouring: self.colouring, which: self.which, ..Self::default() };
        }
        if let Some(found) = self.follower.take() {
            self.trouble = found.as_ref().err().cloned();
            if let Ok(Some(log)) = found {
                run.files.completions = log;
            }
        }
        if !self.follower.is_busy() && self.looked.is_none_or(|at| at.elapsed() >= PAUSE) {
            self.looked = Some(Instant::now());
            let (mut log, had_trouble) = (run.files.completions.clone(), self.trouble.is_some());
            self.follower.start(ctx, move || match log.follow() {
                Ok(true) => Some(Ok(Some(log))),
                Ok(false) => had_trouble.then_some(Ok(None)),
                Err(error) => Some(Err(format!("{error:#}"))),
            });
        }
    }

    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, run: &OpenRun, actions: &mut Vec<Action>) {
        if let Some(trouble) = &self.trouble {
            ui.colored_label(theme::error_color(ui.visuals()), trouble);
        }
        let steps = run.files.completions.steps();
        if steps.is_empty() {
            return none_ui(ui, run, actions);
        }
        let entry = self.step.ui(ui, steps.len(), |i| steps[i].step);
        let (log, step) = (run.files.completions.clone(), steps[entry].clone());
        let read = move |_: &Key| Arc::new(completions(&log, &step).map_err(|error| format!("{error:#}")));
        let Some((key, loaded)) = self.loaded.get(ui.ctx(), &(steps[entry].step, steps[entry].count), read) else {
            ui.spinner();
            return;
        };
        let (key, loaded) = (*key, loaded.clone());
        if self.drawn.replace(key) != Some(key) {
            self.texts.clear();
        }
        match loaded.as_ref() {
            Ok(loaded) => self.show(ui, loaded),
            Err(why) => {
                ui.colored_label(theme::error_color(ui.visuals()), why);
            }
        }
    }

    /// Filter of the answers.
    fn which_ui(&mut self, ui: &mut Ui) {
        ui.label("answers");
        ui.selectable_value(&mut self.which, Which::All, "all");
        ui.selectable_value(&mut self.which, Which::Right, "right");
        ui.selectable_value(&mut self.which, Which::Wrong, "wrong");
    }

    fn show(&mut self, ui: &mut Ui, loaded: &Completions) {
        // A choice is not divided into two lines.
        let is_narrow = ui.available_width() < 600.0;
        ui.horizontal_wrapped(|ui| {
            ui.label("colour");
            ui.selectable_value(&mut self.colouring, TokenColor::Probability, "probability");
            ui.selectable_value(&mut self.colouring, TokenColor::Entropy, "entropy");
            ui.selectable_value(&mut self.colouring, TokenColor::Advantage, "advantage");
            ui.selectable_value(&mut self.colouring, TokenColor::Plain, "none");
            if !is_narrow {
                ui.separator();
                self.which_ui(ui);
            }
        });
        if is_narrow {
            ui.horizontal(|ui| self.which_ui(ui));
        }
        let which = self.which;
        let kept = |group: &&Vec<usize>| group.iter().any(|&i| which.holds(&loaded.completions[i]));
        let groups: Vec<&Vec<usize>> = loaded.groups.iter().filter(kept).collect();
        if groups.is_empty() {
            return shared::empty(ui, "No such answer", "No answer of this step is of that kind; choose all, or another step.");
        }
        self.group = self.group.min(groups.len() - 1);
        ui.horizontal_wrapped(|ui| {
            ui.label(format!("question {} of {}", self.group + 1, groups.len()));
            if arrow(ui, "<", "The question before", self.group > 0) {
                self.group -= 1;
            }
            if arrow(ui, ">", "The next question", self.group + 1 < groups.len()) {
                self.group += 1;
            }
            key_to(ui, self.colouring, loaded.most);
        });
        self.answers(ui, loaded, groups[self.group.min(groups.len() - 1)]);
    }

    fn answers(&mut self, ui: &mut Ui, loaded: &Completions, group: &[usize]) {
        let Some(first) = group.first().map(|i| &loaded.completions[*i]) else { return };
        card(ui, "Question", "What was asked, and the right answer.", |ui| {
            ui.label(printable(&first.prompt, QUESTION, false));
            if !first.answer.is_empty() {
                ui.label(
                    RichText::new(format!("right answer: {}", printable(&first.answer, QUESTION, false)))
                        .color(theme::success_color(ui.visuals())),
                );
            }
        });
        ui.add_space(4.0);
        let shown: Vec<usize> = group.iter().copied().filter(|i| self.which.holds(&loaded.completions[*i])).collect();
        // Each answer draws with what it remembers; only the first ones are shown.
        let mut texts: Vec<(usize, TokenText)> =
            shown.iter().take(MOST).map(|i| (*i, self.texts.remove(i).unwrap_or_default())).collect();
        let (of, colouring) = (&self.of, self.colouring);
        let parts =
            texts.iter_mut().map(|(i, text)| -> Part<'_> { Box::new(move |ui| answer(ui, loaded, *i, text, (of, colouring))) });
        tiles(ui, 300.0, parts.collect());
        self.texts.extend(texts);
        if shown.len() > MOST {
            ui.weak(format!("{} more answers are not shown.", shown.len() - MOST));
        }
    }
}

/// Where a run has no rollouts: why, and how to get some.
fn none_ui(ui: &mut Ui, run: &OpenRun, actions: &mut Vec<Action>) {
    if run.files.history.stage() == "grpo" {
        let what = "A run of GRPO keeps the completions of every tenth step, unless it was started otherwise. The first ones come with step 1.";
        shared::empty_with(ui, "No rollouts yet", what, |ui| {
            let words = "New run like this one that keeps its completions";
            shared::another_run(ui, run, words, &[("rollout.log_completions", "10")], actions);
        });
        return;
    }
    let what = "Rollouts belong to GRPO. What this run generated is under Generated text.";
    shared::empty_with(ui, "No rollouts", what, |ui| {
        if !run.files.history.checkpoints.is_empty() {
            let init = vec![("start.init".to_owned(), run.files.path.display().to_string())];
            shared::action_buttons(ui, [("Train it with GRPO", Action::NewRun("grpo".into(), init))], actions);
        }
    });
}

/// Read a step's completions.
fn completions(log: &SampleLog, step: &SampleStep) -> anyhow::Result<Completions> {
    let completions = log.read(step)?;
    let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    completions.iter().enumerate().for_each(|(i, c)| groups.entry(c.group).or_default().push(i));
    let greatest = |list: &dyn Fn(&Completion) -> &Vec<f32>| {
        let all = completions.iter().flat_map(|c| list(c).iter().copied());
        all.filter(|x| x.is_finite()).fold(0.0, |m, x| f64::from(x.abs()).max(m))
    };
    let most = [greatest(&|c| &c.entropy), greatest(&|c| &c.advantages)];
    Ok(Completions { groups: groups.into_values().collect(), most, completions })
}

/// One answer.
fn answer(ui: &mut Ui, loaded: &Completions, i: usize, text: &mut TokenText, (run, colouring): (&Path, TokenColor)) {
    let c = &loaded.completions[i];
    card(ui, &format!("Answer {}", i + 1), "", |ui| {
        ui.horizontal_wrapped(|ui| {
            let (word, color) = match c.correct {
                true => ("right", theme::success_color(ui.visuals())),
                false => ("wrong", theme::error_color(ui.visuals())),
            };
            ui.label(RichText::new(word).strong().color(color));
            stat(ui, "reward", &number(c.reward));
            c.rewards.iter().take(8).for_each(|(name, value)| stat(ui, &printable(name, 24, false), &number(*value)));
            stat(ui, "tokens", &c.tokens.len().max(c.pieces.len()).to_string());
            if c.truncated {
                ui.label(RichText::new("cut at the limit").color(theme::error_color(ui.visuals())));
            }
        });
        if !c.reason.is_empty() {
            ui.label(RichText::new(printable(&c.reason, 400, false)).weak());
        }
        let pieces = if c.pieces.is_empty() { std::slice::from_ref(&c.text) } else { c.pieces.as_slice() };
        let of =
            ScoredTokens { pieces, logprobs: &c.logprobs, entropy: &c.entropy, advantages: &c.advantages, most: loaded.most };
        let id = Id::unique(("completion", run, c.step, i));
        text.ui(ui, id, &of, colouring);
    });
}
