//! Completions of reinforcement, the answers to one question side by side.

use crate::app::draw::{Part, ScoredTokens, StepPick, TokenColor, TokenText, arrow, card, key_to, printable, short, stat, tiles};
use crate::app::state::OpenRun;
use crate::app::theme;
use crate::event::Completion;
use crate::history::SampleStep;
use eframe::egui::{Id, RichText, Ui};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks at the file.
const PAUSE: Duration = Duration::from_millis(500);
/// Characters of a question, an answer, a reason.
const QUESTION: usize = 2_000;
/// Answers side by side.
const MOST: usize = 64;

/// Which answers are shown.
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
struct Loaded {
    step: SampleStep,
    completions: Vec<Completion>,
    /// Completions of each question.
    groups: Vec<Vec<usize>>,
    /// Greatest entropy and |advantage|.
    most: [f64; 2],
}

/// See the module.
#[derive(Debug, Default)]
pub struct Rollouts {
    of: PathBuf,
    looked: Option<Instant>,
    step: StepPick,
    loaded: Option<Result<Loaded, (SampleStep, String)>>,
    colouring: TokenColor,
    which: Which,
    group: usize,
    texts: HashMap<usize, TokenText>,
    trouble: Option<String>,
}

impl Rollouts {
    /// Read what is new in the run's file, now and then.
    pub fn follow(&mut self, run: &mut OpenRun) {
        if self.of != run.files.path {
            *self = Self { of: run.files.path.clone(), colouring: self.colouring, which: self.which, ..Self::default() };
        }
        if self.looked.is_none_or(|at| at.elapsed() >= PAUSE) {
            self.looked = Some(Instant::now());
            self.trouble = run.files.completions.follow().err().map(|e| format!("{e:#}"));
        }
    }

    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, run: &OpenRun) {
        if let Some(trouble) = &self.trouble {
            ui.colored_label(theme::bad(ui.visuals()), trouble);
        }
        let steps = run.files.completions.steps();
        if steps.is_empty() {
            let what = match run.files.history.stage() {
                "grpo" => {
                    "A run of GRPO keeps the rollouts of every tenth step, unless its setting \"log completions\" says otherwise. The first ones come with step 1 or later."
                }
                _ => "Rollouts belong to reinforcement (GRPO). What this run generated is under Generated text.",
            };
            return super::super::empty(ui, "No rollouts", what);
        }
        let entry = self.step.ui(ui, steps.len(), |i| steps[i].step);
        self.load(run, &steps[entry]);
        let loaded = match self.loaded.take() {
            Some(Ok(loaded)) => loaded,
            failed => {
                if let Some(Err((_, why))) = &failed {
                    ui.colored_label(theme::bad(ui.visuals()), why);
                }
                self.loaded = failed;
                return;
            }
        };
        self.show(ui, &loaded);
        self.loaded = Some(Ok(loaded));
    }

    fn load(&mut self, run: &OpenRun, step: &SampleStep) {
        let of = |loaded: &Result<Loaded, (SampleStep, String)>| match loaded {
            Ok(loaded) => loaded.step == *step,
            Err((failed, _)) => failed == step,
        };
        if self.loaded.as_ref().is_some_and(of) {
            return;
        }
        self.texts.clear();
        self.loaded = Some(match run.files.completions.read(step) {
            Err(e) => Err((step.clone(), format!("{e:#}"))),
            Ok(completions) => {
                let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
                completions.iter().enumerate().for_each(|(i, c)| groups.entry(c.group).or_default().push(i));
                let greatest = |list: &dyn Fn(&Completion) -> &Vec<f32>| {
                    let all = completions.iter().flat_map(|c| list(c).iter().copied());
                    all.filter(|x| x.is_finite()).fold(0.0, |m, x| f64::from(x.abs()).max(m))
                };
                let most = [greatest(&|c| &c.entropy), greatest(&|c| &c.advantages)];
                Ok(Loaded { step: step.clone(), groups: groups.into_values().collect(), most, completions })
            }
        });
    }

    fn show(&mut self, ui: &mut Ui, loaded: &Loaded) {
        ui.horizontal_wrapped(|ui| {
            ui.label("colour");
            ui.selectable_value(&mut self.colouring, TokenColor::Probability, "probability");
            ui.selectable_value(&mut self.colouring, TokenColor::Entropy, "entropy");
            ui.selectable_value(&mut self.colouring, TokenColor::Advantage, "advantage");
            ui.selectable_value(&mut self.colouring, TokenColor::Plain, "none");
            ui.separator();
            ui.label("answers");
            ui.selectable_value(&mut self.which, Which::All, "all");
            ui.selectable_value(&mut self.which, Which::Right, "right");
            ui.selectable_value(&mut self.which, Which::Wrong, "wrong");
        });
        let which = self.which;
        let kept = |group: &&Vec<usize>| group.iter().any(|&i| which.holds(&loaded.completions[i]));
        let groups: Vec<&Vec<usize>> = loaded.groups.iter().filter(kept).collect();
        if groups.is_empty() {
            return super::super::empty(
                ui,
                "No such answer",
                "No answer of this step is of that kind; choose all, or another step.",
            );
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

    fn answers(&mut self, ui: &mut Ui, loaded: &Loaded, group: &[usize]) {
        let Some(first) = group.first().map(|i| &loaded.completions[*i]) else { return };
        card(ui, "Question", "What was asked, and the right answer.", |ui| {
            ui.label(printable(&first.prompt, QUESTION, false));
            if !first.answer.is_empty() {
                ui.label(
                    RichText::new(format!("right answer: {}", printable(&first.answer, QUESTION, false)))
                        .color(theme::good(ui.visuals())),
                );
            }
        });
        ui.add_space(4.0);
        let shown: Vec<usize> = group.iter().copied().filter(|i| self.which.holds(&loaded.completions[*i])).collect();
        // Each answer draws with what it remembers; a wall of them is cut.
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

/// One answer.
fn answer(ui: &mut Ui, loaded: &Loaded, i: usize, text: &mut TokenText, (run, colouring): (&Path, TokenColor)) {
    let c = &loaded.completions[i];
    card(ui, &format!("Answer {}", i + 1), "", |ui| {
        ui.horizontal_wrapped(|ui| {
            let (word, color) = match c.correct {
                true => ("right", theme::good(ui.visuals())),
                false => ("wrong", theme::bad(ui.visuals())),
            };
            ui.label(RichText::new(word).strong().color(color));
            stat(ui, "reward", &short(c.reward));
            c.rewards.iter().take(8).for_each(|(name, value)| stat(ui, &printable(name, 24, false), &short(*value)));
            stat(ui, "tokens", &c.tokens.len().max(c.pieces.len()).to_string());
            if c.truncated {
                ui.label(RichText::new("cut at the limit").color(theme::bad(ui.visuals())));
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
