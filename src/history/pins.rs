//! What happened to a run, as marks on the axis of every chart.

use crate::event::Event;

/// What a mark stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinKind {
    /// The run began, or went on after a stop.
    Start,
    /// A checkpoint was saved.
    Save,
    /// A merge was written.
    Merge,
    /// The run went back to good weights.
    Rescue,
    /// A live setting was changed.
    LiveSettings,
    /// The run was paused.
    Pause,
    /// Something that the user should know.
    Warning,
    /// The run ended.
    End,
}

/// A mark on the axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Pin {
    /// Updates made.
    pub step: u64,
    /// The row of the run's clock.
    pub row: u32,
    /// What it stands for.
    pub kind: PinKind,
    /// One line.
    pub text: String,
}

/// The mark of an event, if it has one: the step, where the event says it, its kind and its line.
pub(super) fn pin(event: &Event) -> Option<(Option<u64>, PinKind, String)> {
    Some(match event {
        Event::Started(s) if s.step == 0 => (Some(0), PinKind::Start, "began".into()),
        Event::Started(s) => (Some(s.step), PinKind::Start, format!("went on from step {}", s.step)),
        Event::Checkpoint(c) => (Some(c.step), PinKind::Save, format!("saved step {}", c.step)),
        Event::Merged(m) if m.path.is_some() => {
            (Some(m.step), PinKind::Merge, format!("merged {} checkpoints, {}", m.steps.len(), m.method))
        }
        Event::Rescue(r) => (Some(r.step), PinKind::Rescue, format!("{}: back to step {} ({})", r.cause, r.to_step, r.method)),
        Event::HyperChanged { step, name, before, after } => {
            let name = setting_in_words(name);
            (Some(*step), PinKind::LiveSettings, format!("{name} {before} -> {after}, from step {} on", step + 1))
        }
        Event::Paused { step } => (Some(*step), PinKind::Pause, "paused".into()),
        Event::Warning { text } => (None, PinKind::Warning, text.clone()),
        Event::Finished(f) => (Some(f.step), PinKind::End, f.reason.clone()),
        Event::Failed { text } => (None, PinKind::End, format!("failed: {text}")),
        _ => return None,
    })
}

/// A live setting as people call it.
fn setting_in_words(name: &str) -> &str {
    match name {
        "learning_rate_scale" => "learning rate ×",
        "max_grad_norm" => "gradients clipped at",
        "reweight_alpha" => "reweighting alpha",
        "lopti_eta" => "Lopti eta",
        other => other,
    }
}
